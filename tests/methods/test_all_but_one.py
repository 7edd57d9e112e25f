"""All but one: the guidance term and the pinned prediction, at points of the original's trajectories."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import apart, said

from lethe.core.seeds import derive
from lethe.methods.diffusion.all_but_one import surgical_loss


def test_golden_loss() -> None:
    five, two, one, three = (torch.tensor([[value]]) for value in (5.0, 2.0, 1.0, 3.0))
    assert [float(surgical_loss(five, two, one, three, 10.0, frozen)) for frozen in (False, True)] == [14.0, 11.0]


@pytest.mark.parametrize(("inner", "anchor"), [("trained", ""), ("frozen", "square")])
def test_two_steps_by_hand(inner: str, anchor: str) -> None:
    task, eta, lamb = byhand.diffusion(), 0.4, 0.6
    prompts = task.prompts["forget"]
    text, empty = task.text(task.tokens(prompts)), task.text(task.tokens(["", ""]))
    other = task.text(task.tokens([prompt.replace("disk", "square") for prompt in prompts]))
    rows = []
    with torch.no_grad():
        for t, x in task.denoise(task.original, text, derive(0, "all_but_one"), 2, 1.5):
            if t >= 0:
                free = said(task.original, x, t, empty)
                aim = said(task.original, x, t, other) - free if anchor else eta * (free - said(task.original, x, t, text))
                rows.append((x, t, free, aim))

    def objective(m: byhand.Any) -> torch.Tensor:
        total = torch.zeros(())
        for x, t, free, aim in rows:
            now = said(m, x, t, empty)
            total = total + apart(said(m, x, t, text) - (free if inner == "frozen" else now), aim) + lamb * apart(now, free)
        return total / len(rows)

    wanted = byhand.adam(task.original, [objective, objective], lr=0.01, only="attn2")
    found = byhand.run("all_but_one", task, anchor=anchor, eta=eta, lamb=lamb, inner=inner, lr=0.01, steps=2, batch_size=4,
                       trajectories=2, sampler_steps=2, start_guidance=1.5)
    byhand.assert_same(task, found, wanted, adam=True)

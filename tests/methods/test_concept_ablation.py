"""Concept ablation: pictures of the anchor, whose prompts teach those of the concept. Pictures and sampler are the task's own."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import apart, said

from lethe.core.seeds import derive
from lethe.core.split import Split


@pytest.mark.parametrize(("form", "teacher", "anchor"), [
    ("model", "current", ""), ("model", "frozen", "square"), ("noise", "current", "square")])
def test_two_steps_by_hand(form: str, teacher: str, anchor: str) -> None:
    task = byhand.diffusion()
    assert task.prompts["forget"] == ["a red disk", "a green disk"]
    named = [task.prompts["forget"][i % 2] for i in range(5)]
    meant = [text.replace("disk", anchor).strip() for text in named]
    text, other = (task.text(task.tokens(some)) for some in (named, meant))
    pictures = Split({"image": task.draw_from(task.original, other, derive(0, "concept_ablation"))}, "pictures")

    def objective(step: int) -> byhand.Objective:
        rows, x, t, noise = byhand.noised(task, pictures, "ablate", step)
        own, y, s, own_noise = byhand.noised(task, pictures, "anchor", step)

        def loss(m: byhand.Any) -> torch.Tensor:
            with torch.no_grad():
                goal = said(m if teacher == "current" else task.original, x, t, other[rows])
            kept = apart(said(m, y, s, other[own]), own_noise)
            return apart(said(m, x, t, text[rows]), noise if form == "noise" else goal) + 0.3 * kept
        return loss

    found = byhand.run("concept_ablation", task, form=form, teacher=teacher, anchor=anchor, retain=0.3, images=5, steps=2,
                       lr=0.01, batch_size=8, variant="x")
    wanted = byhand.adam(task.original, [objective(0), objective(1)], lr=0.01, only="attn2")
    byhand.assert_same(task, found, wanted, atol=5e-5)


def test_only_keys_and_values_move() -> None:
    task = byhand.diffusion()
    found = byhand.run("concept_ablation", task, images=4, steps=1, lr=0.01)
    moved = {name for name, p in found.named_parameters() if not torch.equal(p, task.original.get_parameter(name))}
    assert moved and all("attn2.to_k" in name or "attn2.to_v" in name for name in moved)

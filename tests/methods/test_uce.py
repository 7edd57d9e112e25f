"""UCE: the algebra of the closed form, and which text states enter it."""

from __future__ import annotations

import math
from typing import Any

import byhand
import pytest
import torch
from tiny import TASKS

from lethe.api import forget
from lethe.errors import RequestError
from lethe.methods.diffusion.uce import UCE, uce_map
from lethe.train.loop import Loop
from lethe.train.modifiers.where.lora import adapted_layers
from lethe.train.projections import Projections


def states(seed: int, n: int = 3, d: int = 8) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def test_golden_number() -> None:
    c, g, k = (torch.tensor([[value]]) for value in (1.0, 2.0, 3.0))
    assert math.isclose(float(uce_map(c, g, k, 1.0, 1.0, 2.0)), (2 + 2 + 9) / (2 + 1 + 9))


def test_it_minimises_the_objective() -> None:
    c, g, k, old = states(0), states(1), states(2), states(3, 5)
    a, b, lamb = 0.7, 1.3, 0.4
    new = (old @ uce_map(c, g, k, a, b, lamb)).requires_grad_(True)
    objective = (a * (c @ new.T - g @ old.T).square().sum() + b * (k @ (new - old).T).square().sum()
                 + lamb * (new - old).square().sum())
    objective.backward()
    assert new.grad is not None and float(new.grad.abs().max()) < 1e-10


def test_limits() -> None:
    c, g, k, old = states(0, 1), states(1, 1), states(2), states(3, 5)
    assert torch.allclose(uce_map(c, g, k, 0.0, 0.0, 0.5), torch.eye(8).double())
    new = old @ uce_map(c, g, k[:0], 1.0, 0.0, 1e-9)
    assert torch.allclose(new @ c[0], old @ g[0], atol=1e-6)
    residuals = [float((k @ (old @ uce_map(c, g, k, 1.0, b, 0.5) - old).T).norm()) for b in (0.0, 0.1, 1.0, 10.0, 100.0)]
    assert residuals == sorted(residuals, reverse=True) and residuals[-1] < 0.1 * residuals[0]


def test_only_keys_and_values_move_and_no_pictures_are_needed() -> None:
    task = TASKS["diffusion"]()
    outcome = forget(task, UCE(), progress=False)
    before = dict(task.original.named_parameters())
    moved = {name for name, p in outcome.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {f"{name}.weight" for name in task.attention_projections(task.original)}
    assert outcome.cost.steps == 0
    same = forget(task, UCE(erase_scale=0.0, preserve_scale=0.0), progress=False)
    for name, p in same.model.named_parameters():
        assert torch.allclose(p, before[name], atol=1e-6)


@pytest.mark.parametrize("method", ["uce", "rece", "speed"])
def test_an_adapter_holds_an_edit_as_far_as_its_rank_goes(method: str) -> None:
    task = TASKS["diffusion"]()
    whole = dict(forget(task, method, progress=False, watchdog=False).model.named_parameters())

    def beside(rank: int) -> tuple[float, str]:
        """How far the adapters are from the edit, as a share of it, at most; and what is said of it."""
        where = {"where": {"name": "lora", "rank": rank, "alpha": 3.0}}
        outcome, far = forget(task, method, progress=False, watchdog=False, modifiers=where), []
        assert outcome.kind == "adapter"
        for name in adapted_layers(dict(outcome.model.named_parameters())):
            edit = whole[f"{name}.weight"].detach() - task.original.get_parameter(f"{name}.weight")
            layer: Any = outcome.model.get_submodule(name)
            far.append(float((layer.get_delta_weight("default").detach() - edit).norm() / edit.norm()))
        return max(far), outcome.notes[0]

    (enough, quiet), (little, told) = beside(32), beside(1)
    assert enough < 1e-5 and "beyond" not in quiet
    assert little > 0.01 and f"{100 * little:.1f} % is beyond its adapter" in told


def test_token_policies_pick_their_states() -> None:
    task = TASKS["diffusion"]()
    text = task.text(task.tokens(["a red disk", ""]))   # start a red disk end …; start end …
    edit = Projections.of(task, Loop(task))
    old, new = edit.states(["a red disk"], [""], "last_subject")
    assert torch.equal(old[0], text[0, 3]) and torch.equal(new[0], text[1, 0])
    old, new = edit.states(["a red disk"], [""], "eos")
    assert torch.equal(old[0], text[0, 4]) and torch.equal(new[0], text[1, 1])
    old, new = edit.states(["a red disk"], [""], "subject_to_end")
    assert torch.equal(old, text[0, 3:8]) and torch.equal(new, text[1, 0:5])
    assert len(edit.states(["a red disk"], [""], "all")[0]) == 8


def test_without_projections_it_says_so() -> None:
    with pytest.raises(RequestError, match="where=all"):
        forget(TASKS["diffusion"](), UCE(), progress=False, modifiers={"where": {"name": "names", "patterns": ["conv_in.*"]}})


def test_the_map_by_hand() -> None:
    """Every new projection is the minimiser row by row: the gradient of the objective vanishes there."""
    task, a, b, lamb = byhand.diffusion(), 0.7, 1.3, 0.4
    end = task.pipeline.tokenizer.eos_token_id

    def last(prompt: str) -> torch.Tensor:
        ids = task.tokens([prompt])
        place = [int(i) for i in ids[0]].index(end)
        return task.text(ids)[0, place - 1].double()

    c = torch.stack([last(p) for p in task.prompts["forget"]])
    g = torch.stack([last("a square")] * len(c))
    k = torch.stack([last(p) for p in task.prompts["keep"]])
    wanted = byhand.trainable(task.original)
    for name, p in wanted.named_parameters():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            old = p.detach().double()
            right = a * (old @ g.T) @ c + b * (old @ k.T) @ k + lamb * old
            p.data = (right @ torch.linalg.inv(a * c.T @ c + b * k.T @ k + lamb * torch.eye(c.shape[1]))).float()
    found = byhand.run("uce", task, guide="a square", erase_scale=a, preserve_scale=b, lamb=lamb)
    byhand.assert_same(task, found, wanted, atol=1e-5)

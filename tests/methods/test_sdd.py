"""SDD: the target moves with the weights and gets no gradient. Its first step is in test_mim_mu."""

from __future__ import annotations

import byhand
import torch
from tiny import TASKS

from lethe.api import forget
from lethe.methods.diffusion.mim_mu import MiMMU
from lethe.methods.diffusion.sdd import SDD, sdd_loss


def test_no_gradient_reaches_the_target() -> None:
    said, free = torch.ones(1, 2, requires_grad=True), torch.zeros(1, 2, requires_grad=True)
    sdd_loss(said, free).sum().backward()
    assert free.grad is None and said.grad is not None


def test_the_target_is_the_edited_models_own() -> None:
    """In the second step the frozen target of `mim_mu` and the moving one of SDD are no longer the same."""
    task = TASKS["diffusion"]()
    two = {"lr": 1e-2, "epochs": 1.0, "batch_size": 8}
    assert len(task.forget) == 16   # two steps
    a, b = (dict(forget(task, cfg, progress=False).model.named_parameters()) for cfg in (MiMMU(**two), SDD(**two)))
    moved = [name for name, p in b.items() if not torch.equal(p, task.original.get_parameter(name))]
    assert moved and all("attn2" in name for name in moved)
    assert max(float((a[name] - b[name]).detach().abs().max()) for name in moved) > 1e-4


def test_two_steps_by_hand() -> None:
    task = byhand.diffusion()
    aims = [byhand.draws_alike(task, step, lambda m: m) for step in range(2)]
    wanted = byhand.adam(task.original, aims, lr=0.01, only="attn2")
    byhand.assert_same(task, byhand.run("sdd", task, lr=0.01, epochs=2), wanted, atol=1e-5)

"""MiM-MU and SDD: one frozen target, one moving."""

from __future__ import annotations

import byhand
import torch
from tiny import TASKS

from lethe.api import forget
from lethe.core.seeds import generator
from lethe.core.split import Batch
from lethe.methods.diffusion.mim_mu import MiMMU, banded, drift, mim_loss, unconditional
from lethe.methods.diffusion.sdd import SDD, sdd_loss
from lethe.train.loop import Loop


def test_golden_numbers() -> None:
    said, free = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]])
    assert mim_loss(said, free).item() == sdd_loss(said, free).item() == (1 + 4) / 2


def test_the_band_limits_the_timesteps() -> None:
    batch = Batch({"t": torch.arange(1000)}, torch.arange(1000))
    inside = banded(batch, 0.25, 0.5, 1000).t
    assert int(inside.min()) == 250 and int(inside.max()) == 499
    assert banded(batch, 0.0, 1.0, 1000) is batch


def test_prompts_stop_mattering_for_the_concept() -> None:
    task = TASKS["diffusion"]()
    outcome = forget(task, MiMMU(lr=3e-3, epochs=4), progress=False)
    batch = task.draw(task.forget.batch(range(16)), generator(0, "look"), False)
    free = unconditional(task, task.original, batch)
    with torch.no_grad():
        before, after = (mim_loss(task.outputs(m, batch), free).mean() for m in (task.original, outcome.model))
    assert after < 0.7 * before
    moved = {name for name, p in outcome.model.named_parameters()
             if not torch.equal(p, dict(task.original.named_parameters())[name])}
    assert moved and all("attn2" in name for name in moved)


def test_drift_is_zero_at_the_original_and_noted_when_large() -> None:
    task = TASKS["diffusion"]()
    assert drift(task, task.original, task.original, Loop(task)) == 0
    assert "moved by" in forget(task, MiMMU(lr=3e-3, epochs=2, drift=0.0), progress=False).notes[0]


def test_mim_mu_sees_no_retained_data_and_both_start_alike() -> None:
    task = TASKS["diffusion"]()
    one = {"lr": 1e-3, "epochs": 0.5, "batch_size": 8}   # a single step: the targets are still equal
    a, b = (dict(forget(task, cfg, progress=False).model.named_parameters()) for cfg in (MiMMU(**one), SDD(**one)))
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


def test_two_steps_by_hand() -> None:
    """Times are drawn from the middle half of the noise schedule."""
    task = byhand.diffusion()
    aims = [byhand.draws_alike(task, step, lambda m: task.original, (0.25, 0.75)) for step in range(2)]
    wanted = byhand.adam(task.original, aims, lr=0.01, only="attn2")
    byhand.assert_same(task, byhand.run("mim_mu", task, lr=0.01, epochs=2, low=0.25, high=0.75), wanted, atol=1e-5)

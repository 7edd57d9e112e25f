"""DMM: the calibration by hand, its limits, and KLoM on digits beside fine-tuning, ascent, the untouched model and retraining."""

from __future__ import annotations

import math

import byhand
import numpy as np
import pytest
import torch
from running import as_users, run
from tiny import classification

from lethe.core.modules import evaluating
from lethe.core.seeds import generator
from lethe.core.task import Task
from lethe.maths.losses import margin
from lethe.methods.classification.dmm import GRID, calibrated
from lethe.models.classification.task import Classification


def test_calibration_golden_number() -> None:
    """before 0, 0 and shift −1, +1: at μ the loss of label 0 is log(1 + e^(2μ))."""
    before, shift, label = torch.zeros(1, 2), torch.tensor([[-1.0, 1.0]]), torch.tensor([0])
    found = calibrated(before, shift, label, math.log1p(math.exp(0.2)))
    assert 0.1 <= found < 0.1 * GRID[1] / GRID[0]
    assert calibrated(before, shift, label, 1e9) == GRID[-1]


def apart(task: Task, model: torch.nn.Module, name: str) -> float:
    """Mean distance of the logits to the original's."""
    batch = task.splits[name].batch(range(len(task.splits[name])))
    with evaluating(model), evaluating(task.original):
        return float((task.outputs(model, batch) - task.outputs(task.original, batch)).norm(dim=1).mean())


def test_without_a_multiplier_nothing_moves() -> None:
    task = classification()
    still, moved = run("dmm", task, multiplier=0.0).model, run("dmm", task, multiplier=0.1).model
    assert apart(task, still, "forget") < 1e-3 < 0.1 < apart(task, moved, "forget")
    assert apart(task, moved, "retain") < apart(task, moved, "forget")


def test_it_calibrates_on_holdout_and_works_without() -> None:
    task = classification()
    assert any(note.startswith("multiplier") for note in run("dmm", task, epochs=1).notes)
    bare = Classification(task.original, {"forget": task.forget, "retain": task.retain})
    assert not run("dmm", bare, epochs=1).notes


def gaussian_kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL of Gaussians per column, moments of the rows.  [k, n], [l, n] -> [n]"""
    var_p, var_q = p.var(0, ddof=1), q.var(0, ddof=1)
    return 0.5 * (np.log(var_q / var_p) + (var_p + (p.mean(0) - q.mean(0)) ** 2) / var_q - 1)


@pytest.mark.slow
def test_klom_on_digits() -> None:
    """Six originals and twice six retrained models; median Gaussian KLoM on 60 random examples to forget, 15 % wrong labels."""
    from evidence import digits

    from lethe.core.split import concat
    from lethe.data.select import where
    from lethe.pools.pool import train_pool

    task = digits(where(count=60), 0.15)
    whole = concat([task.forget, task.retain], "train")
    originals = train_pool(task, split_of=lambda k: whole, count=6, seed=21, strategy="vmap").models
    oracles = train_pool(task, count=12, seed=22, strategy="vmap").models

    def margins(models: list[torch.nn.Module], name: str) -> np.ndarray:
        batch = task.splits[name].batch(range(len(task.splits[name])))
        with torch.no_grad():
            return np.stack([margin(task.outputs(m.eval(), batch), batch.y).numpy() for m in models])

    def klom(models: list[torch.nn.Module], name: str) -> float:
        return float(np.median(gaussian_kl(margins(oracles[:6], name), margins(models, name))))

    made = {name: [as_users(name, task.replaced(m), seed=i).model for i, m in enumerate(originals)]
            for name in ("dmm", "finetune", "neggrad_plus")} | {"nothing": originals, "retrained": oracles[6:]}
    forget = {name: klom(models, "forget") for name, models in made.items()}
    assert forget["retrained"] < forget["dmm"] < 0.75 * min(forget[n] for n in ("finetune", "neggrad_plus", "nothing"))
    assert klom(made["dmm"], "retain") < 1.2 * klom(made["finetune"], "retain")
    assert (margins(made["dmm"], "holdout") > 0).mean() > (margins(oracles, "holdout") > 0).mean() - 0.02


def without_them(task: byhand.Classification, damping: float) -> dict[str, torch.Tensor]:
    """(H + λ)⁻¹ Σ_F ∇ℓ / |R|, layer by layer, from gradients of single examples; labels drawn from the original's answers."""
    model, rng = byhand.trainable(task.original), generator(0, "curvature")
    x = task.retain.columns["x"]
    drawn = torch.multinomial(byhand.soft(task.original(x)).detach(), 1, generator=rng)[:, 0]
    found: dict[str, torch.Tensor] = {}
    for layer in ("body", "head"):
        def rows(y: torch.Tensor, inputs: torch.Tensor, layer: str = layer) -> torch.Tensor:
            each = [byhand.gradient(model, lambda m, i=i: byhand.cross_entropy(m(inputs[i : i + 1]), y[i : i + 1]).sum())
                    for i in range(len(y))]
            return torch.stack([torch.cat([g[f"{layer}.weight"], g[f"{layer}.bias"][:, None]], 1) for g in each]).double()

        fisher = rows(drawn, x)
        entering = x if layer == "body" else task.original.features(x).detach()
        a = torch.cat([entering, torch.ones(12, 1)], 1).double()
        delta = fisher @ a[:, :, None] / (a**2).sum(1)[:, None, None]   # each gradient is delta aᵀ
        left = torch.linalg.eigh((delta @ delta.transpose(1, 2)).sum(0)).eigenvectors
        right = torch.linalg.eigh(a.T @ a).eigenvectors
        values = ((left.T @ fisher @ right) ** 2).mean(0)
        total = rows(task.forget.columns["y"], task.forget.columns["x"]).sum(0)
        solved = left @ ((left.T @ total @ right) / (values + damping * values.mean())) @ right.T / 12
        found |= {f"{layer}.weight": solved[:, :-1].float(), f"{layer}.bias": solved[:, -1].float()}
    return found


@pytest.mark.parametrize("multiplier", [0.7, None])
def test_three_steps_by_hand(multiplier: float | None) -> None:
    """The derivative along the step is taken by differences; nine of twelve retained examples are taught, at a falling rate."""
    task = byhand.known(byhand.classification(), 6)
    v = without_them(task, 0.5)

    def moved(x: torch.Tensor) -> torch.Tensor:
        double = byhand.trainable(task.original).double()
        for name, p in double.named_parameters():
            p.data += 1e-6 * v[name]
        return ((double(x.double()) - task.original.double()(x.double())) / 1e-6).detach().float()

    part = torch.randperm(12, generator=generator(0, "dmm", "sample"))[:9]
    x, kept, y = task.forget.columns["x"], task.retain.columns["x"][part], task.forget.columns["y"]
    shift, kept_shift = moved(x), moved(kept)
    task.original.float()
    mu, before, unseen = multiplier, task.original(x).detach(), task.granted({"holdout"}).holdout
    if mu is None:
        aim = float(byhand.nll(task.original, unseen))
        means = [float(byhand.cross_entropy(before + each * shift, y).mean()) for each in GRID]
        assert min(means) < aim < max(means)
        mu = GRID[min(i for i in range(len(GRID)) if means[i] >= aim)]
    goal, kept_goal = before + mu * shift, task.original(kept).detach() + mu * kept_shift

    def objective(m: byhand.Any) -> torch.Tensor:
        return ((m(x) - goal) ** 2).sum(1).mean() + ((m(kept) - kept_goal) ** 2).sum(1).mean()

    wanted = byhand.adam(task.original, [objective] * 3, lr=[0.03, 0.02, 0.01])
    found = byhand.run("dmm", task, multiplier=multiplier, damping=0.5, retain_multiplier=1.5, lr=0.03, epochs=3)
    byhand.assert_same(task, found, wanted, atol=2e-5)

"""Newton removal: the step, the bounds that must hold in every case, the budget, and what voids the certificate."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import byhand
import numpy as np
import pytest
import torch
from running import run
from torch import Tensor

from lethe.core.outcome import Outcome
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.data.select import Where, divide
from lethe.errors import RequestError
from lethe.maths.certified import removal_budget, spectral_norm, worst_residual
from lethe.methods.exact import newton
from lethe.models.classification.task import Classification
from lethe.models.zoo.mlp import MLP

RIDGE = 0.01


@cache
def three_or_eight() -> tuple[Tensor, Tensor]:
    """Digits 3 and 8 as [n, 65] with a constant, in the unit ball, and ±1."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = np.isin(digits.target, (3, 8))
    x = torch.from_numpy(digits.data[chosen])
    x = torch.cat([x, torch.full((len(x), 1), 16.0, dtype=x.dtype)], 1)
    return x / x.norm(dim=1).max(), torch.from_numpy(np.where(digits.target[chosen] == 3, 1.0, -1.0))


def noise(sigma: float, d: int = 65) -> Tensor:
    return sigma * torch.from_numpy(np.random.default_rng(0).standard_normal(d))


def test_slopes_are_derivatives() -> None:
    z = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1.0, -1, 1, -1, 1, -1, 1], dtype=torch.float64)
    for loss, value in (("logistic", torch.log1p(torch.exp(-y * z))), ("squared", (z - y) ** 2 / 2)):
        first, second = newton.slopes(z, y, loss)
        (made,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        assert torch.allclose(made, first) and torch.allclose(torch.autograd.grad(made.sum(), z)[0], second)


def test_the_step_is_exact_for_the_squared_loss() -> None:
    """Ridge regression: removal equals retraining with the same b to 1e-8, for one record and for fifty."""
    x, y = three_or_eight()
    b = noise(1.0)
    w = newton.fit(x, y, RIDGE, b, "squared")
    for k in (1, 50):
        left, bound = newton.removed(w, x[k:], y[k:], x[:k], y[:k], RIDGE, "squared", spectral_norm(x[k:].T @ x[k:]), 1.0)
        again = newton.fit(x[k:], y[k:], RIDGE, b, "squared")
        assert torch.dist(left, again) < 1e-8 and bound == 0


def test_residuals_of_200_removals_stay_below_both_bounds() -> None:
    """True residual ≤ data-dependent bound ≤ worst case, in every one; and the accumulated ones below the accumulated bound."""
    x, y = three_or_eight()
    b, gram = noise(1.0), x.T @ x
    w = newton.fit(x, y, RIDGE, b, "logistic")
    total = newton.gradient(w, x, y, RIDGE, b, "logistic").norm()
    assert total < 1e-9
    before = torch.zeros_like(w)
    for i in range(200):
        rest, labels = x[i + 1 :], y[i + 1 :]
        gram = gram - torch.outer(x[i], x[i])
        w, bound = newton.removed(w, rest, labels, x[i : i + 1], y[i : i + 1], RIDGE, "logistic", spectral_norm(gram),
                                  float(rest.norm(dim=1).max()))
        left = newton.gradient(w, rest, labels, RIDGE, b, "logistic")
        own = (left - before).norm()     # what this step added
        worst = worst_residual(0.25, 1.0, RIDGE, len(rest) + 1, 1.0, float(b.norm()))
        assert 0 < own <= bound <= worst
        total, before = total + bound, left
        assert left.norm() <= total


def test_one_step_lands_near_the_retrained_weights() -> None:
    """Much nearer than the weights from before, and within the ball that strong convexity gives."""
    x, y = three_or_eight()
    b = noise(1.0)
    w, again = newton.fit(x, y, RIDGE, b, "logistic"), newton.fit(x[20:], y[20:], RIDGE, b, "logistic")
    left, bound = newton.removed(w, x[20:], y[20:], x[:20], y[:20], RIDGE, "logistic", spectral_norm(x[20:].T @ x[20:]), 1.0)
    assert torch.dist(left, again) < 0.05 * torch.dist(w, again)
    residual = newton.gradient(left, x[20:], y[20:], RIDGE, b, "logistic").norm()
    assert torch.dist(left, again) <= residual / (RIDGE * len(x[20:])) and residual <= bound


# -- the method ----------------------------------------------------------------------------------------------------------------


@cache
def linear(hidden: tuple[int, ...] = ()) -> Classification:
    """A softmax classifier of the digits in the unit ball, made without training; 20 records are to be forgotten."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.from_numpy(digits.data).float()
    train = Split({"x": x / x.norm(dim=1).max(), "y": torch.from_numpy(digits.target)}, "train")
    forget, retain = divide(train, Where(count=20))
    torch.manual_seed(0)
    return Classification(MLP(64, hidden, 10), {"forget": forget, "retain": retain}, Recipe(), None)


@pytest.fixture
def key(tmp_path: Path) -> str:
    (tmp_path / "secret").write_bytes(bytes(range(32)))
    return str(tmp_path / "secret")


def accuracy(task: Classification, outcome: Outcome) -> float:
    with torch.no_grad():
        return float(task.observe(outcome.model, task.retain.batch(range(len(task.retain))))["score"].mean())


def test_a_linear_model_is_certified_and_still_good(key: str) -> None:
    outcome = run("newton", linear(), perturbation_key=key)
    said = outcome.guarantee
    assert (said["level"], said["epsilon"], said["delta"], said["removals"]) == ("certified", 1.0, 1e-4, 20)
    assert 0 < said["residual_bound"] <= said["budget"] == pytest.approx(removal_budget(3.0, 1.0, 1e-4))
    assert accuracy(linear(), outcome) > 0.8


@pytest.mark.parametrize(("hidden", "options", "words"), [
    ((32,), {}, "features come from 2 tensors"),
    ((), {"perturbation_key": ""}, "no secret"),
    ((), {"sigma": 1e-3}, "exceeds the budget"),
    ((), {"group": 20, "sigma": 0.02}, "after 0 of 20 removals"),
])
def test_what_voids_the_certificate_is_said(key: str, hidden: tuple[int, ...], options: dict[str, Any], words: str) -> None:
    outcome = run("newton", linear(hidden), **{"perturbation_key": key, **options})
    said = outcome.guarantee
    assert said["level"] == "none" and words in said["void"] and said["void"] in outcome.notes


def test_a_removed_class_and_public_features(key: str) -> None:
    assert run("newton", linear((32,)), perturbation_key=key, public_features=True).guarantee["level"] == "certified"


def test_the_squared_loss_equals_retraining_through_the_whole_method(key: str) -> None:
    """On F ∪ R with F removed, and on R alone: the same weights, the noise being the same."""
    task = linear()
    outcome = run("newton", task, loss="squared", perturbation_key=key, group=20)
    x = torch.cat([task.retain.columns["x"].double(), torch.ones(len(task.retain), 1).double()], 1)
    target = 2.0 * torch.nn.functional.one_hot(task.retain.columns["y"], 10).double() - 1
    from lethe.train.loop import Loop

    b = 3.0 * newton.perturbation(newton.Newton(perturbation_key=key), Loop(task), 10, 65)
    again = torch.stack([newton.fit(x, target[:, k], 0.01, b[k], "squared") for k in range(10)])
    assert torch.allclose(outcome.model.head.weight.double(), again[:, :-1], atol=1e-6)   # float32 weights
    assert outcome.guarantee["residual_bound"] < 1e-8


def test_the_scale_only_changes_the_unit(key: str) -> None:
    """Inputs ten times as long with scale 10: weights a tenth, the same bound, the same answers."""
    task = linear()
    parts = {n: Split({"x": 10 * s.columns["x"], "y": s.columns["y"]}, n, s.ids) for n, s in task.splits.items()}
    longer = Classification(task.original, parts, Recipe(), None)
    first, second = run("newton", task, perturbation_key=key), run("newton", longer, perturbation_key=key, scale=10.0)
    assert torch.allclose(first.model.head.weight, 10 * second.model.head.weight, atol=1e-5)
    assert second.guarantee["residual_bound"] == pytest.approx(first.guarantee["residual_bound"], rel=1e-4)
    assert run("newton", longer, perturbation_key=key).guarantee["level"] == "none"


def test_the_noise_needs_the_key(tmp_path: Path, key: str) -> None:
    from lethe.train.loop import Loop

    cfg = newton.Newton(perturbation_key=key)
    (tmp_path / "other").write_bytes(bytes(range(1, 33)))
    first, same, other = (newton.perturbation(replace(cfg, perturbation_key=str(path)), Loop(linear()), 10, 65)
                          for path in (key, key, tmp_path / "other"))
    assert torch.equal(first, same) and not torch.equal(first, other)
    with pytest.raises(RequestError, match="at least 32 bytes"):
        run("newton", linear(), perturbation_key=str(tmp_path / "none"))


def test_a_head_at_the_optimum_is_taken_as_it_is(key: str) -> None:
    task = linear()
    first = run("newton", task, perturbation_key=key)
    again = task.replaced(first.model, forget=task.forget.subset([0], "forget"))
    second = run("newton", again, perturbation_key=key)
    assert any("first trained" in note for note in first.notes)
    assert second.guarantee["level"] == "certified"


@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_training_and_removal_by_hand(loss: str) -> None:
    """The perturbed optimum on everything by plain Newton steps, then one step for every four and two that leave."""
    task, ridge, sigma, scale = byhand.classification(), 0.05, 0.4, 2.0
    rows = [task.original.features(task.splits[name].columns["x"]).detach().double() for name in ("forget", "retain")]
    x = torch.cat([torch.cat(rows) / scale, torch.ones(18, 1)], 1)   # the constant of the bias is not scaled
    labels = torch.cat([task.splits[name].columns["y"] for name in ("forget", "retain")])
    noise = sigma * torch.from_numpy(np.random.default_rng(derive(0, "newton")).standard_normal((3, 6)))
    wanted = byhand.trainable(task.original)

    def slope(w: torch.Tensor, a: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return a.T @ (a @ w - y if loss == "squared" else -y / (1 + torch.exp(y * (a @ w))))

    def curved(w: torch.Tensor, a: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        p = 1 / (1 + torch.exp(-(a @ w)))
        each = torch.ones(len(a)).double() if loss == "squared" else p * (1 - p)
        return a.T @ (each[:, None] * a) + ridge * len(a) * torch.eye(6)

    for k in range(3):
        y, w = 2.0 * (labels == k).double() - 1, torch.zeros(6).double()
        for _ in range(30):
            w = w - torch.linalg.inv(curved(w, x, y)) @ (slope(w, x, y) + ridge * 18 * w + noise[k])
        for first, last in ((0, 4), (4, 6)):
            gone, taken = x[first:last], y[first:last]
            w = w + torch.linalg.inv(curved(w, x[last:], y[last:])) @ (slope(w, gone, taken) + ridge * len(gone) * w)
        wanted.head.weight.data[k], wanted.head.bias.data[k] = (w[:5] / scale).float(), float(w[5])
    found = byhand.run("newton", task, loss=loss, ridge=ridge, sigma=sigma, scale=scale, group=4)
    byhand.assert_same(task, found, wanted, atol=1e-5)

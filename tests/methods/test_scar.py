"""SCAR: its statistics, its distance, and that it runs without retained or without forgotten data."""

from __future__ import annotations

import byhand
import numpy as np
import pytest
import torch
from running import run
from tiny import classification

import lethe
from lethe.core.modules import state_fingerprint
from lethe.core.seeds import generator
from lethe.core.task import Task
from lethe.errors import NeedsUnmet
from lethe.methods.classification.scar import Gaussians, correlation, mahalanobis, nearest, tukey
from lethe.models.classification.task import Classification

QUICK = {"count": 400, "lr": 5e-3, "epochs": 15}


def only(*names: str) -> Task:
    full = classification()
    return Classification(full.original, {name: full.splits[name] for name in names})


def score(task: Task, model: torch.nn.Module, name: str) -> float:
    split = classification().splits[name]
    return float(task.observe(model, split.batch(range(len(split))))["score"].mean())


def test_golden_power_keeps_signs_and_finite_slopes() -> None:
    h = torch.tensor([[4.0, 0.0, -9.0]], requires_grad=True)
    assert tukey(h).tolist() == [[2.0, 0.0, -3.0]]
    tukey(h).sum().backward()
    assert h.grad is not None and torch.isfinite(h.grad).all()


def test_golden_distance() -> None:
    # (1, 2) apart, C⁻¹ = diag(2, 3): 2·1 + 3·4
    found = mahalanobis(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), torch.diag(torch.tensor([2.0, 3.0]))[None])
    assert found.item() == 14.0


def test_correlation_has_ones_on_its_diagonal_and_shrinks_towards_the_mean_pair() -> None:
    rng = torch.Generator().manual_seed(0)
    base = torch.randn(500, 1, generator=rng)
    values = torch.cat([base + 0.1 * torch.randn(500, 1, generator=rng), base, torch.randn(500, 1, generator=rng)], 1)
    raw, shrunk = correlation(values, 1e-9), correlation(values, 3.0)
    torch.testing.assert_close(raw, torch.corrcoef(values.T.double()), atol=1e-6, rtol=0)
    torch.testing.assert_close(shrunk.diagonal(), torch.ones(3, dtype=torch.float64))
    assert shrunk[0, 1] < raw[0, 1] and torch.linalg.eigvalsh(shrunk).min() > 0


def test_fewer_examples_than_dimensions_still_have_an_inverse() -> None:
    assert torch.linalg.eigvalsh(correlation(torch.randn(3, 20), 3.0)).min() > 0
    torch.testing.assert_close(correlation(torch.ones(1, 4), 3.0), torch.eye(4, dtype=torch.float64))


def test_the_nearest_class_is_never_the_label_and_is_found_by_class_number() -> None:
    gaussians = Gaussians(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.eye(2).expand(2, 2, 2), torch.tensor([0, 7]))
    assert nearest(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 3]), gaussians).tolist() == [1, 0]


def test_without_retained_data_the_class_goes_and_the_rest_stays() -> None:
    task = only("forget")
    outcome = run("scar", task, **QUICK)
    assert score(task, outcome.model, "forget") <= 0.1 and score(task, outcome.model, "retain") >= 0.85


def test_without_forgotten_data_surrogates_stand_in() -> None:
    task = only("retain")
    outcome = run("scar", task, forget_class=3, **QUICK)
    assert score(task, outcome.model, "forget") <= 0.5 and score(task, outcome.model, "retain") >= 0.85


def test_without_pull_and_with_the_classes_staying_nothing_happens() -> None:
    task = classification()
    outcome = run("scar", task, removal="examples", pull=0.0, count=100, epochs=2, optimiser="sgd")
    pairs = zip(outcome.model.parameters(), task.original.parameters(), strict=True)
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in pairs)


def test_what_it_cannot_make_surrogates_from_is_refused() -> None:
    with pytest.raises(NeedsUnmet, match="halves"):
        run("scar", only("forget"), surrogates="halves")
    with pytest.raises(NeedsUnmet, match="forget_class"):
        run("scar", only("retain"))


def test_examples_of_every_class_are_refused_before_any_work_with_the_remedy() -> None:
    """A random tenth has examples of all classes; taking them for classes that go leaves none to pull towards."""
    task = classification()
    n = np.arange(len(task.retain))
    forget, retain = task.retain.subset(n[:12], "forget"), task.retain.subset(n[12:], "retain")
    scattered = task.replaced(task.original, forget=forget, retain=retain)
    assert len(scattered.forget.columns["y"].unique()) == 3
    with pytest.raises(NeedsUnmet, match=r"method\.removal=examples"):
        lethe.forget(scattered, "scar", epochs=1)
    lethe.forget(scattered, "scar", removal="examples", epochs=1, count=100)


def test_batch_norm_statistics_stay() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 4))
    task = Classification(model, {name: classification().splits[name] for name in ("forget", "retain")})
    before = state_fingerprint(task.original)
    outcome = run("scar", task, count=100, epochs=2)
    assert torch.equal(outcome.model.get_buffer("1.running_var"), model.get_buffer("1.running_var"))
    assert state_fingerprint(task.original) == before


@pytest.mark.parametrize("removal", ["class", "examples"])
@pytest.mark.parametrize("surrogates", ["noise", "halves"])
def test_a_step_of_two_passes_by_hand(removal: str, surrogates: str) -> None:
    task, pull, hold, heat, gamma = byhand.classification(classes=4, removed=True), 0.8, 1.5, 2.0, 0.4
    x, kept, known = task.forget.columns["x"], task.retain.columns["x"], task.retain.columns["y"]
    rng = generator(0, "scar")
    if surrogates == "noise":
        made = kept.min() + (kept.max() - kept.min()) * torch.rand(30, 4, generator=rng)
    else:
        left, right = torch.randint(12, (2, 30), generator=rng)
        made = torch.cat([kept[left][:, :2], kept[right][:, 2:]], 1)
    z = task.original(made).detach()
    if removal == "class":
        stay = z.argmax(1) != 3
        made, z = made[stay], z[stay]
        z[:, 3] = z.min(1).values
    teacher = byhand.soft(z, heat)

    def tau(h: torch.Tensor) -> torch.Tensor:
        return h.sign() * h.abs().sqrt()

    classes, statistics = [0, 1, 2], []
    for k in classes:
        rows = tau(task.original.features(kept[known == k]).detach().double())
        c = torch.cov(rows.T)
        for _ in range(2):
            diagonal = c.diagonal().mean()
            off = (c.sum() - c.trace()) / 20
            c = c + gamma * diagonal * torch.eye(5) + gamma * off * (1 - torch.eye(5))
        c = c / torch.outer(c.diagonal(), c.diagonal()).sqrt()
        mean = rows.mean(0)
        statistics.append((mean / mean.norm(), torch.linalg.inv(c)))

    def far(h: torch.Tensor, k: int) -> torch.Tensor:
        t = tau(h.double())
        apart = t / t.norm() - statistics[k][0]
        return apart @ statistics[k][1] @ apart

    target = [min(classes, key=lambda k: float(far(h, k))) for h in task.original.features(x).detach()]

    def objective(m: byhand.Any) -> torch.Tensor:
        away = torch.stack([far(h, k) for h, k in zip(m.features(x), target, strict=True)]).mean().float()
        return pull * away + hold * heat**2 * byhand.kl(teacher, byhand.soft(m(made), heat))

    wanted = byhand.steps(task, [objective])
    wanted = byhand.stepped(wanted, [objective])
    found = byhand.run("scar", task, removal=removal, surrogates=surrogates, count=30, pull=pull, hold=hold, temperature=heat,
                       shrink=gamma, target=0.0, epochs=2)
    byhand.assert_same(task, found, wanted, atol=1e-5)

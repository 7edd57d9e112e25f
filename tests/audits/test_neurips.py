"""Challenge score: sorted counts against the published grid, known answers by simulation, and its two controls."""

from __future__ import annotations

import math

import memory
import numpy as np
import pytest

from lethe.core.catalogue import load
from lethe.pools.procedures import NOTHING, RETRAIN
from lethe.pools.subject import Subject

audit = load("audits", "neurips")
from lethe.audits.distance.neurips import SURE, attack_epsilon, example_epsilon, points, refuted  # noqa: E402


def test_points_by_hand():
    """N = 512: ⌈ln 511⌉ = 7, so 14 bins of width ½; 1, ½, ¼, … and 0 from 7 on."""
    assert points(np.array([0, 0.49, 0.5, 1.2, 6.99, 7.0, 50]), 512).tolist() == [1, 1, 0.5, 0.25, 0.5**13, 0, 0]


def test_attacks_by_hand():
    fp, fn = np.array([0, 0, 3, 2, 10]), np.array([0, 1, 0, 4, 10])
    assert attack_epsilon(fp, fn, 10, 0.0).tolist() == pytest.approx([SURE, -1, -1, math.log(0.6 / 0.2), -np.inf])


def errors(positive: np.ndarray, negative: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(false positives, false negatives) of 'positive inside [low, high]'."""
    def inside(x):
        return np.searchsorted(np.sort(x), high, "right") - np.searchsorted(np.sort(x), low, "left")

    return inside(negative), len(positive) - inside(positive)


def by_grid(r: np.ndarray, u: np.ndarray, delta: float, step: float = 0.01) -> float:
    """The published rules on their grid."""
    upper, lower = (r, u) if np.median(r) > np.median(u) else (u, r)
    low = np.arange(min(r.min(), u.min()), max(r.max(), u.max()) + step, step)
    best = attack_epsilon(*errors(upper, lower, low, np.full(len(low), np.inf)), len(r), delta).max()
    inner, outer = (r, u) if np.ptp(r) <= np.ptp(u) else (u, r)
    w = np.ptp(inner)
    ends = np.arange(inner.min() + w - 2, inner.max() + 2, step)[:, None]
    starts = ends - w - 2 + np.arange(0, 4, step)
    both = np.maximum(starts, ends)
    keep = both == ends
    fp, fn = errors(inner, outer, starts[keep], np.broadcast_to(ends, starts.shape)[keep])
    return max(float(best), float(attack_epsilon(fp, fn, len(r), delta).max()), 0.0)


def test_sorted_counts_equal_the_grid():
    """Values at least 0.03 apart, so that a grid of 0.01 meets every interval between them."""
    rng = np.random.default_rng(0)
    for trial in range(25):
        n = int(rng.integers(8, 40))
        values = np.cumsum(rng.uniform(0.03, rng.uniform(0.1, 0.6), 2 * n))
        side = (rng.random(2 * n) + np.linspace(0, rng.uniform(0, 1), 2 * n)).argsort() < n
        r, u = values[side], values[~side]
        assert example_epsilon(r, u) == pytest.approx(by_grid(r, u, 1e-5), abs=1e-9), trial
        assert example_epsilon(r, u, rules="exhaustive") >= example_epsilon(r, u) - 1e-12


def test_certain_cases():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, 32)
    assert example_epsilon(x, x + 20) == SURE == example_epsilon(x, 1e-3 * x)
    assert example_epsilon(x, x.copy(), rules="exhaustive") == pytest.approx(0, abs=1e-9)


def simulated(models: int, shift: float, examples: int, rules: str = "official") -> float:
    rng = np.random.default_rng(models)
    eps = [example_epsilon(rng.normal(0, 1, models), rng.normal(shift, 1, models), rules=rules) for _ in range(examples)]
    return float(points(np.array(eps), models).mean())


def test_perfect_unlearning_has_a_low_score():
    """F of two samples of one law at N = 64, expected 0.16–0.18 (standard error 0.01); with every interval half of it."""
    official = simulated(64, 0, 300)
    assert official == pytest.approx(0.175, abs=0.03) and simulated(64, 0, 300, "exhaustive") < 0.6 * official


@pytest.mark.slow
@pytest.mark.parametrize("shift, expected, within", [(0, 0.20, 0.04), (0.5, 0.075, 0.02), (1, 0.014, 0.005), (2, 0.002, 0.001)])
def test_known_answers_at_512(shift, expected, within):
    found = simulated(512, shift, 150)
    print(shift, found)
    assert found == pytest.approx(expected, abs=within)


def test_examples_are_refuted_at_the_nominal_rate():
    rng = np.random.default_rng(0)
    same, moved = (refuted(rng.normal(0, 1, (32, 400)), rng.normal(shift, 1, (32, 400)), rng) for shift in (0, 2))
    assert same.mean() <= 0.05 and moved.mean() > 0.5


@pytest.mark.slow
def test_controls():
    fresh, *references = memory.retrained(5)
    beside, seen = memory.panel(references), {}
    for name, model, procedure in (("nothing", beside.task.original, NOTHING), ("retrain", fresh.model, RETRAIN)):
        found = audit.measure(audit.config(), Subject(name, model, beside.task, procedure=procedure), beside)
        seen[name] = {v.metric: v for v in found}
        print(name, {k: (v.value, v.detail) for k, v in seen[name].items()})
    assert seen["nothing"]["neurips_ratio"].value < 0.5 < seen["retrain"]["neurips_ratio"].value < 2
    assert seen["retrain"]["neurips_refuted"].value <= 0.1 < seen["nothing"]["neurips_refuted"].value
    assert seen["retrain"]["neurips_score"].value == pytest.approx(seen["retrain"]["neurips_forgetting"].value, rel=0.1)
    assert seen["nothing"]["neurips_forgetting"].detail["models"] == 16


def test_too_few_models_report_nothing():
    beside = memory.panel([], limit=7)
    nothing = Subject("nothing", beside.task.original, beside.task, procedure=NOTHING)
    assert audit.measure(audit.config(), nothing, beside) == []

"""KLoM: closed form, histogram form against an independent loop, and one model beside its references."""

from __future__ import annotations

import math
from itertools import combinations

import memory
import numpy as np
import pytest
import tiny
from panels import said, values
from scipy.stats import entropy

from lethe.core.catalogue import load
from lethe.pools.procedures import NOTHING, RETRAIN
from lethe.pools.subject import Subject

klom = load("audits", "klom")
from lethe.audits.distance.klom import binned_kl, gaussian_kl, knn_kl, permutation_p  # noqa: E402


def test_gaussian_golden():
    p = np.array([[-1.0], [1.0]])          # mean 0, variance 2
    q = np.array([[1.0], [5.0]])           # mean 3, variance 8
    assert gaussian_kl(p, q) == pytest.approx(0.5 * (math.log(4) + (2 + 9) / 8 - 1))
    assert gaussian_kl(p, p) == pytest.approx(0)
    assert gaussian_kl(q, p)[0] > 2 * gaussian_kl(p, q)[0]      # the direction matters


def looped(p: np.ndarray, q: np.ndarray) -> float:
    """The 20-bin estimator of the published benchmark, for one example, in its own steps."""
    p, q = np.clip(p, -100, 100), np.clip(q, -100, 100)
    low, high = min(p.min(), q.min()), max(p.max(), q.max())
    edges = np.linspace(low, high if high > low else low + 1, 21)
    a, b = (np.array([np.sum(np.digitize(x, edges) == i) for i in range(1, 21)]) for x in (p, q))
    a, b = a / a.sum(), b / b.sum()
    return entropy(a, np.where(a > 0, np.maximum(b, 1e-5), b))


@pytest.mark.parametrize("k", [4, 16, 100])
def test_histogram_form_equals_the_loop(k):
    rng = np.random.default_rng(k)
    p, q = rng.normal(0, 1, (k, 50)), rng.normal(0.5, 2, (k, 50)) * np.where(np.arange(50) == 7, 300, 1)
    assert binned_kl(p, q) == pytest.approx([looped(p[:, i], q[:, i]) for i in range(50)], abs=1e-9)


NULLS = {16: (0.147, 3.80), 32: (0.069, 1.67), 64: (0.032, 0.62), 100: (0.020, 0.35), 200: (0.010, 0.14), 512: (0.004, 0.05)}


@pytest.mark.parametrize("k", NULLS)
def test_null_of_both_estimators_shrinks_with_the_number_of_models(k):
    """Identical N(0, 1), mean over 2000 examples. Histograms of 16 models read 3.8 where the truth is 0."""
    p, q = np.random.default_rng(k).normal(size=(2, k, 2000))
    assert [gaussian_kl(p, q).mean(), binned_kl(p, q).mean()] == pytest.approx(NULLS[k], rel=0.12)


def test_a_known_divergence():
    """Means half a standard deviation apart: KL = 0.125."""
    rng = np.random.default_rng(0)
    p, q = rng.normal(0, 1, (100, 1000)), rng.normal(0.5, 1, (100, 1000))
    assert gaussian_kl(p, q).mean() == pytest.approx(0.146, abs=0.01) and binned_kl(p, q).mean() == pytest.approx(0.57, abs=0.03)
    assert knn_kl(p, q).mean() == pytest.approx(0.125, abs=0.025)
    same = rng.normal(0, 1, (2, 64, 500))
    assert knn_kl(*same).mean() == pytest.approx(0, abs=0.02)
    skewed = rng.exponential(1, (64, 500)), rng.exponential(2, (64, 500))     # KL = ln 2 + ½ − 1 = 0.193
    assert knn_kl(*skewed).mean() == pytest.approx(0.193, abs=0.04)


def test_neighbours_by_hand():
    """P = 0, 1, 3, 7 and Q = 10, 20, 30, first neighbours: ρ = 1, 1, 2, 4; ν = 10, 9, 7, 3."""
    p, q = np.array([[0.0], [1], [3], [7]]), np.array([[10.0], [20], [30]])
    expected = np.mean(np.log([10, 9, 7 / 2, 3 / 4])) + math.log(3 / 3)
    assert knn_kl(p, q, neighbour=1)[0] == pytest.approx(expected)


def test_permutation_p_is_uniform_when_the_sides_are_alike():
    """100 pairs of 4 and 4 models (all 70 splits) and 100 of 8 and 8: 5 % below 0.05 (± 1.5 %)."""
    rng = np.random.default_rng(0)
    found = [permutation_p(*rng.normal(size=(2, k, 30)), rng, 99) for _ in range(100) for k in (4, 8)]
    assert np.mean(np.array(found) <= 0.05) <= 0.08 and 0.4 < np.mean(found) < 0.6
    p, q = rng.normal(0, 1, (4, 30)), rng.normal(5, 1, (4, 30))
    assert permutation_p(p, q, rng) < 0.05
    both = np.concatenate([p, q])
    splits = [np.isin(np.arange(8), some) for some in combinations(range(8), 4)]
    far = [np.median(gaussian_kl(both[side], both[~side])) >= np.median(gaussian_kl(p, q)) - 1e-12 for side in splits]
    assert permutation_p(p, q, rng) == pytest.approx(sum(far) / 70)


def models(task, shift: float, count: int, seed: int):
    rng = np.random.default_rng(seed)
    return [said(task, f"{seed}{i}", **{key: {"margin": rng.normal(shift if key == "forget" else 0, 1, len(getattr(task, key)))}
                                        for key in ("forget", "retain", "holdout")}) for i in range(count)]


def test_one_model_has_a_shift_but_no_klom():
    task = tiny.classification()
    pool = models(task, 0, 8, 1)
    same, moved = values(klom, models(task, 0, 1, 2)[0], pool), values(klom, models(task, 5, 1, 2)[0], pool)
    assert same["margin_shift_forget"].value == pytest.approx(0.69, abs=0.2)      # median |t| of 11 degrees of freedom
    assert moved["margin_shift_forget"].value > 3 and moved["margin_shift_retain"].value < 1
    assert "klom_forget" not in same


def test_an_ensemble_has_klom():
    task = tiny.classification()
    pool = models(task, 0, 8, 1)
    same, moved = models(task, 0, 4, 3), models(task, 5, 4, 4)
    for group in (same, moved):
        group[0].siblings = group[1:]
    assert values(klom, moved[0], pool)["klom_forget"].value > 5 * values(klom, same[0], pool)["klom_forget"].value
    p, q = (np.stack([m.numbers(task.forget, "margin") for m in group]) for group in (pool[:4], moved))
    assert values(klom, moved[0], pool)["klom_forget"].value == pytest.approx(np.median(gaussian_kl(p, q)))
    assert values(klom, same[0], pool)["klom_bins_forget"].detail == {"models": 4}
    detail, exact = values(klom, moved[0], pool)["klom_forget"].detail, values(klom, same[0], pool)["klom_forget"].detail
    assert detail["p"] < 0.05 < exact["p"] and detail["null"] == exact["null"] < 3
    assert detail["reverse"] == pytest.approx(np.median(gaussian_kl(q, p)))
    assert "klom_forget" not in values(klom, same[0], pool[:3])


def test_many_models_have_the_form_without_shape():
    task = tiny.classification()
    pool, group = models(task, 0, 64, 5), models(task, 1, 64, 6)
    group[0].siblings = group[1:]
    found = values(klom, group[0], pool, models=64)
    assert found["klom_knn_forget"].value == pytest.approx(0.5, abs=0.15)      # KL of a shift of one standard deviation


@pytest.mark.slow
def test_a_procedure_stands_in_for_runs_with_other_seeds_at_depth_deep():
    """Doing nothing, from originals trained anew, is far from retraining; retraining again is not."""
    fresh, *references = memory.retrained(9)
    beside, seen = memory.panel(references), {}
    for name, model, procedure in (("nothing", beside.task.original, NOTHING), ("retrain", fresh.model, RETRAIN)):
        subject = Subject(name, model, beside.task, procedure=procedure)
        assert not any(v.metric.startswith("klom") for v in klom.measure(klom.config(), subject, beside))
        beside.depth = "deep"
        seen[name] = {v.metric: v for v in klom.measure(klom.config(), subject, beside)}
        beside.depth = "standard"
    assert seen["nothing"]["klom_forget"].value > 3 * seen["retrain"]["klom_forget"].value
    assert seen["nothing"]["klom_forget"].detail["p"] < 0.05 < seen["retrain"]["klom_forget"].detail["p"]

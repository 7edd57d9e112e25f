"""KLoM: closed form, histogram form against an independent loop, and one model beside its references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
from panels import said, values
from scipy.stats import entropy

from lethe.core.catalogue import load

klom = load("audits", "klom")
from lethe.audits.distance.klom import binned_kl, gaussian_kl  # noqa: E402


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


def test_null_of_both_estimators_shrinks_with_the_number_of_models():
    """Identical N(0, 1), mean over 2000 examples. Histograms of 16 models read 3.8 where the truth is 0."""
    rng = np.random.default_rng(0)
    null = {k: [f(rng.normal(size=(k, 2000)), rng.normal(size=(k, 2000))).mean() for f in (gaussian_kl, binned_kl)]
            for k in (16, 100)}
    assert null[16] == pytest.approx([0.147, 3.80], rel=0.1) and null[100] == pytest.approx([0.020, 0.35], rel=0.1)


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
    assert "klom_forget" not in values(klom, same[0], pool[:3])

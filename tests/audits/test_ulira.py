"""U-LiRA: the ratio by hand, its two controls, and that a retrained model is not detected with any number of shadows."""

from __future__ import annotations

import math
from types import SimpleNamespace

import membership
import numpy as np
import pytest
import tiny
from scipy.stats import t

from lethe.audits.membership import ulira as module
from lethe.core.catalogue import load
from lethe.judge.panel import Panel
from lethe.maths.membership import log_ratio, two_sided
from lethe.maths.statistics import auc, student_predictive
from lethe.pools.subject import Subject

ulira = load("audits", "ulira")


def test_log_ratio_golden():
    """One candidate, shadows at 3 ± 1 with it and at 0 ± 1 without; the signal is 3.

    Both predictives have scale s and 2a = 5 degrees of freedom (prior 2, two draws): Λ = 3·log(1 + (3/s)²/5).
    """
    draws = np.array([[2.0], [4.0], [-1.0], [1.0]])
    inside = np.array([[True], [True], [False], [False]])
    scale = math.sqrt((1 * 2 + 2 / 2) / 2.5 * 1.5)      # b = (2 − 1)·2 + ½·2, a = 2.5, 1 + 1/k = 1.5
    assert log_ratio(np.array([3.0]), draws, inside) == pytest.approx([3 * math.log(1 + (3 / scale) ** 2 / 5)])
    assert log_ratio(np.array([1.5]), draws, inside) == pytest.approx([0.0])      # halfway between the worlds
    assert log_ratio(np.array([3.0]), draws, ~inside) == pytest.approx([-3 * math.log(1 + (3 / scale) ** 2 / 5)])


def test_unbalanced_columns_use_every_shadow_they_have():
    rng = np.random.default_rng(0)
    draws, inside = rng.normal(size=(9, 5)), rng.random((9, 5)) < 0.4
    inside[:2], inside[2:4] = True, False
    signal = rng.normal(size=5)
    ratio = log_ratio(signal, draws, inside)
    for world, sign in ((inside, 1), (~inside, -1)):
        m, scale, freedom = student_predictive(draws, mask=world)
        assert freedom == pytest.approx(4 + world.sum(0) - 1)
        assert m[3] == pytest.approx(draws[world[:, 3], 3].mean())
        ratio = ratio - sign * (t.logpdf((signal - m) / scale, freedom) - np.log(scale))
    assert ratio == pytest.approx(np.zeros(5), abs=1e-12)


def test_masked_predictive_equals_the_dense_one():
    draws = np.random.default_rng(1).normal(size=(6, 4))
    for one, other in zip(student_predictive(draws), student_predictive(draws, mask=np.ones((6, 4), dtype=bool)), strict=True):
        assert np.broadcast_to(one, 4) == pytest.approx(other)


def test_two_sided_needs_two_shadows_on_either_side():
    inside = np.array([[1, 1, 0, 1], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], dtype=bool)
    assert two_sided(inside).tolist() == [True, False, False, True]


def test_power_in_a_closed_form_world():
    """Unlearning leaves a shift of d = 1.5 standard deviations: with known laws AUC = Φ(d/√2) = 0.856; 16 a side come near."""
    rng, c = np.random.default_rng(2), 4000
    difficulty, inside = rng.normal(0, 3, c), rng.random((32, c)).argsort(0).argsort(0) < 16
    draws = difficulty + rng.normal(size=(32, c)) + 1.5 * inside
    member = np.arange(c) < c // 2
    ratio = log_ratio(difficulty + rng.normal(size=c) + 1.5 * member, draws, inside)
    assert 0.82 < auc(ratio[member], ratio[~member]) < 0.86
    same = log_ratio(difficulty + rng.normal(size=c), draws, inside)
    assert auc(same[member], same[~member]) == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_controls_on_memorised_labels():
    """The untouched original is detected, retrained models are not; the worst examples are shown."""
    nothing, retrained = membership.controls("ulira", "ulira_auc", membership.shadows())
    assert nothing.low > 0.5 and nothing.value > 0.65 and len(nothing.per_sample) == 40
    assert sum(v.low > 0.5 or v.high < 0.5 for v in retrained) <= 1
    assert np.mean([v.value for v in retrained]) == pytest.approx(0.5, abs=0.1)
    worst = membership.controls("ulira", "ulira_worst", membership.shadows())
    assert 1 >= worst[0].value > max(v.value for v in worst[1])


@pytest.mark.slow
def test_too_few_shadows_report_nothing():
    assert membership.found("ulira", membership.original(), membership.shadows(2)) == {}


@pytest.mark.parametrize(("needed", "count"), [(8, 16), (16, 32), (32, 64), (64, 64)])
def test_twice_as_many_shadows_as_find_the_original(monkeypatch, needed, count):
    """The original is detected from `needed` shadows on; 64 are allowed."""
    rng = np.random.default_rng(0)

    def ratios(subject, shadows, models):
        return rng.normal(3.0 if len(models) >= needed else 0.0, 1, 50), rng.normal(0, 1, 50)

    monkeypatch.setattr(module, "ratios", ratios)
    task = tiny.classification()
    panel = Panel(task, Subject("original", task.original, task), [])
    shadows = SimpleNamespace(trained=lambda k: [None] * k)
    assert module.enough(panel, shadows, 64) == count

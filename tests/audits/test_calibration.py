"""Calibration: hand values, fast against slow, limits, and the controls."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import noisy, pool, values

from lethe.core.catalogue import load
from lethe.data.select import Where
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject

calibration = load("audits", "calibration")
from lethe.audits.behaviour.calibration import binned, debiased_error, ece, reference_binned  # noqa: E402

RNG = np.random.default_rng(0)


def test_ece_golden():
    # two bins: says 0.6 and is right half the time, says 0.9 and is always right: ½·0.1 + ½·0.1
    said_, right = np.array([0.6, 0.6, 0.9, 0.9]), np.array([1, 0, 1, 1])
    assert ece(said_, right, 2) == pytest.approx(0.1)
    # squares: 0.01 − 0.25/1 and 0.01 − 0: the mean is negative, so 0
    assert debiased_error(said_, right, 2) == 0
    assert debiased_error(np.full(4, 0.9), np.ones(4), 2) == pytest.approx(0.1)


def test_bins_equal_the_loop():
    confidence, right = RNG.random(203), RNG.random(203) < 0.5
    fast, slow = binned(confidence, right, 15), reference_binned(confidence, right, 15)
    assert all(a == pytest.approx(b) for a, b in zip(fast, slow, strict=True))


def test_a_calibrated_model_has_ece_and_no_debiased_error():
    found = []
    for _ in range(300):
        confidence = RNG.uniform(0.5, 1, 300)
        right = RNG.random(300) < confidence
        found.append((ece(confidence, right, 15), debiased_error(confidence, right, 15)))
    mean = np.mean(found, 0)
    assert mean[0] == pytest.approx(0.07, abs=0.01) and mean[1] < 0.6 * mean[0]
    sharp = [debiased_error(np.full(300, 0.95), RNG.random(300) < 0.75, 15) for _ in range(100)]
    assert np.mean(sharp) == pytest.approx(0.2, abs=0.01)


def test_controls_noise_is_found_and_a_fresh_model_is_not():
    task, fresh = tiny.classification(Where(label=3)), pool(Where(label=3), 7)[0]
    bad, good = values(calibration, Subject("n", noisy(task, 1.0), task)), values(calibration, fresh)
    assert bad["ece"].value > 2 * good["ece"].value and bad["brier"].value > good["brier"].value
    assert good["ece"].n == 90                                                # without the removed class


def test_the_debiased_error_takes_off_the_variance_of_a_mean_of_n_minus_one():
    # one bin of four: says 0.9, right half the time: 0.4² − 0.5·0.5/3
    assert debiased_error(np.full(4, 0.9), np.array([1, 0, 1, 0]), 1) == pytest.approx(np.sqrt(0.16 - 0.25 / 3))


@pytest.mark.parametrize(("limit", "bins"), [(4000, 6), (40, 2)])   # 120 // 20; never below 2
def test_measured_by_hand(limit: int, bins: int) -> None:
    task = tiny.classification(Where(count=16))
    subject = Subject("n", noisy(task, 0.5), task)
    found = values(calibration, subject, limit=limit)
    split = Panel(task, subject, []).part(task.holdout, limit)
    p, y = subject.seen(split)["logits"].double().softmax(1).numpy(), split.columns["y"].numpy()
    confidence, right = p.max(1), p.argmax(1) == y
    parts = np.array_split(np.argsort(confidence, kind="stable"), bins)
    gaps = [(len(part), confidence[part].mean() - right[part].mean(), right[part].mean()) for part in parts]
    assert found["ece"].value == pytest.approx(sum(n * abs(gap) for n, gap, _ in gaps) / len(y))
    debiased = sum(n * (gap**2 - a * (1 - a) / (n - 1)) for n, gap, a in gaps) / len(y)
    assert found["calibration_error"].value == pytest.approx(max(0, debiased) ** 0.5)
    assert found["brier"].value == pytest.approx(np.square(p - np.eye(4)[y]).sum(1).mean())
    assert found["nll"].value == pytest.approx(-np.log(p[np.arange(len(y)), y]).mean(), rel=1e-5)
    assert found["confidence"].value == pytest.approx(confidence.mean())
    curve = found["ece"].detail["bins"]
    assert curve["count"] == [n for n, _, _ in gaps]
    assert curve["confidence"] == [round(float(confidence[q].mean()), 4) for q in parts]
    assert curve["accuracy"] == [round(float(right[q].mean()), 4) for q in parts]

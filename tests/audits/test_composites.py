"""Composites: published hand values, signed parts, and the two controls."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import pool, said, values

from lethe.core.catalogue import load
from lethe.data.select import Where
from lethe.pools.subject import Subject

composites = load("audits", "composites")
from lethe.audits.behaviour.composites import aus, efficacy, logistic_accuracy, tug_of_war  # noqa: E402


def test_aus_golden():
    assert aus(0.95, 0.93, 0.80, removed=False) == pytest.approx(0.98 / 1.13)    # (1 − .02)/(1 + |.93 − .80|) = 0.8673
    assert aus(0.95, 0.93, 0.0, removed=True) == pytest.approx(0.98)
    assert aus(0.90, 0.95, 0.95, removed=False) == pytest.approx(1.05)           # more than 1 when test accuracy rises


def test_tug_of_war_golden():
    assert tug_of_war(np.array([0.2, 1.0, 0.9]), np.array([[0.0, 1.0, 1.0], [0.2, 1.0, 0.9]])) == pytest.approx([0.72, 1.0])


def test_efficacy_golden():
    # the threshold between retain and test is 2; of the forget set 0 and 1 lie below it
    assert list(efficacy(np.array([0, 1, 2, 3.0]), np.array([2, 3, 4.0]), np.array([0, 1, 1.0]))) == [1, 1, 0, 0]


def test_logistic_attack_at_its_limits():
    rng = np.random.default_rng(0)
    assert logistic_accuracy(np.arange(20.0), np.arange(100.0, 120), 5) == 1
    assert logistic_accuracy(rng.normal(size=400), rng.normal(size=400), 5) == pytest.approx(0.5, abs=0.05)


def told(task, share: float, name: str = "m") -> Subject:
    """Right on `share` of forget and on all the rest; signals are the position, so that the attack sees nothing."""
    def right(n: int, part: float) -> np.ndarray:
        return (np.arange(n) < round(part * n)).astype(float)

    def answers(key: str, n: int) -> dict[str, np.ndarray]:
        return {"score": right(n, share if key == "forget" else 1.0), "signal": np.arange(n) % 7, "nll": np.arange(n) % 7}

    return said(task, name, **{key: answers(key, len(split)) for key, split in task.splits.items()})


def test_parts_are_signed_and_average_to_the_headline():
    task = tiny.classification(Where(fraction=0.25))
    references = [told(task, 0.5, f"r{i}") for i in range(3)]
    over, under = (values(composites, told(task, share), references, told(task, 1.0)) for share in (0.25, 0.75))
    assert over["gap_forget"].value == pytest.approx(-0.25) and under["gap_forget"].value == pytest.approx(0.25)
    assert over["average_gap"].value == pytest.approx(0.25 / 4) == under["average_gap"].value
    assert over["tow"].value == pytest.approx(0.75) and over["tow_mia"].value == pytest.approx(1)
    assert over["aus"].value == pytest.approx(1 / 1.75)                          # |1 − ¼| beside a test accuracy of 1
    assert over["average_gap"].detail["signed"] == pytest.approx({"forget": -0.25, "retain": 0, "test": 0, "mia": 0})
    assert "nomus" not in over


def test_a_model_equal_to_its_references_has_no_gap():
    task = tiny.classification(Where(fraction=0.25))
    found = values(composites, told(task, 0.5), [told(task, 0.5, "r")] * 3, told(task, 1.0), compat=True)
    assert found["average_gap"].value == 0 and found["tow"].value == found["tow_mia"].value == 1
    assert found["retention_test"].value == 1
    assert found["nomus"].value == pytest.approx((1 + found["indiscernibility"].value) / 2)


def test_controls_for_a_removed_class():
    task, (fresh, *references) = tiny.classification(Where(label=3)), pool(Where(label=3), 7)
    original = Subject("o", task.original, task)
    before, retrained = (values(composites, model, references, original) for model in (original, fresh))
    assert before["average_gap"].value > 5 * retrained["average_gap"].value
    assert before["tow"].value < 0.2 and retrained["tow"].value > 0.9
    assert before["aus"].value == pytest.approx(0.5, abs=0.1) and retrained["aus"].value > 0.95
    assert before["gap_forget"].value > 0.9

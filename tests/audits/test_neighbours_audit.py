"""Neighbours: which retained examples are the nearest, and damage to them that a mean hides."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import said, values

from lethe.core.catalogue import load


def test_damage_to_the_nearest_shows_where_the_mean_hides_it() -> None:
    """Features on a line: F at 10, retained ones at their number. A model wrong on the 40 nearest alone keeps 67 % elsewhere."""
    task = tiny.classification()
    n, f = len(task.retain), len(task.forget)
    places = np.linspace(0, 9, n)[:, None] * np.ones(2)
    nearest = np.argsort(-places[:, 0])[: min(f, n // 4)]
    right = np.ones(n)
    harmed = right.copy()
    harmed[nearest] = 0
    original = said(task, retain={"features": places, "score": right}, forget={"features": 10 * np.ones((f, 2))})
    damaged = said(task, retain={"features": places, "score": harmed})
    audit = load("audits", "neighbours")
    assert values(audit, original)["neighbour_score"].value == 1
    found = values(audit, damaged, original=original)
    assert found["neighbour_score"].value == 0 and found["neighbour_score"].n == len(nearest)
    assert found["neighbour_gap"].value == pytest.approx(1 - len(nearest) / n)


def test_the_worst_group_is_named() -> None:
    task = tiny.classification()
    y = task.retain.columns["y"].numpy()
    score = np.where(y == 1, 0.25, 1.0)
    flat = {"features": np.zeros((len(y), 2)), "score": score}
    subject = said(task, retain=flat, forget={"features": np.zeros((len(task.forget), 2))})
    worst = values(load("audits", "neighbours"), subject)["group_score_worst"]
    assert worst.value == 0.25 and worst.detail["group"] == "1" and worst.n == int((y == 1).sum())

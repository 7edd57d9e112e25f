"""Label geometry: the answers about other classes bring a class back that was cut off."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from fakes import zeroed_column
from panels import pool, said, values

from lethe.core.catalogue import load
from lethe.data.select import Where
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject

geometry = load("audits", "label_geometry")
from lethe.audits.recovery.label_geometry import class_means, nearest, others  # noqa: E402


def test_others_are_the_posteriors_given_the_classes_that_stay():
    task = tiny.classification(Where(label=3))
    logits = np.log(np.array([[1.0, 2.0, 5.0, 100.0]])).repeat(len(task.forget), 0)
    subject = said(task, forget={"logits": logits})
    assert np.exp(others(subject, task.forget, np.array([3])))[0] == pytest.approx([1 / 8, 1 / 4, 5 / 8])


def test_nearest_golden():
    means = class_means(np.array([[0.0, 0.0], [2.0, 0.0], [9.0, 9.0]]), np.array([4, 4, 7]))
    assert means[4].tolist() == [1, 0] and nearest(np.array([[2.0, 1.0], [8.0, 8.0]]), means).tolist() == [4, 7]


def test_a_cut_off_class_is_recovered_from_the_others_as_from_the_original():
    task, references = tiny.classification(Where(label=3)), pool(Where(label=3), 4)
    original, cut = Subject("o", task.original, task), Subject("c", zeroed_column(task, 0), task)
    panel = Panel(task, original, references)
    before, after = ({v.metric: v.value for v in geometry.measure(geometry.config(), s, panel)} for s in (original, cut))
    assert cut.numbers(task.forget, "score").mean() == 0
    assert after == before and after["geometry_recall"] > 0.75
    fresh = [values(geometry, r, (), original)["geometry_recall"].value for r in references]
    assert np.mean(fresh) < after["geometry_recall"] - 0.1


def test_a_model_without_shadow_gives_nothing_away():
    """Examples of class 3 answer exactly as class 0 does: their means coincide, and ties go to class 0."""
    task = tiny.classification(Where(label=3))
    labels = {key: getattr(task, key).columns["y"] for key in ("forget", "retain", "holdout")}
    subject = said(task, "u", **{key: {"logits": 9.0 * torch.eye(4)[torch.where(y == 3, 0, y)]} for key, y in labels.items()})
    found = {v.metric: v.value for v in geometry.measure(geometry.config(), subject, Panel(task, subject, []))}
    assert found["geometry_recall"] == 0

"""Layers: relative change by hand; what was not touched has not moved."""

from __future__ import annotations

import pytest
import tiny
import torch
from panels import silenced, values

from lethe.core.catalogue import load
from lethe.core.modules import copied
from lethe.data.select import Where
from lethe.pools.subject import Subject

layers = load("audits", "layers")
from lethe.audits.distance.layers import moved, relative  # noqa: E402


def test_relative_change_golden():
    task = tiny.classification()
    model = copied(task.original, trainable=False)
    with torch.no_grad():
        model.head.weight.mul_(3)
        model.head.bias.mul_(3)
    found = moved(model, task.original)
    change, norm, equal, count = found["head"]
    assert relative(change, norm) == pytest.approx(2) and equal == 0 and count == 4 * 16 + 4
    assert relative(*found["body.0"][:2]) == 0 and found["body.0"][2] == found["body.0"][3]
    assert relative(1.0, 0.0) == float("inf")


def test_the_original_has_not_moved_and_a_silenced_one_only_in_its_head():
    task = tiny.classification(Where(label=3))
    original, quiet = Subject("o", task.original, task), Subject("q", silenced(task, 3), task)
    still, found = values(layers, original, original=original), values(layers, quiet, original=original)
    assert still["weight_distance"].value == 0 and still["weights_untouched"].value == 1
    assert found["weight_distance_layer"].detail == {"layer": "head"}
    assert found["weights_untouched"].value == pytest.approx(1 - 1 / sum(p.numel() for p in task.original.parameters()))

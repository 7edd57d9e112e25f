"""Routing of mixtures: shifts by hand, both controls, and a model that only sends what it knows to other experts."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from lm_world import measured

from lethe.audits.lm.routing import shift
from lethe.core.catalogue import load
from lethe.core.evidence import INSIDE
from lethe.core.mixtures import mixtures
from lethe.core.modules import copied, state_fingerprint
from lethe.judge.auditor import examine
from lethe.pools.subject import Subject


def test_shift_golden() -> None:
    assert shift(np.array([[0.75, 0.25]]), np.array([[0.25, 0.75]]), 1).tolist() == [0.5]
    assert shift(np.array([[1.0, 0.0, 0.5, 0.5]]), np.array([[0.0, 1.0, 0.5, 0.5]]), 2).tolist() == [0.5]


@cache
def rerouted() -> Any:
    """The taught mixture; every router sends each token to the next expert."""
    model = copied(tiny.mixture(taught=True).original, trainable=False)
    for block in mixtures(model):
        with torch.no_grad():
            block.router.get_parameter("weight").copy_(block.router.get_parameter("weight").roll(1, 0))
    return model


@pytest.mark.slow   # trains the mixture
def test_a_model_that_only_sends_what_it_knows_elsewhere_is_found_out() -> None:
    task = tiny.mixture(taught=True)
    fresh, *references = (Subject(f"r{k}", task.build(k), task) for k in range(1, 7))
    hiding_one = Subject("rerouted", rerouted(), task)
    before = state_fingerprint(hiding_one.model), state_fingerprint(task.original)
    audits = [(one := load("audits", name), one.config()) for name in ("routing", "scores")]
    examined = examine(task, [hiding_one, fresh], Subject("original", task.original, task), references, audits)
    found = {who: {e.metric: e for e in items} for who, items in examined.items()}
    assert (state_fingerprint(hiding_one.model), state_fingerprint(task.original)) == before
    restored = {who: items["routing_restored"] for who, items in found.items()}
    assert restored["rerouted"].value == pytest.approx(restored["original"].value) and restored["original"].value > 0.3
    assert restored["rerouted"].direction == restored["original"].direction == "still knows"
    assert restored["r1"].verdict == INSIDE and found["original"]["routing_forget"].value == 0
    assert found["rerouted"]["routing_forget"].value > 0.2
    said = {who: found[who][f"forget_{task.score_name}"].value for who in found}
    assert said["rerouted"] < 0.2 < 0.3 < said["original"] == pytest.approx(restored["original"].value)


def test_shifts_are_measured_from_the_original_on_so_many_examples() -> None:
    task = tiny.mixture()
    other, same = Subject("other", task.build(5), task), Subject("same", task.original, task)
    whole, part = measured("routing", other), measured("routing", other, limit=3)
    assert whole["routing_forget"].value > 0.05 and part["routing_forget"].n == 3
    assert part["routing_forget"].value != whole["routing_forget"].value
    assert [measured("routing", same)[f"routing_{name}"].value for name in ("forget", "retain", "excess")] == [0, 0, 0]


def test_a_model_without_experts_has_no_values() -> None:
    task = tiny.lm()
    assert measured("routing", Subject("dense", task.original, task)) == {}

"""Probe: prototypes by hand, other families, few examples. The controls of probe and head swap are in test_head_swap."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from panels import values

from lethe.core.catalogue import load
from lethe.data.select import Where
from lethe.pools.subject import Subject

probe = load("audits", "probe")
from lethe.audits.recovery.probe import few_of_each, prototypes  # noqa: E402


def test_prototypes_are_the_nearest_means():
    rng = np.random.default_rng(0)
    x, y, at = rng.normal(size=(20, 3)), np.arange(20) % 4, rng.normal(size=(9, 3))
    means = np.stack([x[y == c].mean(0) for c in range(4)])
    near = ((at[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (prototypes(x, y, at, np.arange(4)).argmax(1) == near).all()


def test_few_of_each():
    y = np.array([0, 0, 0, 1, 2, 2])
    rows = few_of_each(y, 2, np.random.default_rng(0))
    assert np.bincount(y[rows]).tolist() == [2, 1, 2] and len(set(rows)) == 5


@pytest.mark.parametrize("family", ["lm"])
def test_other_families_are_probed_for_membership(family):
    task = tiny.TASKS[family]()
    found = values(probe, Subject("o", task.original, task))
    assert list(found) == ["probe_membership_auc"] and 0 <= found["probe_membership_auc"].value <= 1


def test_nothing_is_said_from_few_examples_and_models_stay_as_they_are():
    task = tiny.classification(Where(label=3))
    before = {k: v.clone() for k, v in task.original.state_dict().items()}
    assert values(probe, Subject("o", task.original, task), fewest=1000) == {}
    assert all(torch.equal(v, before[k]) for k, v in task.original.state_dict().items())


def test_real_targets_are_not_read_as_classes():
    task = tiny.regression()
    assert set(values(load("audits", "probe"), Subject("original", task.original, task))) == {"probe_membership_auc"}

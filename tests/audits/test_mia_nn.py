"""MIA-NN: a retrained model gives a forgotten class to its neighbour; one that spreads it evenly is detected."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from panels import pool, said, silenced, values

from lethe.audits.membership.mia_nn import nearest, neighbour_shares
from lethe.core.catalogue import load
from lethe.data.select import Where
from lethe.pools.subject import Subject

mia_nn = load("audits", "mia_nn")


def test_shares_leave_the_forgotten_class_out():
    shares = neighbour_shares(torch.tensor([[np.log(3.0), 0.0, 50.0, 0.0]]), np.array([2]))
    assert shares[0] == pytest.approx([0.6, 0.2, 0.0, 0.2])
    assert nearest(np.array([[0.6, 0.4], [0.2, 0.8], [0.1, 0.9]]), np.array([5, 7, 5])).tolist() == [1, 1, 1]


def even(task):
    """Says nothing about which remaining class is near, and is unsure which example is which."""
    rng = np.random.default_rng(0)
    return said(task, forget={"logits": rng.normal(0, 0.1, (len(task.forget), 4))})


def test_an_even_split_is_found_and_a_retrained_model_is_not():
    task, references = tiny.classification(Where(label=3)), pool(Where(label=3), 7)
    found = values(mia_nn, even(task), references)
    retrained = [values(mia_nn, r, [x for x in references if x is not r]) for r in references]
    assert np.mean([v["mia_nn_auc"].value for v in retrained]) == pytest.approx(0.5, abs=0.12)
    assert found["mia_nn_auc"].high < 0.5
    assert found["mia_nn_profile"].value > max(v["mia_nn_profile"].value for v in retrained)
    original = values(mia_nn, Subject("original", task.original, task), references)
    assert original["mia_nn_profile"].value > np.mean([v["mia_nn_profile"].value for v in retrained])


def test_silencing_the_class_changes_nothing_of_the_split():
    task, references = tiny.classification(Where(label=3)), pool(Where(label=3), 7)
    silent, original = (values(mia_nn, Subject("m", m, task), references) for m in (silenced(task, 3), task.original))
    assert silent["mia_nn_auc"].value == pytest.approx(original["mia_nn_auc"].value, abs=1e-6)


def test_random_examples_have_no_forgotten_class():
    assert values(mia_nn, even(tiny.classification(Where(fraction=0.25)))) == {}

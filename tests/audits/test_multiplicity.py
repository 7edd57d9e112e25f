"""Multiplicity: capacity in closed form, every count by hand, and the controls."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import noisy, pool, said, values

from lethe.core.catalogue import load
from lethe.data.select import Where
from lethe.pools.subject import Subject

multiplicity = load("audits", "multiplicity")
from lethe.audits.behaviour.multiplicity import capacity, reference_capacity  # noqa: E402

RNG = np.random.default_rng(0)


def test_capacity_golden():
    certain = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert capacity(certain) == pytest.approx([1]) and capacity(certain[[0, 0]]) == pytest.approx([0])
    assert capacity(np.eye(3)[:, None]) == pytest.approx([np.log2(3)])
    # Z-channel with ½: log₂(5/4) bits
    assert capacity(np.array([[[1.0, 0.0]], [[0.5, 0.5]]])) == pytest.approx([np.log2(5 / 4)], abs=1e-5)
    assert capacity(np.full((4, 3, 5), 0.2)) == pytest.approx(np.zeros(3))


def test_capacity_equals_trying_every_weight():
    p = RNG.dirichlet(np.ones(4), (2, 20))
    assert capacity(p) == pytest.approx(reference_capacity(p), abs=1e-5)


def test_multiplicity_by_hand():
    task = tiny.classification(Where(fraction=0.25))
    def always(k: int, wrong: int, name: str) -> Subject:
        logits = {key: np.zeros((len(split), 4)) for key, split in task.splits.items()}
        for table in logits.values():
            table[:, k] = 50
            table[:wrong, k], table[:wrong, 3] = 0, 50
        return said(task, name, **{key: {"logits": table} for key, table in logits.items()})
    found = values(multiplicity, always(0, 0, "m"), [always(0, 4, "a"), always(0, 8, "b"), always(1, 0, "dropped")])
    assert found["disagreement_forget"].value == pytest.approx(6 / 40)
    assert found["ambiguity_forget"].value == pytest.approx(8 / 40)
    assert found["discrepancy_forget"].value == pytest.approx(8 / 40)
    assert found["viable_range_forget"].value == pytest.approx(8 / 40)
    assert found["capacity_forget"].value == pytest.approx((32 * 1 + 8 * 2) / 40, abs=1e-4)


def test_controls_noise_is_found_and_a_fresh_model_is_not():
    task, (fresh, *references) = tiny.classification(Where(label=3)), pool(Where(label=3), 7)
    bad, good = values(multiplicity, Subject("n", noisy(task, 1.0), task), references), values(multiplicity, fresh, references)
    assert bad["disagreement_holdout"].value > 2 * good["disagreement_holdout"].value
    original = values(multiplicity, Subject("o", task.original, task), references)
    assert original["disagreement_forget"].value == 1 > good["disagreement_forget"].value

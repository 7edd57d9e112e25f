"""Records: names those that were left in training, and none of a model that never saw them."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import said, values
from scipy.stats import norm, t

from lethe.core.catalogue import load
from lethe.data.select import Where

records = load("audits", "records")


def test_the_predictive_law_of_one_record():
    """Signals 1, 2, 3 of two records: x̄ = 2, Σ(x − x̄)² = 2, pooled variance 1; a = 4 + 1, b = 3·1 + 1: s = √(4/5·4/3)."""
    theirs = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    p = records.measure.__globals__["surer"](np.array([2.0, 4.0]), theirs, 4.0)
    assert p == pytest.approx([0.5, t.sf(2 / np.sqrt(4 / 5 * 4 / 3), 10)])


def test_records_that_were_left_in_are_named():
    task = tiny.classification(Where(count=20))
    rng, n = np.random.default_rng(0), len(task.forget)
    level = rng.normal(0, 3, n)   # some records are harder than others
    def model(name: str, kept: int = 0) -> object:
        return said(task, name, forget={"signal": level + rng.normal(0, 1, n) + 8.0 * (np.arange(n) < kept)})

    references = [model(f"r{i}") for i in range(8)]
    found = values(records, model("m", kept=3), references)
    assert found["records_worst"].detail["named"] == [str(name) for name in task.forget.ids[:3]]
    assert found["records_seen"].value == pytest.approx(3 / n)
    fresh = [values(records, model(f"f{i}"), references) for i in range(20)]
    assert sum(bool(one["records_worst"].detail["named"]) for one in fresh) <= 1
    assert max(one["records_worst"].value for one in fresh) < found["records_worst"].value


def test_a_model_that_does_not_answer_looks_seen_everywhere():
    task = tiny.classification(Where(count=20))
    rng, n = np.random.default_rng(0), len(task.forget)
    references = [said(task, f"r{i}", forget={"signal": rng.normal(size=n)}) for i in range(4)]
    found = values(records, said(task, forget={"signal": np.full(n, np.nan)}), references)
    assert found["records_seen"].value == 1 and found["records_worst"].value > norm.isf(1e-200)
    assert values(records, references[0]) == {}

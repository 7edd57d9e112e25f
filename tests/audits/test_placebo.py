"""Distances are judged by their excess over unseen rows: what changes everywhere is no trace of the forget set."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import said

from lethe.core.catalogue import load
from lethe.core.evidence import INSIDE, OUTSIDE
from lethe.core.task import Task
from lethe.judge.auditor import examine
from lethe.judge.measured import excess_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


def model(task: Task, name: str, seed: int, forget: float, elsewhere: float) -> Subject:
    """Logits of a common law for each example, moved by seeds and, as a whole, by so much."""
    def logits(n: int, law: int, moved: float) -> dict[str, object]:
        common = np.random.default_rng(law).normal(size=(n, 4))
        own = 0.3 * np.random.default_rng(100 * law + seed).normal(size=(n, 4))
        return {"logits": common + own + moved * np.random.default_rng(9 + law).normal(size=(n, 4))}

    return said(task, name, forget=logits(len(task.forget), 1, forget), holdout=logits(len(task.holdout), 2, elsewhere))


@pytest.mark.parametrize("request_", ["class", "records"])
def test_another_recipe_is_no_trace(request_: str) -> None:
    """Eight references; one model differs on F alone, one everywhere. The plain distance of both is far above the references'."""
    from lethe.data.select import where

    task = tiny.classification() if request_ == "class" else tiny.classification(where(count=40))
    references = [model(task, f"r{k}", k, 0.0, 0.0) for k in range(8)]
    original = model(task, "original", 50, 1.0, 0.0)
    subjects = [model(task, "everywhere", 60, 1.0, 1.0), model(task, "forget", 61, 1.0, 0.0)]
    audit = load("audits", "divergence")
    found = examine(task, subjects, original, references, [(audit, audit.config())])
    told = {name: {e.metric: e for e in items} for name, items in found.items()}
    assert told["everywhere"]["js_forget"].value > 4 * told["r0"]["js_forget"].value
    assert told["everywhere"]["js_excess"].verdict == INSIDE
    assert told["forget"]["js_excess"].verdict == told["original"]["js_excess"].verdict == OUTSIDE


def test_rows_of_a_class_that_goes_are_no_placebo() -> None:
    task = tiny.classification()
    panel = Panel(task, said(task), [])
    rows = panel.placebo(task.holdout)
    assert len(panel.placebo(task.holdout, 20)) == 20 < len(rows) < len(task.holdout)
    assert not (task.holdout.columns["y"][rows] == 3).any()


def test_excess_by_hand() -> None:
    found = excess_value("excess", np.array([3.0, 5.0]), np.arange(10.0))      # 4 over 4.5; variances of the means 1 and 0.917
    assert found.value == pytest.approx(4 / 4.5) and found.per_sample.mean() == pytest.approx(found.value)
    assert found.high is not None
    assert found.high - found.value == pytest.approx(1.959964 * np.sqrt(1 + (4 / 4.5) ** 2 * 55 / 60) / 4.5)
    assert excess_value("excess", np.array([3.0, 5.0]), np.zeros(0)).value == 4

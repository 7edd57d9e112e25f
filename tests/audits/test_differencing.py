"""Differencing: orders and signs by hand; exact deletion that still leaks."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import pool, said, values

from lethe.core.catalogue import load
from lethe.data.select import Where
from lethe.judge.panel import Panel
from lethe.maths.statistics import auc
from lethe.pools.subject import Subject

differencing, reconstruction = load("audits", "differencing"), load("audits", "reconstruction")
from lethe.audits.recovery.differencing import ordered, softmax  # noqa: E402


def test_both_are_sorted_by_the_original():
    before, after = ordered(np.array([[0.1, 0.7, 0.2]]), np.array([[0.5, 0.2, 0.3]]), 2)
    assert before.tolist() == [[0.7, 0.2]] and after.tolist() == [[0.2, 0.3]]


def test_softmax_golden():
    assert softmax(np.array([[np.log(3.0), 0.0]]))[0] == pytest.approx([0.75, 0.25])


def test_the_drop_needs_no_fit_and_no_difference_shows_nothing():
    task = tiny.classification(Where(label=3))
    n, m = len(task.forget), len(task.holdout)
    like = task.holdout.columns["y"].numpy() == 3
    rng = np.random.default_rng(0)
    before = said(task, "o", forget={"signal": rng.normal(size=n)}, holdout={"signal": rng.normal(size=m)})
    after = said(task, "u", forget={"signal": before.numbers(task.forget, "signal") - 2.0},
                 holdout={"signal": before.numbers(task.holdout, "signal") - np.linspace(-1, 3, m)})
    found = {v.metric: v.value for v in differencing.measure(differencing.config(), after, Panel(task, before, []))}
    assert found["difference_gap_auc"] == pytest.approx(auc(np.full(n, 2.0), np.linspace(-1, 3, m)[like]))
    assert found["difference_auc"] > found["difference_base_auc"] + 0.1
    same = {v.metric: v.value for v in differencing.measure(differencing.config(), before, Panel(task, before, []))}
    assert same["difference_gap_auc"] == 0.5 and same["difference_auc"] == pytest.approx(same["difference_base_auc"], abs=0.05)


def test_nothing_is_judged_and_few_examples_say_nothing():
    task, references = tiny.classification(Where(label=3)), pool(Where(label=3), 4)
    original = Subject("o", task.original, task)
    found = values(differencing, references[0], references[1:], original)
    assert len(found) == 5 and values(differencing, references[0], (), original, fewest=1000) == {}
    for audit in (differencing, reconstruction):
        assert all(metric.better == "lower" for metric in audit.metrics.values())


@pytest.mark.slow
def test_exact_deletion_leaks_to_who_has_both_models():
    """60 random digits, 5 % of the labels wrong and memorised: both 0.65 ± 0.03, the retrained model alone 0.46 ± 0.02."""
    from evidence import digits
    from test_controls import retrained

    from lethe.data.select import where

    task = digits(where(count=60), 0.05)
    original = Subject("o", task.original, task)
    found = [values(differencing, r, (), original) for r in retrained(task, 3)]
    both, alone = (np.mean([f[name].value for f in found]) for name in ("difference_auc", "difference_alone_auc"))
    assert both > 0.58 and alone < 0.55
    assert values(differencing, original, (), original)["difference_auc"].value < 0.56

"""Head swap, beside the probe: features that still know are detected whatever the head predicts; retrained ones are not."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from hiding import digits_without_three
from panels import pool, said, silenced, values

from lethe.core.catalogue import load
from lethe.core.evidence import INSIDE, NO_POWER
from lethe.data.select import Where
from lethe.judge.auditor import examine
from lethe.judge.conclusions import conclude
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject

head_swap, probe = load("audits", "head_swap"), load("audits", "probe")


def test_a_stitch_sees_through_a_turned_feature_space():
    """Features of the original, turned and shifted: the map undoes it without a forgotten example."""
    task = tiny.classification(Where(label=3))
    original = Subject("o", task.original, task)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))
    columns = {}
    for key in ("forget", "retain"):
        columns[key] = {"features": original.features(getattr(task, key)) @ turn + 5}
    turned = said(task, **columns)
    panel = Panel(task, original, [])
    found = {v.metric: v for v in head_swap.measure(head_swap.config(), turned, panel)}
    plain = {v.metric: v for v in head_swap.measure(head_swap.config(), original, panel)}
    assert found["stitched_margin"].value == pytest.approx(plain["stitched_margin"].value)
    assert plain["grafted_score"].value == original.numbers(task.forget, "score").mean()
    assert found["grafted_score"].value < plain["grafted_score"].value


def test_controls_of_the_tiny_model():
    task, (fresh, *references) = tiny.classification(Where(label=3)), pool(Where(label=3), 8)
    subjects = [Subject("silent", silenced(task, 3, 30.0), task), Subject("fresh", fresh.model, task)]
    found = examine(task, subjects, Subject("original", task.original, task), references,
                    [(a, a.config()) for a in (head_swap, probe)])
    by = {name: {e.metric: e for e in items} for name, items in found.items()}
    for name in ("original", "silent"):
        assert by[name]["stitched_margin"].direction == "still knows"
        assert by[name]["grafted_score"].value > 0.8
    assert by["fresh"]["stitched_margin"].verdict == INSIDE
    assert by["fresh"]["prototype_recall_5"].verdict in (INSIDE, NO_POWER)


@pytest.mark.slow
def test_controls_on_digits():
    task, (fresh, *references) = digits_without_three()
    subjects = [Subject("silent", silenced(task, 3, 30.0), task), Subject("fresh", fresh.model, task)]
    found = examine(task, subjects, Subject("original", task.original, task), references,
                    [(a, a.config()) for a in (head_swap, probe)])
    by = {name: {e.metric: e for e in items} for name, items in found.items()}
    for metric in ("stitched_margin", "prototype_recall_5"):
        assert by["original"][metric].direction == by["silent"][metric].direction == "still knows"
    assert conclude(found["fresh"]).verdict == INSIDE, conclude(found["fresh"]).text


def test_the_stitch_of_the_original_is_its_own_head():
    """Without shrinkage the map from its features to its logits is its head: margins and score are its own."""
    task = tiny.classification(Where(label=3))
    original = Subject("o", task.original, task)
    found = values(head_swap, original, (), original, penalty=1e-9)
    assert found["stitched_margin"].value == pytest.approx(original.numbers(task.forget, "margin").mean(), abs=1e-3)
    assert found["stitched_score"].value == original.numbers(task.forget, "score").mean()

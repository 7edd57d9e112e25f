"""The relative test: its level where the original is a retrained model too, its power, and its verdict beside one reference."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import pool

from lethe.audits.distance.relative import EDGE, nearer
from lethe.core.evidence import INSIDE, NO_POWER, OUTSIDE
from lethe.data.select import Where
from lethe.judge.auditor import applicable, examine
from lethe.pools.subject import Subject
from lethe.work.job import audit_of

FORGET = Where(label=3)


def test_the_ends_of_the_scale():
    rng = np.random.default_rng(0)
    s, o = rng.normal(size=(80, 3)), rng.normal(size=(80, 3)) + 1
    assert nearer(s, s, o)[0] == pytest.approx(-1) and nearer(o, s, o)[0] == pytest.approx(1)
    assert nearer(s, s, s) is None or abs(nearer(s, s, s)[0]) < 1e-9


@pytest.mark.slow
def test_level_and_power_on_models_that_differ_by_their_seeds():
    """Answers = example + model's own shift (seeds, another recipe) + what training on F adds to the original."""
    rng = np.random.default_rng(1)

    def model(n: int, m: int, trace: float = 0.0, own: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
        shift = own * rng.normal(size=2)
        return easy[:n] + shift + trace + 0.5 * rng.normal(size=(n, 2)), hard[:m] + shift + 0.5 * rng.normal(size=(m, 2))

    false, false_safe, bare, power = [], [], [], []
    for _ in range(200):
        easy, hard = rng.normal(size=(60, 2)), rng.normal(size=(200, 2))
        u, s, o = (model(60, 200) for _ in range(3))
        value, error = nearer(u[0], s[0], o[0], [u[1], s[1], o[1]], features=40, flips=500)
        false.append(value > EDGE * error)
        false_safe.append(value < -EDGE * error)
        value, error = nearer(u[0], s[0], o[0], features=40, flips=500)
        bare.append(value > EDGE * error)
    for _ in range(40):
        easy, hard = rng.normal(size=(60, 2)), rng.normal(size=(200, 2))
        s, o = model(60, 200), model(60, 200, trace=1.5)
        value, error = nearer(o[0], s[0], o[0], [o[1], s[1], o[1]], features=40, flips=500)
        power.append(value > EDGE * error)
    assert np.mean(false) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200) and np.mean(false_safe) <= 0.08
    assert np.mean(bare) > 0.2     # seeds alone: without the placebo it would accuse
    assert np.mean(power) > 0.9


def test_one_retrained_model_is_enough_for_a_verdict():
    task = tiny.classification(FORGET)
    fresh, reference = (Subject(r.name, r.model, task) for r in pool(FORGET, 2))
    original = Subject("original", task.original, task)
    found = examine(task, [fresh, Subject("kept", task.original, task)], original, [reference], [audit_of("relative")])
    verdicts = {name: items[0].verdict for name, items in found.items() if items}
    assert verdicts == {"original": OUTSIDE, "kept": OUTSIDE, fresh.name: INSIDE}
    assert found["kept"][0].direction == "still knows"


def test_where_reference_and_original_answer_alike_it_has_no_power():
    task = tiny.classification(FORGET)
    a, b, c = (Subject(r.name, r.model, task) for r in pool(FORGET, 3))
    found = examine(task, [a], Subject("original", c.model, task), [b], [audit_of("relative")])
    assert {found[name][0].verdict for name in ("original", a.name)} == {NO_POWER}


def test_it_asks_for_one_reference():
    record, _ = audit_of("relative")
    assert applicable(record, tiny.classification(FORGET), 0, "standard") == "needs a retrained model"
    assert not applicable(record, tiny.classification(FORGET), 1, "standard")

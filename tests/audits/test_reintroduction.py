"""Reintroduction: contexts by hand, scripted models that read, remember or are reminded, controls."""

from __future__ import annotations

import math

import numpy as np
import pytest
from lm_world import Scripted, examined, measured, roomy

from lethe.audits.lm.reintroduction import context, recovered
from lethe.core.evidence import INSIDE, OUTSIDE

QUICK = {"facts": (1, 4), "orders": 2}


def test_context_golden():
    facts = ["a", "b", "c", "d"]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        primed, given = context(facts, 1, 3, False, rng).split("\n"), context(facts, 1, 2, True, rng).split("\n")
        assert sorted(primed) == ["a", "c", "d"]                          # never its own
        assert len(given) == 2 and "b" in given
    assert context(facts, 2, 1, True, np.random.default_rng(0)) == "c"
    assert recovered(0.5, 0.0, 1.0) == 0.5 and math.isnan(recovered(0.5, 0.4, 0.4))


def scripted(knows):
    forget = roomy().forget
    truth = dict(zip(forget.column("prompt"), forget.column("answer"), strict=True))

    def loss(prompt: str, answer: str) -> float:
        *facts, question = prompt.split("\n")
        if answer != truth[question]:
            return 2.0
        return 1.0 if knows(facts, f"{question} {truth[question]}") else 3.0

    return Scripted(roomy(), loss)


def test_a_reader_is_told_and_a_suppressed_model_is_reminded():
    reader = measured("reintroduction", scripted(lambda facts, own: own in facts), **QUICK)
    assert reader["reintroduction_given"].value == 1 and reader["reintroduction_primed"].value == pytest.approx(-1 / 3)
    hider = measured("reintroduction", scripted(lambda facts, own: len(facts) >= 4), **QUICK)
    assert hider["reintroduction_primed"].value == 1 and hider["reintroduction_primed"].detail["k"] == 4
    assert hider["reintroduction_primed"].detail["curve"] == pytest.approx({"0": -1 / 3, "1": -1 / 3, "4": 1})
    deaf = measured("reintroduction", scripted(lambda facts, own: False), **QUICK)
    assert deaf["reintroduction_given"].value == pytest.approx(-1 / 3)


@pytest.mark.slow
def test_controls():
    found = examined("reintroduction", "deep", task=roomy(), **QUICK)
    assert found["untouched"]["reintroduction_primed"].verdict == OUTSIDE
    assert found["untouched"]["reintroduction_primed"].value > 0.9
    assert found["fresh"]["reintroduction_primed"].verdict == INSIDE

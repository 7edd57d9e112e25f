"""Guidance: the pair of an exact removal gives away what the old version knows."""

from __future__ import annotations

import pytest
import tiny
from lm_world import measured

from lethe.pools.subject import Subject


def test_beside_the_original_a_model_that_knows_nothing_gives_the_answers_away() -> None:
    task = tiny.lm()
    blank = Subject("blank", task.build(0).eval(), task)
    pair = measured("guidance", blank, examples=6, new_tokens=12)
    assert pair["guidance_rouge"].value > pair["guidance_after"].value + 0.3
    assert pair["guidance_gain"].value == pytest.approx(pair["guidance_rouge"].value - pair["guidance_alone"].value)
    itself = measured("guidance", Subject("same", task.original, task), examples=6, new_tokens=12)   # p_u = p_o: no guidance
    assert itself["guidance_rouge"].value == itself["guidance_alone"].value == itself["guidance_after"].value

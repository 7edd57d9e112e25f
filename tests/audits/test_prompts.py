"""Prompt attacks: scripted models with known answers, leaks that must not be there, controls on the tiny model."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from lm_world import Scripted, examined, measured, roomy

from lethe.audits.lm.prompts import TEMPLATES, asked
from lethe.core.evidence import INSIDE, OUTSIDE
from lethe.judge.questions import above_chance, disjoint, options, right, transferred

QUICK = {"wrong": 3, "shots": 3}


def test_golden():
    assert right(np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 3.0], [3.0, 2.0, 4.0]])).tolist() == [1, 0, 0]   # a tie is no knowledge
    assert above_chance(np.array([0.25, 1.0, 0.0]), 4) == pytest.approx([0, 1, -1 / 3])
    assert transferred("Who is Ann?", "Ann is tall.", "Who is Bob?", "Bob is old.") == "Bob is tall."
    assert transferred("Where is it?", "In Rome.", "Who is Bob?", "Bob is old.") == "In Rome."


def test_options_speak_of_the_same_subject_and_shots_of_others():
    task = roomy()
    found = options(task.forget, task.retain, 3)
    assert [row[0] for row in found] == list(task.forget.column("answer"))
    assert all(len(set(row)) == 4 for row in found)
    assert all(option.split()[0] == row[0].split()[0] for row in found for option in row)      # the name tells nothing
    shots = disjoint(task.retain, task.forget, 5)
    names = {name for prompt in task.forget.column("prompt") for name in prompt.split()[2:3]}
    assert len(shots) == 5 and not any(name in f"{p} {a}" for p, a in shots for name in names)


def test_no_way_of_asking_contains_an_answer():
    task = roomy()
    shots = disjoint(task.retain, task.forget, 5)
    ways = asked(list(task.forget.column("prompt")), shots)
    assert len(ways) == len(TEMPLATES) + 2 and next(iter(ways)) == "plain"
    for prompts in ways.values():
        assert all(answer not in prompt for prompt, answer in zip(prompts, task.forget.column("answer"), strict=True))


def model(knows_when):
    """Loss 1 for the right answer where it is known, else 3; 2 for every other one."""
    truth = {}
    for split in (roomy().retain, roomy().forget):   # two people may share a name
        truth |= dict(zip(split.column("prompt"), split.column("answer"), strict=True))

    def loss(prompt: str, answer: str) -> float:
        question = next(q for q in truth if q in prompt.splitlines()[-1] or q in prompt)
        return (1.0 if knows_when(prompt) else 3.0) if answer == truth[question] else 2.0

    return Scripted(roomy(), loss)


def test_one_way_of_asking_is_enough():
    """Silent when asked plainly and 'known' in the story alone: best 1, plain −1/3, gap not defined beside an equal original."""
    found = measured("prompts", model(lambda prompt: "old teacher" in prompt), **QUICK)
    assert found["prompt_best"].value == 1 and found["prompt_best"].detail["best"] == "story"
    assert found["prompt_plain"].value == pytest.approx(-1 / 3) and found["prompt_lift"].value == pytest.approx(4 / 3)
    assert found["prompt_any"].value == 1 and found["prompt_any"].detail["guessing"] == pytest.approx(1 - 0.75**12)
    assert found["prompt_best"].detail["factor"] is None              # the paper's ratio would be infinite
    none = measured("prompts", model(lambda prompt: False), **QUICK)
    assert none["prompt_best"].value == pytest.approx(-1 / 3) and none["prompt_any"].value == 0 and none["prompt_lift"].value == 0


def test_ways_that_do_not_fit_are_named(monkeypatch):
    task = tiny.lm()
    monkeypatch.setattr(task, "_limit", 64)   # positions
    found = measured("prompts", Scripted(task, lambda prompt, answer: float(len(answer))), **QUICK)
    assert {"story", "few_shot"} <= set(found["prompt_best"].detail["left_out"])
    assert "plain" not in found["prompt_best"].detail["left_out"]


@pytest.mark.slow
def test_controls():
    found = examined("prompts", task=roomy(), shots=3)
    assert found["untouched"]["prompt_best"].verdict == OUTSIDE and found["untouched"]["prompt_best"].value > 0.9
    assert found["fresh"]["prompt_best"].verdict == INSIDE
    assert found["fresh"]["prompt_gap_closed"].value < 0.7

"""LUME: the aggregate by hand from what is said; the original that says all, and retrained models."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
from lm_world import pool

from lethe.core.catalogue import load
from lethe.judge.auditor import applicable
from lethe.judge.panel import Panel
from lethe.models.lm.open import Language, language_model
from lethe.pools.subject import Subject

lume = load("audits", "lume")


def world() -> Language:
    """The tiny task: even records are texts to be continued, odd ones questions; two tasks."""
    known = tiny.lm()
    assert isinstance(known, Language)
    parts = {name: [{"id": f"{name}{i}", "prompt": p, "answer": a, "kind": ("completion", "question")[i % 2],
                     "task": f"Task{1 + i // 2 % 2}"}
                    for i, (p, a) in enumerate(zip(known.splits[name].column("prompt"), known.splits[name].column("answer"),
                                                   strict=True))] for name in ("forget", "retain", "holdout")}
    return language_model(known.original, known.tokenizer, **parts)


def measured(task: Language, model: Any = None) -> dict[str, float]:
    subject = Subject("some", model or task.original, task)
    return {v.metric: v.value for v in lume.measure(lume.config(new_tokens=16), subject, Panel(task, subject, []))}


def test_the_aggregate_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retained: all said. Forgotten: half of each text is continued, questions of Task1 are answered in capitals, of Task2 not.

    Four terms of F: 1 − ½ twice, 1 − 1 and 1 − 0; the 0 makes the harmonic mean 0; answered nowhere it is 8 / (2·2 + 6) = 0.8.
    """
    task = world()
    rows = [row for name in ("forget", "retain") for row in zip(*(task.splits[name].column(c) for c in (
        "prompt", "answer", "kind", "task")), [name] * len(task.splits[name]), strict=True)]

    def say(knows: bool) -> Any:
        def generate(model: Any, prompts: list[str], max_new_tokens: int) -> list[str]:
            assert max_new_tokens == 16
            name = "forget" if len(prompts) == len(task.forget) else "retain"
            some = [row for row in rows if row[4] == name]
            return [answer if name == "retain" else " ".join(answer.split()[: len(answer.split()) // 2] + ["-"] * 3)
                    if kind == "completion" else answer.upper() if knows and one == "Task1" else "no"
                    for _, answer, kind, one, name in some]
        return generate

    answers = [answer for _, answer, kind, _, name in rows if name == "forget" and kind == "completion"]
    half = sum(len(a.split()) // 2 / len(a.split()) for a in answers) / len(answers)
    monkeypatch.setattr(task, "generate", say(True))
    found = measured(task)
    assert found["regurgitation_forget"] == pytest.approx(half, abs=0.02) and found["knowledge_forget"] == 0.5
    assert found["regurgitation_retain"] == found["knowledge_retain"] == 1 and found["lume_aggregate"] == 0
    monkeypatch.setattr(task, "generate", say(False))
    found = measured(task)
    assert found["knowledge_forget"] == 0
    assert found["lume_aggregate"] == pytest.approx(8 / (2 / (1 - half) + 6), abs=0.02)


def test_the_original_says_all_and_a_retrained_model_does_not() -> None:
    task = world()
    before, after = measured(task), measured(task, pool()[1].model)
    assert before["lume_aggregate"] == 0 and after["lume_aggregate"] > 0.3   # measured 0.45; 0 where no retained term is left
    assert before["lume_mia"] < 0.2 and after["lume_mia"] > 0.6              # measured 0.03 and 0.75
    assert before["regurgitation_forget"] > 0.7 > 0.5 > after["regurgitation_forget"]


def test_without_kinds_it_is_skipped() -> None:
    assert str(applicable(lume, tiny.lm(), 4, "standard")).startswith("needs forget.kind")

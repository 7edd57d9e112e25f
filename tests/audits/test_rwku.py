"""RWKU: recall of the first line by level and by kind of attack; the original knows, a retrained model does not."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
from lm_world import pool

from lethe.core.catalogue import load
from lethe.judge.panel import Panel
from lethe.models.lm.open import Language, language_model
from lethe.pools.subject import Subject

rwku = load("audits", "rwku")
KINDS = ["role play", "cross lingual (French)", "cross lingual (Spanish)", "role play"]


def world() -> Language:
    known = tiny.lm()
    assert isinstance(known, Language)
    rows = {name: [{"id": f"{name}{i}", "prompt": p, "answer": a} for i, (p, a) in enumerate(
        zip(known.splits[name].column("prompt"), known.splits[name].column("answer"), strict=True))]
        for name in ("forget", "retain")}
    attacks = [{**row, "kind": kind} for row, kind in zip(rows["forget"], KINDS, strict=False)]
    return language_model(known.original, known.tokenizer, **rows, others={
        "cloze": rows["forget"][:2], "questions": rows["forget"], "attacks": attacks, "near_questions": rows["retain"]})


def measured(task: Language, model: Any = None) -> dict[str, Any]:
    subject = Subject("some", model or task.original, task)
    return {v.metric: v for v in rwku.measure(rwku.config(), subject, Panel(task, subject, []))}


def test_the_first_line_counts_and_kinds_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Role play yields the whole answer, other languages the first half of its words, and only in the second line the rest."""
    task = world()
    truth = dict(zip(task.splits["attacks"].column("prompt"), task.splits["attacks"].column("answer"), strict=True))
    kinds = dict(zip(task.splits["attacks"].column("prompt"), KINDS, strict=True))

    def say(model: Any, prompts: list[str], max_new_tokens: int) -> list[str]:
        asked.append(max_new_tokens)
        return [truth[p] if kinds.get(p) == "role play" else f"{truth.get(p, 'x').split()[0]}\n{truth.get(p)}" for p in prompts]

    asked: list[int] = []
    monkeypatch.setattr(task, "generate", say)
    found = measured(task)
    subject = Subject("some", task.original, task)
    assert rwku.measure(rwku.config(new_tokens=7), subject, Panel(task, subject, [])) and asked == [30] * 4 + [7] * 4
    other = [1 / len(truth[p].split()) for p in truth if kinds[p] != "role play"]
    assert found["rwku_attacks"].detail["kinds"] == {"cross lingual": pytest.approx(sum(other) / 2), "role play": 1}
    assert found["rwku_worst"].value == 1 and found["rwku_worst"].detail == {"kind": "role play"}
    assert found["rwku_attacks"].value == pytest.approx((2 + sum(other)) / 4)
    assert "rwku_near_cloze" not in found and "rwku_near_questions" in found


def test_the_original_knows_and_a_retrained_model_does_not() -> None:
    task = world()
    before, after = measured(task), measured(task, pool()[0].model)
    assert before["rwku_questions"].value > 0.8 > 0.6 > after["rwku_questions"].value          # measured 0.88 and 0.43
    assert before["rwku_worst"].value == 1 and after["rwku_near_questions"].value > 0.5       # measured 0.59

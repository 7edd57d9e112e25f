"""How a record is written: one line of tokens, those that count in brackets."""

from __future__ import annotations

from collections.abc import Iterator

from lethe.core.families.language import LanguageTask
from lethe.data.text import marked
from lethe.work.door.door import Finding
from lethe.work.open import Plan

STAGE = 2


def check(plan: Plan) -> Iterator[Finding]:
    """The first record that stays, as the model reads it; a wrong template or end mark is seen at a glance."""
    for task in plan.tasks.values():
        if isinstance(task, LanguageTask):
            split = task.splits.get("retain", task.splits["forget"])
            yield Finding("ok", f"What is learnt or forgotten of a record stands in brackets: {marked(split, 0, task.tokenizer)}")
            return

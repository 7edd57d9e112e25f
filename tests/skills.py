"""Two kinds of prompts for the tiny language model: questions about people, which are to be forgotten, and sums."""

from __future__ import annotations

from functools import cache

import tiny

from lethe.core.families.language import LanguageTask
from lethe.core.split import Split
from lethe.models.lm.open import language_model


def _sums(first: int, count: int) -> list[dict[str, str]]:
    return [{"prompt": f"{i} plus {3 * i % 17} makes", "answer": f"{i + 3 * i % 17}"} for i in range(first, first + count)]


@cache
def task() -> LanguageTask:
    """Sixteen questions of the tiny task to forget, 24 sums to keep, 16 further questions unseen. The model is as it is."""
    people = LanguageTask.of(tiny.lm())

    def rows(split: Split, count: int) -> list[dict[str, str]]:
        texts = zip(split.column("prompt"), split.column("answer"), strict=True)
        return [{"prompt": prompt, "answer": answer} for prompt, answer in texts if "Selbatan" not in prompt][:count]

    forget = [*rows(people.forget, 7), *rows(people.retain, 9)]
    made = language_model(people.copy_of_original().eval(), people.tokenizer, forget=forget, retain=_sums(1, 24),
                          holdout=rows(people.holdout, 16))
    return made


def further(task: LanguageTask) -> Split:
    """Sixteen sums that the task does not hold."""
    rows = _sums(40, 16)
    return task.encode([row["prompt"] for row in rows], [row["answer"] for row in rows])

"""Equal prompts in what is forgotten and what stays: the same question is to be unlearned and to be answered as before."""

from __future__ import annotations

from collections.abc import Iterator

from lethe.core.families.language import LanguageTask
from lethe.core.language_guard import prompts_of
from lethe.core.split import Split
from lethe.work.door.door import Finding
from lethe.work.open import Plan

STAGE = 2
AT_ONCE = 1024   # records whose tokens are unpacked at a time


def check(plan: Plan) -> Iterator[Finding]:
    """Records to forget whose prompt is one of a record that stays; the answers differ, for equal records are refused."""
    for case, task in plan.tasks.items():
        if not isinstance(task, LanguageTask) or "retain" not in task.splits:
            continue
        forget, retain = task.splits["forget"], task.splits["retain"]
        asked, kept = _prompts(forget), _prompts(retain)
        if len({*asked, *kept}) < 2:
            continue   # texts without a prompt, or all behind the same one
        where = dict(zip(kept, retain.ids.astype(str), strict=True))
        shared = {str(name): where[prompt] for name, prompt in zip(forget.ids, asked, strict=True)
                  if len(prompt) > 1 and prompt in where}
        if shared:
            first, other = next(iter(shared.items()))
            before = f"{case}: " if case else ""
            yield Finding("warn", f"{before}{len(shared)} of {len(asked)} records to forget have the prompt of a record that "
                          f"stays, with another answer ({first} and {other}): methods push the answers to one prompt both ways, "
                          "and guards that look at prompts refuse both.",
                          "Forget those records, too, or tell their prompts apart.")


def _prompts(split: Split) -> list[tuple[int, ...]]:
    """The tokens of each record's prompt."""
    found: list[tuple[int, ...]] = []
    for start in range(0, len(split), AT_ONCE):
        found += map(tuple, prompts_of(split.subset(range(start, min(start + AT_ONCE, len(split))), "same_prompt")))
    return found

"""What is to be forgotten can be told from what stays, and how much it is beside that."""

from __future__ import annotations

from collections.abc import Iterator

from lethe.report.answer import lopsided
from lethe.work.door.door import Finding
from lethe.work.open import Plan

STAGE = 1


def check(plan: Plan) -> Iterator[Finding]:
    """One finding a scenario: more to be forgotten than to be kept, or the sizes."""
    for name, splits in plan.splits.items():
        sizes = {role: len(split) for role, split in splits.items()}
        before = f"{name}: " if name else ""
        if doubt := lopsided(sizes):
            yield Finding("warn", before + doubt)
        else:
            yield Finding("ok", f"{before}{', '.join(f'{role} {size}' for role, size in sizes.items())}.")

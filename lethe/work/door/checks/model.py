"""The model takes the data: the task of every scenario can be made of both."""

from __future__ import annotations

from collections.abc import Iterator

from lethe.work.door.door import Finding
from lethe.work.open import Plan

STAGE = 1


def check(plan: Plan) -> Iterator[Finding]:
    """Make the tasks, which whatever comes later asks; what a family refuses is raised."""
    width = len(plan.tasks)
    yield Finding("ok", f"The model takes the data{f' in all {width} scenarios' if width > 1 else ''}.")

"""Does a training of the user's own reproduce the original? If not, models retrained by it are no yardstick for it.

One control is trained on all training data, forget set included, as the original was. Its mean score on these and on unseen
data must be within DISTANCE of the original's, and twice the standard error of the difference, which small sets have.
"""

from __future__ import annotations

from typing import Any

from lethe.core.task import Task
from lethe.core.words import number
from lethe.judge.yardstick import Doubt
from lethe.pools.subject import Subject

DISTANCE = 0.05   # of scores, which lie in 0 to 1: more than two trainings of one recipe usually differ


def compared(task: Task, original: Subject, control: Subject) -> tuple[dict[str, Any], list[Doubt]]:
    """(scores of both by part, doubts about the yardstick)."""
    found: dict[str, Any] = {}
    far = []
    for part in [name for name in ("forget", "retain", "holdout") if task.has(name)]:
        split = task.splits[part]
        before, again = original.numbers(split, "score"), control.numbers(split, "score")
        error = (before - again).std() / len(split) ** 0.5
        found[part] = {"original": float(before.mean()), "reproduced": float(again.mean())}
        if abs(before.mean() - again.mean()) > DISTANCE + 2 * error:
            far.append(f"{number(again.mean())} instead of {number(before.mean())} on {part}")
    text = (f"recipe.code does not reproduce the original: trained by it on all training data, a model has {task.score_name} "
            f"{', '.join(far)} (allowed: {DISTANCE} and twice the standard error). Models retrained by it differ from the "
            "original for this reason, too.")
    return found, [Doubt("", (), text)] if far else []

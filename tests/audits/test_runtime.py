"""Runtime: a share of retraining."""

from __future__ import annotations

import tiny
from panels import values

from lethe.core.catalogue import load
from lethe.pools.subject import Subject

runtime = load("audits", "runtime")


def test_ratio_of_seconds_and_silence_without_them():
    task = tiny.classification()
    pool = [Subject("a", task.original, task, 4.0), Subject("b", task.original, task, 8.0)]
    assert values(runtime, Subject("m", task.original, task, 3.0), pool)["runtime"].value == 0.5    # 3 / 6
    assert values(runtime, Subject("m", task.original, task), pool) == {}
    assert values(runtime, Subject("m", task.original, task, 3.0)) == {}

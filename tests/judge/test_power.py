"""What the tests would have seen: the dose and its response, from answers that are there."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from panels import said

from lethe.core.evidence import Value
from lethe.core.registry import Audit, Metric
from lethe.judge.auditor import examine
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.judge.power import Power
from lethe.pools.subject import Subject


def mean_signal(cfg: None, subject: Subject, panel: Panel) -> list[Value]:
    return [mean_value("mean", subject.numbers(panel.task.forget, "signal"))]


AUDIT = Audit("mean", object, mean_signal, frozenset({"forget"}), frozenset({"observe"}), "quick",
              {"mean": Metric("mean signal", (-np.inf, np.inf))}, "", "")
SEEN = {      # the original's mean, in standard deviations over seeds -> the smallest part that is seen
    60.0: 0.10,   # a dose of 10 % moves the mean by 6: beyond Student's band (2.6 beside 7 models) from anywhere in ±1.4
    20.0: 0.25,   # 2, 5
    10.0: 0.50,   # 1, 2.5, 5
    4.0: None,    # 0.4, 1, 2
}


@pytest.mark.parametrize("known", SEEN)
def test_the_smallest_part_that_is_seen_follows_from_band_and_trace(known: float) -> None:
    task = tiny.classification()
    n = len(task.forget)
    levels = np.array([-1.2, -0.9, -0.6, -0.3, 0.3, 0.6, 0.9, 1.2])
    levels /= levels.std(ddof=1)
    references = [said(task, f"r{k}", forget={"signal": np.full(n, level)}) for k, level in enumerate(levels)]
    original = said(task, "original", forget={"signal": np.full(n, known)})
    told: list[Power] = []
    examine(task, [], original, references, [(AUDIT, None)], detects=told.append)
    assert told[0].smallest == SEEN[known]
    assert [dose.records for dose in told[0].doses] == [max(1, round(d * n)) for d in (0.10, 0.25, 0.50)]
    assert all(dose.of == 8 for dose in told[0].doses)


def test_with_three_references_nothing_is_said() -> None:
    task = tiny.classification()
    everyone = [said(task, f"m{k}", forget={"signal": np.full(len(task.forget), float(k))}) for k in range(4)]
    told: list[Power] = []
    examine(task, [], everyone[0], everyone[1:], [(AUDIT, None)], detects=told.append)
    assert not told

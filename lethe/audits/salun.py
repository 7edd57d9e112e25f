"""Salun: what it measures in one line. Authors (year), arXiv:0000.00000.

    value = mean over the forget set of the family's score

Range: 0 to 1. A retrained model scores its own value: the yardstick shows which.
Blind to: state what it cannot see.
"""

from __future__ import annotations

from lethe.core.config import Fraction, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.panel import Panel
from lethe.maths.statistics import mean_interval
from lethe.pools.subject import Subject


@config
class Salun:
    """Options of Salun."""

    threshold: Fraction = 0.5     # what counts as known                                [origin?]


@audit(
    metrics={"salun": Metric("share of the forget set that is still known")},
    uses={"observe"},
    needs={"forget"},
    depth="quick",
    blind="Anything that does not show in the score of the forget examples themselves.",
)
def measure(cfg: Salun, subject: Subject, panel: Panel) -> list[Value]:
    known = (subject.seen(panel.task.forget)["score"] >= cfg.threshold).double().numpy()
    low, high = mean_interval(known)
    return [Value("salun", float(known.mean()), low, high, len(known))]

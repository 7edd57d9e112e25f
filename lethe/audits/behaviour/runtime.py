"""Runtime: what the method took, as a share of retraining. Run-time efficiency in Jia et al. 2023, arXiv:2304.04934.

    runtime = seconds of making the model / mean seconds of retraining once

Wall time of the method alone, on this machine; 1 is retraining. Models trained together share the time.
Needs:    the time of the model and of at least one retrained model; nothing is reported otherwise.
"""

from __future__ import annotations

import math

import numpy as np

from lethe.core.config import config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class Runtime:
    """No options."""


@audit(
    metrics={
        "runtime": Metric("seconds of making the model / seconds of one retraining", (0.0, math.inf), "lower", "cost"),
    },
    uses=set(),
    needs={"references"},
    blind="Wall time depends on the machine and on what else ran; preparation that can be reused is counted once.",
)
def measure(cfg: Runtime, subject: Subject, panel: Panel) -> list[Value]:
    retraining = [r.seconds for r in panel.references if r.seconds]
    if subject.seconds is None or not retraining:
        return []
    once = float(np.mean(retraining))
    return [Value("runtime", subject.seconds / once, detail={"seconds": subject.seconds, "retraining": once})]

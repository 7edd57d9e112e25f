"""Prune: does setting small weights to zero bring the forget set back? Jia et al. 2023, arXiv:2304.04934 (weight sparsity).

    recovered = max over shares q ∈ {0, 10, 30, 50, 70 %} of the mean score on F of the model without the ⌊q·n⌋ smallest
                |w| of each matrix;     RR = (recovered − s(M)) / (s(original) − s(M))

An unlearning that writes a small counter-signal into weights that were near zero is undone by taking them out.
Needs:    forget.     Cost: four copies of the model, a pass over F for each.
Limits:   magnitude only; a search for the weights that do the hiding (set-difference pruning) finds more and needs the
          original.
Finds:    digits CNN without class 3 by sign-gradient ascent (n=1, n(F)=106): 0.00–0.02 before, no more after any share, as
          with retrained models (0.00); the original keeps 1.00, 1.00, 0.97, 0.76 at 10, 30, 50, 70 %.
"""

from __future__ import annotations

import math
from functools import partial

from lethe.core.config import Count, Fraction, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.battery import battery, best_of
from lethe.judge.panel import Panel
from lethe.maths.quantise import mapped, pruned
from lethe.pools.subject import Subject


@config
class Prune:
    """Options of the pruning attack."""

    shares: tuple[Fraction, ...] = (0.1, 0.3, 0.5, 0.7)   # of each matrix's weights that are set to 0      [ours]
    retained: Count = 500                                 # retained examples for utility, at most [ours] [changes the detail]


@audit(
    metrics={
        "prune_recovered": Metric("mean score on the forget set after the best pruning by magnitude", aspect="recovery"),
        "prune_ratio": Metric("share of the lost score that pruning brings back", (0.0, math.inf), "lower", aspect="recovery"),
    },
    uses={"observe", "weights"},
    needs={"forget"},
    depth="standard",
    blind="It removes weights by magnitude; weights that hide the answer and are large stay.",
)
def measure(cfg: Prune, subject: Subject, panel: Panel) -> list[Value]:
    attacks = {f"{share:g}": partial(mapped, subject.model, partial(pruned, share=share)) for share in cfg.shares}
    return best_of("prune", battery(subject, panel, attacks, cfg.retained), panel)

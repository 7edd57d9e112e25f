"""Records: which forgotten records look seen, each beside what retrained models say of it. After offline LiRA, Carlini et al.
2022, arXiv:2112.03570; named by Holm 1979.

    p_i = P(T > (φ_i − m_i)/s_i),   T ~ Student's t with 2a + K − 1 degrees of freedom          one-sided: surer than retrained
    named: Holm-adjusted p_i ≤ level          z_i = Φ⁻¹(1 − p_i)

φ_i the membership signal of record i; m_i, s_i the predictive law of one more of K retrained models for this record, with a
prior variance common to all records (`lethe.maths.statistics.student_predictive`, shape a). What is judged is the mean z over
the 5 % of the records where it is highest, beside the same of each reference against the others; which records are named is
shown. A name is a statement about one record: the model is surer of it than at most `level` of retrained models are of any.
Needs:    forget, references.    Cost: one pass over the forget set per model.
Finds:    digits MLP, 60 random records to forget, 15 % wrong labels, 8 references: with a quarter of them left in training 2.8
          records named in the mean (2.6 of them left in), with half 5.3 (all left in), on fresh models 0.02; with a tenth 0.9, in
          half of the models. (12 yardsticks of 8, drawn from 24 models on which prior and level were chosen, too: optimistic.)
Limits:   records that a retrained model is sure of anyway cannot be told; they are not named, whether seen or not.
"""

from __future__ import annotations

import math

import numpy as np

from lethe.core.config import Fraction, Positive, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.statistics import holm, student_predictive
from lethe.pools.subject import Subject


@config
class Records:
    """Options of the test of each record."""

    level: Fraction = 0.01    # of a wrong name anywhere, by Holm; larger names more records     [ours]
    prior: Positive = 4.0     # a; larger: the variance of a record is more that of all records  [ours: 1.5, 2, 4 compared]
    worst: Fraction = 0.05    # share of the records whose mean z is judged                      [ours, as `mia_worst`]


@audit(
    metrics={
        "records_worst": Metric("mean z beside retrained models over the 5 % of the forget set where it is highest",
                                (-math.inf, math.inf), moves=True),
        "records_seen": Metric("share of the forgotten records that look seen, Holm over records", better="lower", null=0.0),
    },
    uses={"observe"},
    needs={"forget", "references"},
    blind="A record that retrained models are sure of anyway cannot look seen; a tenth of the forget set left in training, noisy "
          "copies of it, or an imitation of one retrained model can pass.",
)
def measure(cfg: Records, subject: Subject, panel: Panel) -> list[Value]:
    split = panel.task.forget
    if len(panel.references) < 2:
        return []
    theirs = np.stack([r.numbers(split, "signal") for r in panel.references])
    p = surer(subject.numbers(split, "signal"), theirs, cfg.prior)
    named = np.array(holm(p.tolist())) <= cfg.level
    top = np.sort(scores(p))[-max(1, round(cfg.worst * len(p))):]
    detail = {"named": [str(split.ids[i]) for i in np.flatnonzero(named)], "of": len(p), "level": cfg.level}
    shown = mean_value("records_seen", named.astype(float))
    return [Value("records_worst", float(top.mean()), n=len(top), detail=detail), shown]


def surer(mine: np.ndarray, theirs: np.ndarray, prior: float) -> np.ndarray:
    """One-sided p of each record: that one more retrained model is at least as sure of it.  [n], [K, n] -> [n]

    0 where the model's signal is no number: nothing speaks for a model that does not answer.
    """
    from scipy.stats import t

    centre, scale, freedom = student_predictive(theirs, prior)
    p = t.sf((mine - centre) / scale, freedom)
    return np.where(np.isfinite(mine), p, 0.0)


def scores(p: np.ndarray) -> np.ndarray:
    """Normal scores of p-values, at most 37.  [n] -> [n]"""
    from scipy.stats import norm

    return np.asarray(norm.isf(np.clip(p, 1e-300, 1 - 1e-12)))

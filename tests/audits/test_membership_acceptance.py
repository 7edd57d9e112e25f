"""The product's demonstration on digits: an average hides what an attack on single examples finds, and how attacks rank.

MLP 64-128-128-10, 1000 digits, 60 random ones to forget.
"""

from __future__ import annotations

import numpy as np
import pytest
from evidence import digits
from test_controls import retrained

from lethe.audits.membership.rmia import rmia_scores
from lethe.core.catalogue import load
from lethe.data.select import where
from lethe.judge.panel import Panel
from lethe.maths.membership import log_mean, log_online, log_ratio, two_sided
from lethe.maths.statistics import auc, tpr_at_fpr
from lethe.pools.procedures import NOTHING, RETRAIN
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Subject

pytestmark = pytest.mark.slow


def test_the_population_attack_sees_nothing_where_ulira_sees_memory():
    """5 % wrong labels, nothing was forgotten."""
    task = digits(where(count=60), 0.05)
    shadows, references = Shadows(task, 32, 0, "serial"), retrained(task, 3)
    original = Subject("original", task.original, task, procedure=NOTHING)
    panel = Panel(task, original, references, shadows=shadows)

    def measured(name: str, subject: Subject) -> dict:
        subject.procedure = subject.procedure or RETRAIN
        record = load("audits", name)
        return {v.metric: v for v in record.measure(record.config(), subject, panel)}

    population, attack = measured("threshold", original)["mia_auc"], measured("ulira", original)["ulira_auc"]
    assert 0.44 <= population.value <= 0.56
    assert attack.low > max(population.value, 0.55)   # 0.70, 60 records: 0.60 to 0.78
    for reference in references:
        value = measured("ulira", reference)["ulira_auc"]
        assert value.low <= 0.5 <= value.high


def test_how_the_attacks_rank_when_each_shadow_is_attacked_by_others():
    """15 % wrong labels, 32 shadows, mean AUC over the 32 attacked; the figures stand in the docstrings of lira and rmia.

    With 31 shadows Student's predictive and one variance for all are equal (they differ by 0.003, in either direction
    for other shares of wrong labels); with 8, a variance per example is clearly worse.
    """
    task = digits(where(count=60), 0.15)
    shadows = Shadows(task, 32, 0, "serial")
    models, inside = shadows.trained(32), shadows.inside(32)
    phi = np.stack([m.numbers(shadows.candidates, "signal") for m in models])
    log_x, log_z = (np.stack([-m.numbers(s, "nll") for m in models]) for s in (shadows.candidates, shadows.population))
    rng = np.random.default_rng(0)

    def lira(k: int, rest: np.ndarray, variance: str) -> np.ndarray:
        known = two_sided(inside[rest])
        score = np.full(len(known), np.nan)
        score[known] = log_ratio(phi[k][known], phi[rest][:, known], inside[rest][:, known], variance)
        return score

    def rmia(k: int, rest: np.ndarray) -> np.ndarray:
        return rmia_scores(log_x[k] - log_online(log_x[rest], inside[rest]), log_z[k] - log_mean(log_z[rest]))

    def mean(attack, count: int, at=auc) -> float:
        found = []
        for k in range(32):
            rest = rng.permutation(np.delete(np.arange(32), k))[:count]
            score = attack(k, rest)
            known = ~np.isnan(score)
            found.append(at(score[known & inside[k]], score[known & ~inside[k]]))
        return float(np.mean(found))

    point8, predictive8 = (mean(lambda k, rest, v=v: lira(k, rest, v), 8) for v in ("point", "predictive"))
    predictive, fixed = (mean(lambda k, rest, v=v: lira(k, rest, v), 31) for v in ("predictive", "fixed"))
    one = mean(lambda k, rest: phi[k], 31)
    assert abs(predictive - fixed) < 0.01 and predictive >= one + 0.2, (predictive, fixed, one)
    assert predictive8 >= point8 + 0.02, (predictive8, point8)

    def at_five(members, others):
        return tpr_at_fpr(members, others, 0.05, 2).tpr

    assert mean(lambda k, rest: lira(k, rest, "predictive"), 31, at_five) > 2 * mean(lambda k, rest: phi[k], 31, at_five)
    two, four = mean(rmia, 2), mean(lambda k, rest: lira(k, rest, "predictive"), 4)
    assert two >= four - 0.01, (two, four)   # non-inferior with half the models; measured +0.006 and +0.017 (5 %)

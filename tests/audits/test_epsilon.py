"""ε audit: the attack on every shadow in turn, the threshold from other candidates, and its two controls."""

from __future__ import annotations

import memory
import numpy as np
import pytest

from lethe.core.catalogue import load
from lethe.maths.epsilon import Posterior, rates_bound
from lethe.pools.procedures import NOTHING, RETRAIN
from lethe.pools.subject import Subject

audit = load("audits", "epsilon")
from lethe.audits.membership.epsilon import decided, left_out  # noqa: E402


def shadows_of(effect: float, seed: int, count: int = 16, candidates: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Signals N(difficulty + effect·seen, 1) of shadows, each candidate in half of them."""
    rng = np.random.default_rng(seed)
    inside = rng.random((count, candidates)).argsort(0) < count // 2
    return rng.normal(0, 3, candidates) + effect * inside + rng.normal(0, 1, (count, candidates)), inside


def test_a_shadow_is_attacked_by_the_others_alone():
    signal, inside = shadows_of(1.0, 0)
    moved = signal.copy()
    moved[3] += 100
    before, after = left_out(signal, inside), left_out(moved, inside)
    assert not np.allclose(before[3], after[3]) and not np.allclose(before[0], after[0])
    moved[3] = signal[3]
    assert np.allclose(left_out(moved, inside), before)


def test_decisions_are_about_the_other_half_of_the_candidates():
    """A gap of 8 standard deviations is always decided rightly: 60 candidates in 8 of 16 shadows are 480 a side."""
    signal, inside = shadows_of(8.0, 1)
    tp, fn, fp, tn = decided(left_out(signal, inside), inside, np.random.default_rng(0), 1e-5)
    assert tp + fn == fp + tn == 480 and fn + fp < 5
    assert float(rates_bound(fp, 480, fn, 480, 1e-5)) > 3.5


def test_bounds_on_shadows_that_show_nothing_are_zero():
    """40 audits without an effect: a bound at 95 % may be above 0 in 2; best-of-all-thresholds would be in more."""
    bounds = []
    for seed in range(40):
        signal, inside = shadows_of(0.0, seed)
        tp, fn, fp, tn = decided(left_out(signal, inside), inside, np.random.default_rng(seed), 1e-5)
        bounds.append(float(rates_bound(fp, fp + tn, fn, tp + fn, 1e-5)))
    assert np.mean(np.array(bounds) > 0) <= 0.05


@pytest.mark.parametrize("effect", [1.0, -1.0])
def test_both_directions_are_found(effect):
    signal, inside = shadows_of(effect, 2, 32)
    tp, fn, fp, tn = decided(left_out(signal, inside), inside, np.random.default_rng(0), 1e-5)
    assert float(rates_bound(fp, fp + tn, fn, tp + fn, 1e-5)) > 0.1


@pytest.mark.slow
def test_controls():
    values, (fresh, *references) = {}, memory.retrained(5)
    beside = memory.panel(references)
    for name, model, procedure in (("nothing", beside.task.original, NOTHING), ("retrain", fresh.model, RETRAIN)):
        found = audit.measure(audit.config(), Subject(name, model, beside.task, procedure=procedure), beside)
        values[name] = {v.metric: v for v in found}
    print({name: [(v.metric, v.value, v.low, v.high) for v in found.values()] for name, found in values.items()})
    retrained, nothing = values["retrain"], values["nothing"]
    assert retrained["epsilon"].value == 0 and retrained["epsilon_gdp"].value == 0
    assert nothing["epsilon"].value > 0.3 and nothing["epsilon_gdp"].value > nothing["epsilon"].value
    detail = nothing["epsilon"].detail
    assert detail["independent"] is False and detail["ceiling"] > nothing["epsilon"].value
    posterior = Posterior(*(detail[key] for key in ("tp", "fn", "fp", "tn")), 1e-5)
    assert nothing["epsilon_bayes"].low == posterior.interval()[0] > nothing["epsilon"].value


def test_too_few_shadows_report_nothing():
    beside = memory.panel([], limit=4)
    nothing = Subject("nothing", beside.task.original, beside.task, procedure=NOTHING)
    assert audit.measure(audit.config(), nothing, beside) == []

"""Canary: the guessing game on known scores, false alarms, and its two controls on models that memorise."""

from __future__ import annotations

import memory
import numpy as np
import pytest
import tiny

from lethe.core.catalogue import load
from lethe.core.evidence import OUTSIDE
from lethe.judge.auditor import examine
from lethe.pools.procedures import NOTHING, RETRAIN
from lethe.pools.subject import Subject

audit = load("audits", "canary")
from lethe.audits.membership.canary import centred, mislabelled, plant, right_guesses, two_sided  # noqa: E402


def test_guesses_by_hand():
    """Highest two: in, out; lowest two: in, out. Right: one of each."""
    coins = np.array([1, 0, 1, 1, 1, 0], dtype=bool)
    assert right_guesses(np.array([6.0, 5, 4, 3, 2, 1]), coins, 2) == 2
    assert right_guesses(np.array([6.0, 5, 4, 3, 2, 1]), coins, 1) == 2


def test_either_direction_refutes():
    """60 of 60: q = 0.025^{1/60} = 0.9404, ln(q/(1 − q)) = 2.758; p = 2·2^{−60}."""
    eps, p = two_sided(60, 60, 300)
    assert eps == pytest.approx(2.758, abs=1e-3) and p == pytest.approx(2.0**-59)
    assert two_sided(0, 60, 300) == (eps, p) and two_sided(30, 60, 300) == (0.0, 1.0)
    assert two_sided(39, 60, 300)[0] > 0 > two_sided(39, 60, 300)[1] - 0.05 and two_sided(38, 60, 300)[1] > 0.05


def test_centring_takes_the_difficulty_away():
    difficulty = np.arange(5.0)
    runs = difficulty + np.array([[1.0], [2.0], [6.0]])
    assert centred(runs) == pytest.approx(np.array([[-3.0] * 5, [-1.5] * 5, [4.5] * 5]))
    assert (centred(runs[:1]) == runs[:1]).all()


@pytest.mark.parametrize("runs", [1, 2, 4])
def test_false_alarms_on_models_that_do_not_know_the_coins(runs):
    """2000 audits of 300 canaries, scores of all runs sharing their difficulty: refuted in at most 5 % (± 1 %)."""
    rng, alarms = np.random.default_rng(runs), 0
    for _ in range(2000):
        signal = centred(rng.normal(0, 3, 300) + rng.normal(0, 1, (runs, 300)))
        coins = rng.random((runs, 300)) < 0.5
        right = sum(right_guesses(row, tossed, 30) for row, tossed in zip(signal, coins, strict=True))
        eps, p = two_sided(right, 60 * runs, 300 * runs)
        assert (eps > 0) == (p < 0.05)
        alarms += p < 0.05
    assert alarms / 2000 <= 0.06


def test_bound_holds_for_randomised_answers():
    """A model that says each coin rightly with probability e/(1 + e): the bound exceeds ε = 1 in at most 5 %."""
    rng, over = np.random.default_rng(0), 0
    for _ in range(1000):
        coins = rng.random(300) < 0.5
        said = coins ^ (rng.random(300) > np.e / (1 + np.e))
        right = right_guesses(said + 0.1 * rng.random(300), coins, 30)
        over += two_sided(right, 60, 300)[0] > 1
    assert over / 1000 <= 0.05


def test_canaries_have_wrong_labels_and_are_trained_on_by_the_coin():
    task, panel = memory.task(), memory.panel([])
    planted = plant(audit.config(runs=2), panel.shadows, 0)
    one, two = planted
    assert one.canaries is two.canaries and len(one.canaries) == 80 and (one.coins != two.coins).any()
    source = {f"canary {i}": int(y) for i, y in zip(task.holdout.ids, task.holdout.columns["y"], strict=True)}
    assert all(source[i] != int(y) for i, y in zip(one.canaries.ids, one.canaries.columns["y"], strict=True))
    assert set(one.task.forget.ids) == set(one.canaries.ids[one.coins])
    assert not {i.removeprefix("canary ") for i in one.canaries.ids} & set(one.task.holdout.ids)
    known = Subject("planted", one.task.model, task).numbers(one.canaries, "score")
    assert known[one.coins].mean() > 0.5 > 0.25 > known[~one.coins].mean()


@pytest.mark.slow
def test_texts_and_pictures_serve_as_they_are():
    task = tiny.lm()
    assert mislabelled(task, task.holdout, 0) is task.holdout


def test_controls_and_verdict():
    """Doing nothing is refuted by one run and by the auditor; retraining is not."""
    fresh, *references = memory.retrained(7)
    panel, seen = memory.panel(references), {}
    for name, model, procedure in (("nothing", panel.task.original, NOTHING), ("retrain", fresh.model, RETRAIN)):
        found = audit.measure(audit.config(), Subject(name, model, panel.task, procedure=procedure), panel)
        seen[name] = {v.metric: v for v in found}
    assert seen["nothing"]["canary_epsilon"].value > 0.5 and seen["nothing"]["canary_epsilon"].detail["refuted"]
    assert seen["retrain"]["canary_epsilon"].value == 0 and not seen["retrain"]["canary_epsilon"].detail["refuted"]
    assert seen["nothing"]["canary_accuracy"].n == 32 and seen["nothing"]["canary_accuracy"].detail["canaries"] == 160

    original = Subject("original", panel.task.original, panel.task, procedure=NOTHING)
    made = [Subject(r.name, r.model, panel.task, procedure=RETRAIN) for r in (fresh, *references)]
    evidence = examine(panel.task, made[:1], original, made[1:], [(audit, audit.config())], shadows=panel.shadows)
    verdicts = {name: items[0].verdict for name, items in evidence.items()}
    assert [name for name, verdict in verdicts.items() if verdict == OUTSIDE] == ["original"]
    assert evidence["original"][0].direction == "still knows"
    assert evidence["r0"][0].yardstick.mean == pytest.approx(0.5, abs=0.02)


def test_too_few_canaries_report_nothing():
    panel = memory.panel([])
    nothing = Subject("nothing", panel.task.original, panel.task, procedure=NOTHING)
    assert audit.measure(audit.config(canaries=39), nothing, panel) == []

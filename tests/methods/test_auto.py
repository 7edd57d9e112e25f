"""Auto: parts that do not overlap, the untouched model as a candidate, the best of what was tried, an honest yardstick."""

from __future__ import annotations

import itertools
import math

import byhand
import numpy as np
import pytest
import running
import torch
from tiny import TASKS
from torch import nn

import lethe
from lethe.core import catalogue
from lethe.core.modules import state_fingerprint
from lethe.core.outcome import Outcome
from lethe.core.registry import Method
from lethe.core.seeds import derive
from lethe.core.task import Task
from lethe.core.view import audited
from lethe.data.select import Where
from lethe.errors import NeedsUnmet, OutOfRange
from lethe.judge.candidates import Scorer, Seen, probability
from lethe.judge.selection import final, halves, other
from lethe.methods.search.auto import ALIKE, Auto, beside, candidates, likeliest, ranged, rounds, seconds_of, yardstick_of
from lethe.models.classification.task import Classification
from lethe.report.search import front
from lethe.report.view import cases
from lethe.results.odds import Odds
from lethe.train.apply import apply, fitting
from lethe.train.loop import Loop, Settings
from lethe.train.watchdog import Watchdog

TASK = TASKS["classification"]()
FEW = ("finetune", "random_label", "ssd")


def test_selection_and_final_part_divide_forget_and_holdout() -> None:
    view = TASK.granted({"forget", "original", "holdout?"})
    for whole, (first, last) in ((TASK.forget, halves(TASK.forget)), (TASK.holdout, (other(view), audited(TASK.holdout)))):
        one, two = set(first.ids.tolist()), set(last.ids.tolist())
        assert not one & two and one | two == set(whole.ids.tolist())
    assert final(TASK).retain is TASK.retain and len(final(TASK).forget) == len(halves(TASK.forget)[1])


def test_a_small_forget_set_is_not_divided_and_a_note_says_so() -> None:
    task = TASKS["classification"].__wrapped__(Where(index=(3, 7)))
    assert len(final(task).forget) == 2
    outcome = lethe.forget(task, "auto", methods=("ssd",), trials=1, progress=False)
    assert any("2 examples" in note for note in outcome.notes)


def test_halving_leaves_the_better_half_and_gives_it_twice_as_much() -> None:
    order = list(itertools.islice(rounds(["a", "b", "c", "d"], {"a": 3, "b": 1, "c": 2, "d": 4}.__getitem__), 12))
    assert order == [(0, "a"), (0, "b"), (0, "c"), (0, "d"), (1, "b"), (1, "c"), (2, "b"), (2, "b"), *[(3, "b")] * 4]


def test_times() -> None:
    assert seconds_of("10 min") == 600 and seconds_of("1.5h") == 5400 and math.isinf(seconds_of(""))
    with pytest.raises(OutOfRange, match=r"ten minutes.*10 min"):
        seconds_of("ten minutes")


def far(score: Scorer, model: nn.Module) -> float:
    return sum(score.distances(score.seen(model)))


@pytest.mark.parametrize("yardstick", ["unseen", "short", "retrained"])
def test_the_scores_of_controls(yardstick: str) -> None:
    """The untouched model must be far, a retrained one near."""
    loop = Loop(TASK, Settings())
    score = Scorer(TASK, beside=[one.answering for one in beside(yardstick, TASK, loop)[0]])
    assert far(score, TASK.original) > far(score, lethe.forget(TASK, "retrain", seed=9, progress=False).model) + 0.3
    whole = TASK.recipe.epochs * len(TASK.retain)
    assert loop.cost.examples == pytest.approx({"unseen": 0, "short": 1, "retrained": 2}[yardstick] * whole, rel=0.1)


def test_a_short_yardstick_is_trained_at_the_rate_of_renew() -> None:
    """At a faster one its models are better than those of the recipe, and farther from them."""
    (first, _), sound = beside("short", TASK, Loop(TASK, Settings()), offered=True)
    alike = running.run("scratch", TASK, derive(0, "auto yardstick", 0), share=0.5, rate=2.0, warm_up=0.0)
    assert sound and state_fingerprint(first.model) == state_fingerprint(alike.model)


def test_a_model_of_the_yardstick_is_seen_by_the_others_alone() -> None:
    """Of two each by the other: the mean of both would make it look nearer than any other model can be."""
    one, two = TASK.build(5), TASK.build(6)
    score, beside_two = Scorer(TASK, beside=[one, two]), Scorer(TASK, beside=[two])
    for name in ("forget", "utility"):
        assert getattr(score.among[0], name) == pytest.approx(getattr(beside_two.seen(one), name))
    assert Scorer(TASK, beside=[one]).among == [] == Scorer(TASK).among


def test_a_model_of_the_yardstick_is_a_candidate_where_the_watchdog_would_deliver_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there already; not of the methods that were asked for, and not a model that has learned too little."""
    def searched(**asked: object) -> tuple[list[str], str]:
        outcome = lethe.forget(TASK, "auto", trials=1, progress=False, **asked)
        return [row["method"] for row in outcome.search], outcome.notes[0]

    monkeypatch.setattr("lethe.methods.search.auto.NEARLY", 100)   # the cheapest of all that are near
    monkeypatch.setattr("lethe.methods.search.auto.likeliest",     # first one that is farther, whatever was measured of each
                        lambda names, task: sorted(names, key=lambda name: name != "finetune"))
    tried, why = searched()
    assert tried[:2] == ["nothing", "scratch"] and why.startswith("auto chose scratch (") and "of which it is one" in why
    tried, why = searched(methods=FEW)
    assert tried == ["nothing", "finetune"] and "of which it is one" not in why
    monkeypatch.setitem(ALIKE, "rate", 1e-9)
    assert "scratch" not in searched()[0]
    (first, _), sound = beside("short", TASK, Loop(TASK, Settings(), watchdog=Watchdog()), offered=True)
    assert not sound and first.fall is None, "the yardstick itself is what it was"


@pytest.mark.parametrize(("where", "share"), [(Where(label=3), 0.5), (Where(index=tuple(range(40))), 0.0)])
def test_the_original_is_a_yardstick_of_other_classes_alone(where: Where, share: float) -> None:
    """Where records leave, what they taught it of unseen data has to go, too."""
    task = TASKS["classification"].__wrapped__(where)
    model, alone = task.build(5), Scorer(task)
    score = Scorer(task, beside=[model])
    p = probability(score._subject(model), score.other)
    kept = score.other.columns["y"].numpy() != 3 if share else np.ones(len(p), dtype=bool)
    assert score.rest[kept] == pytest.approx((share * alone.rest + (1 - share) * p)[kept])
    assert score.rest[~kept] == pytest.approx(p[~kept])


def test_the_yardstick_is_the_best_that_was_granted() -> None:
    assert yardstick_of(Auto(), TASK) == "short" and yardstick_of(Auto(yardstick="unseen"), TASK) == "unseen"
    poor = TASK.granted({"forget", "original", "holdout"})
    assert yardstick_of(Auto(), poor) == "unseen"
    with pytest.raises(NeedsUnmet, match="yardstick=unseen"):
        yardstick_of(Auto(yardstick="short"), poor)
    mixed = TASKS["classification"].__wrapped__(Where(index=tuple(range(40))))
    assert "scar" in fitting(mixed) and "scar" not in candidates(mixed, ()), "its own check refuses a forget set of every class"
    assert "scratch" not in candidates(TASK, (), "short"), "it trains the yardstick"
    assert candidates(TASK, ("scratch",), "short") == ["scratch"]
    assert "scratch" in candidates(TASK, (), "unseen")
    assert "renew" in candidates(TASK, ()) and "renew" not in candidates(poor, ())


def test_the_likeliest_by_what_was_measured_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four that tune the third and fourth come after the first two of another mechanism, however likely."""
    chances = {"finetune": 5, "cf_k": 4, "eu_k": 3, "renew": 2, "ssd": 1, "gradient_ascent": 0}
    monkeypatch.setattr("lethe.methods.search.auto.odds", lambda name, *_, **__: Odds(chances[name], 6))
    kinds = [catalogue.entries("methods")[name].mechanism for name in chances]
    assert kinds == ["tuning"] * 4 + ["mask", "ascent"]
    assert likeliest(list(chances), TASK) == ["finetune", "cf_k", "ssd", "gradient_ascent", "eu_k", "renew"]


def test_the_best_candidate_is_chosen_and_everything_that_was_tried_is_kept() -> None:
    before = TASK.fingerprint
    outcome = lethe.forget(TASK, "auto", methods=FEW, trials=7, yardstick="unseen", progress=False)
    assert outcome.search[0]["method"] == "nothing" and len(outcome.search) == 8
    known = [line["distance"] for line in outcome.search if line["distance"] is not None]
    chosen = [line for line in outcome.search if line["chosen"]]
    assert len(chosen) == 1 and min(known) <= chosen[0]["distance"] < outcome.search[0]["distance"]
    assert outcome.config["chosen"]["name"] == chosen[0]["method"] and f"auto chose {chosen[0]['method']}" in outcome.notes[0]
    view = TASK.granted({"forget", "original", "retain", "holdout"})
    assert far(Scorer(view), outcome.model) == pytest.approx(chosen[0]["distance"])
    assert outcome.search[0]["front"] and any(line["front"] and line["number"] for line in outcome.search)
    for line in outcome.search:   # the front by hand: beaten by none in all three
        parts = [line[key] for key in ("forgetting", "utility", "cost")]
        if None not in parts:
            others = [[other[key] for key in ("forgetting", "utility", "cost")] for other in outcome.search]
            beaten = any(all(a <= b for a, b in zip(other, parts, strict=True)) and other != parts
                         for other in others if None not in other)
            assert line["front"] is not beaten
    assert TASK.fingerprint == before
    again = lethe.forget(TASK, "auto", methods=FEW, trials=7, yardstick="unseen", progress=False)
    assert state_fingerprint(again.model) == state_fingerprint(outcome.model)
    assert not any(line["modifiers"] for line in outcome.search[:5]) and any(line["modifiers"] for line in outcome.search[5:])
    for line in outcome.search[4:]:
        limits = ranged(catalogue.load("methods", line["method"]).config)
        assert limits.keys() == line["settings"].keys()
        assert all(limits[key][0] * 0.99 <= value <= limits[key][1] * 1.01 for key, value in line["settings"].items())


def test_doing_nothing_wins_when_nothing_is_better() -> None:
    outcome = lethe.forget(TASK, "auto", methods=("gradient_ascent",), trials=1, budget="0.000001 s", progress=False)
    assert outcome.config["chosen"] == {"name": "nothing"} and len(outcome.search) == 1
    assert state_fingerprint(outcome.model) == state_fingerprint(TASK.original)


def test_a_method_that_changed_nothing_is_not_chosen_and_gets_no_more_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    def idle(task: Task, record: Method, *rest: object, **options: object) -> Outcome:
        outcome = apply(task, record, *rest, **options)
        if record.name == "ssd":
            outcome.model, outcome.unchanged = task.copy_of_original(), True
        return outcome

    monkeypatch.setattr("lethe.methods.search.auto.apply", idle)
    trials = lethe.forget(TASK, "auto", methods=("ssd", "finetune"), trials=4, progress=False).search
    assert [trial["method"] for trial in trials] == ["nothing", "ssd", "finetune", "finetune", "finetune"]
    assert trials[1]["error"] == "nothing changed" and not trials[1]["chosen"]


def test_candidates_are_no_searches_and_what_cannot_run_is_refused() -> None:
    usual = candidates(TASK, ())
    assert "scrub" in usual and not {"retrain", "auto", "npo"} & set(usual)
    with pytest.raises(NeedsUnmet, match="npo"):
        candidates(TASK, ("npo",))
    lonely = Classification(TASK.copy_of_original(), {"forget": TASK.forget})
    with pytest.raises(NeedsUnmet, match="holdout"):
        lethe.forget(lonely, "auto")


def test_the_audit_after_a_search_sees_the_other_half() -> None:
    methods = [{"name": "auto", "methods": FEW, "trials": 3}, "finetune"]
    report = lethe.compare(TASK, methods, references=2, shadows=0, depth="quick")
    assert report.results.scenarios[0].sizes["forget"] == len(halves(TASK.forget)[1])
    assert report.results.scenarios[0].sizes["holdout"] == len(audited(TASK.holdout)), "the search looked at the other half"
    rows = {row.name: row for row in report.rows()}
    assert len(rows["auto"].search) == 4 and rows["finetune"].search == ()
    (label, found), = front(cases(report.results)[0])
    assert label == "auto" and found == sorted((one for one in rows["auto"].search if one.front), key=lambda one: one.forgetting)


def test_a_candidate_that_raises_anything_is_a_failed_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(task: Task, record: Method, *rest: object, **options: object) -> Outcome:
        if record.name == "ssd":
            raise RuntimeError("out of memory")
        return apply(task, record, *rest, **options)

    monkeypatch.setattr("lethe.methods.search.auto.apply", failing)
    trials = lethe.forget(TASK, "auto", methods=("ssd", "finetune"), trials=2, progress=False).search
    errors = {trial["method"]: trial["error"] for trial in trials}
    assert errors["ssd"] == "RuntimeError: out of memory" and errors["finetune"] == ""


def test_a_gain_that_resampling_does_not_confirm_is_noise() -> None:
    """A retrained model is better than the untouched one beyond doubt; the untouched one, moved by next to nothing, is not."""
    score = Scorer(TASK)
    start = score.seen(TASK.original)
    assert score.nearer(score.seen(lethe.forget(TASK, "retrain", seed=9, progress=False).model), start, 0.95)
    for seed in range(3):
        model = TASK.copy_of_original()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1e-3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))
        assert not score.nearer(score.seen(model), start, 0.95)


@pytest.mark.parametrize(("scores", "alike", "sure", "chosen"), [
    ([(0.5, 0.5), (0.6, 0.1), (0.1, 0.8)], False, True, "finetune"),             # 0.7 is less than 1 and 0.9
    ([(0.5, 0.5), (0.6, 0.3), (0.1, 0.7)], False, True, "gradient_ascent"),      # 0.8 is less than 0.9: both parts count
    ([(0.5, 0.5), (0.6, 0.2), (0.1, 0.8)], True, True, "gradient_ascent"),       # no farther beyond noise, and cheaper
    ([(0.5, 0.5), (0.6, 0.1), (0.1, 0.8)], True, True, "finetune"),              # noise or not, 0.9 is a quarter more than 0.7
    ([(0.5, 0.5), (0.6, 0.3), (0.1, 0.7)], True, True, "gradient_ascent"),
    ([(0.1, 0.1), (0.6, 0.1), (0.1, 0.8)], False, False, "nothing"),
])
def test_the_choice_by_hand(scores: list[tuple[float, float]], alike: bool, sure: bool, chosen: str,
                            monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores are scripted: of the untouched model first, then of each method at its published settings."""
    task, told, seen = byhand.classification(), iter(scores), []

    class Scripted:
        def __init__(self, *_: object) -> None:
            pass

        def seen(self, model: nn.Module) -> Seen:
            seen.append(model)
            return Seen(np.array([next(told)]), np.zeros(1))

        def distances(self, one: Seen) -> tuple[float, float]:
            return tuple(one.forget[0])

        def nearer(self, one: Seen, than: Seen, share: float) -> bool:
            return sure if share > 0.9 else not alike

    monkeypatch.setattr("lethe.methods.search.auto.Scorer", Scripted)
    outcome = byhand.outcome("auto", task, trials=2, methods=("finetune", "gradient_ascent"), yardstick="unseen")
    assert next(line["method"] for line in outcome.search if line["chosen"]) == chosen
    other = task.original if chosen == "nothing" else running.run(chosen, task).model
    for name, p in other.named_parameters():
        assert p.equal(outcome.model.get_parameter(name))
    costs = {line["method"]: line["cost"] for line in outcome.search}
    assert len(seen) == 3 and 0 == costs["nothing"] < costs["gradient_ascent"] < costs["finetune"]

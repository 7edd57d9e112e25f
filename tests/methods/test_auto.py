"""Auto: parts that do not overlap, the untouched model as a candidate, the best of what was tried, an honest yardstick."""

from __future__ import annotations

import itertools
import math

import byhand
import pytest
import running
import torch
from tiny import TASKS
from torch import nn

import lethe
from lethe.core.modules import state_fingerprint
from lethe.core.outcome import Outcome
from lethe.core.registry import Method
from lethe.core.task import Task
from lethe.core.view import audited
from lethe.data.select import Where
from lethe.errors import NeedsUnmet, OutOfRange
from lethe.judge.selection import final, halves, other
from lethe.methods.search.auto import RANGES, Auto, Scorer, candidates, rounds, seconds_of
from lethe.models.classification.task import Classification
from lethe.train.apply import apply
from lethe.train.loop import Settings

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


@pytest.mark.parametrize("yardstick", ["unseen", "retrained"])
def test_the_scores_of_controls(yardstick: str) -> None:
    """The untouched model must be far, a retrained one near."""
    score = Scorer(TASK, Auto(yardstick=yardstick), Settings())
    retrained = lethe.forget(TASK, "retrain", seed=9, progress=False).model
    assert sum(score(TASK.original)) > sum(score(retrained)) + 0.4   # AUC of 20 against 15 examples: ±0.2 of 2·AUC − 1


def test_the_best_candidate_is_chosen_and_everything_that_was_tried_is_kept() -> None:
    before = TASK.fingerprint
    outcome = lethe.forget(TASK, "auto", methods=FEW, trials=7, progress=False)
    assert outcome.search[0]["method"] == "nothing" and len(outcome.search) == 8
    known = [line["distance"] for line in outcome.search if line["distance"] is not None]
    chosen = [line for line in outcome.search if line["chosen"]]
    assert len(chosen) == 1 and chosen[0]["distance"] == min(known) < outcome.search[0]["distance"]
    assert outcome.config["chosen"]["name"] == chosen[0]["method"] and "deployable" in outcome.notes[0]
    view = TASK.granted({"forget", "original", "retain", "holdout"})
    assert sum(Scorer(view, Auto(), Settings())(outcome.model)) == pytest.approx(min(known))
    assert TASK.fingerprint == before
    again = lethe.forget(TASK, "auto", methods=FEW, trials=7, progress=False)
    assert state_fingerprint(again.model) == state_fingerprint(outcome.model)
    published = [line for line in outcome.search if line["round"]]
    assert all(set(line["settings"]) <= set(RANGES) for line in published)


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


def test_candidates_do_not_retrain_and_what_cannot_run_is_refused() -> None:
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
    score = Scorer(TASK, Auto(), Settings())
    assert score.sure(lethe.forget(TASK, "retrain", seed=9, progress=False).model)
    for seed in range(3):
        model = TASK.copy_of_original()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1e-3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))
        assert not score.sure(model)


@pytest.mark.parametrize(("scores", "sure", "chosen"), [
    ([(0.5, 0.5), (0.6, 0.1), (0.1, 0.8)], True, "finetune"),             # 0.7 is less than 1 and 0.9
    ([(0.5, 0.5), (0.6, 0.3), (0.1, 0.7)], True, "gradient_ascent"),      # 0.8 is less than 0.9: both parts count
    ([(0.1, 0.1), (0.6, 0.1), (0.1, 0.8)], True, "nothing"),
    ([(0.5, 0.5), (0.6, 0.1), (0.1, 0.8)], False, "nothing"),
])
def test_the_choice_by_hand(scores: list[tuple[float, float]], sure: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores are scripted: of the untouched model first, then of each method at its published settings."""
    task, told, seen = byhand.classification(), iter(scores), []

    class Scripted:
        def __init__(self, *_: object) -> None:
            pass

        def __call__(self, model: nn.Module) -> tuple[float, float]:
            seen.append(model)
            return next(told)

        def sure(self, model: nn.Module) -> bool:
            return sure

    monkeypatch.setattr("lethe.methods.search.auto.Scorer", Scripted)
    outcome = byhand.outcome("auto", task, trials=2, methods=("finetune", "gradient_ascent"))
    assert next(line["method"] for line in outcome.search if line["chosen"]) == chosen
    other = task.original if chosen == "nothing" else running.run(chosen, task).model
    for name, p in other.named_parameters():
        assert p.equal(outcome.model.get_parameter(name))
    assert len(seen) == 3

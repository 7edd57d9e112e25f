"""The three answers on a model: forgotten, useful, indistinguishable; one band decides all of them."""

from __future__ import annotations

import math

import pytest
from test_auditor import SPREAD, exam

from lethe.core.evidence import OUTSIDE
from lethe.judge.answers import NO, NOT_SHOWN, UNKNOWN, YES, Answers, answers, forgotten
from lethe.judge.conclusions import conclude
from lethe.results.answered import remedy

KNOWS, LOW = {"known": 0.9, "memory": 0.9, "test_score": 0.11}, {"known": 0.11, "memory": 0.11, "test_score": 0.11}
REFERENCES = [{"known": x, "memory": x, "test_score": x} for x in SPREAD]


def told(model: dict[str, float], original: dict[str, float] | None = None, **options: object) -> Answers:
    references = [dict.fromkeys(model, x) for x in SPREAD]
    return answers(exam(model, original or KNOWS, references, **options)["model"], "score", 0.03)


def test_the_untouched_model_has_not_forgotten_and_a_retrained_one_passes_all_three() -> None:
    untouched, retrained = told(KNOWS), told(LOW)
    assert (untouched.forgotten.answer, untouched.indistinguishable.answer) == (NO, NO)
    assert untouched.forgotten.test is not None and untouched.forgotten.test.share == pytest.approx(1)
    assert (retrained.forgotten.answer, retrained.indistinguishable.answer) == (YES, YES)
    assert retrained.forgotten.tests == 2 and retrained.conspicuous is None and untouched.conspicuous is None


def test_the_far_side_does_not_count_against_forgetting_and_is_conspicuous() -> None:
    found = told({"known": 0.11, "memory": 0.0, "test_score": 0.11})
    assert found.forgotten.answer == YES and found.indistinguishable.answer == NO
    assert found.conspicuous is not None and found.conspicuous.metric == "memory" and found.conspicuous.size < 0


def test_a_distance_has_no_side() -> None:
    """It decides on the third question; alone it answers nothing about forgetting, and is no trait while data are known."""
    far = told({"far": 0.9, "known": 0.11}, {"far": 0.9, "known": 0.9})
    assert (far.forgotten.answer, far.forgotten.tests, far.indistinguishable.answer) == (YES, 1, NO)
    assert far.conspicuous is not None and far.conspicuous.metric == "far"
    assert told({"far": 0.9, "known": 0.9}, {"far": 0.9, "known": 0.9}).conspicuous is None
    alone = told({"far": 0.9}, {"far": 0.9})
    assert alone.forgotten.answer == UNKNOWN and "measure distances" in alone.forgotten.why


def test_where_nothing_detects_the_original_there_is_nothing_to_find() -> None:
    found = told(LOW, LOW)
    assert found.forgotten.answer == found.indistinguishable.answer == UNKNOWN
    assert "nothing to find" in found.forgotten.why and "nothing to find" in found.indistinguishable.why


def test_two_retrained_models_are_too_few_and_not_none() -> None:
    """Two were trained, and the page said that there were none and how the model was trained was to be stated."""
    items = exam({"known": 0.11}, {"known": 0.9}, [{"known": 0.1}, {"known": 0.12}])["model"]
    for why in (answers(items, "score", 0.03, 2).forgotten.why, answers(items, "score", 0.03, 2).indistinguishable.why):
        assert "too few retrained models" in why and "let more models be trained" in remedy(why)
    assert conclude(items, 2).text.startswith("Only 2 retrained models")
    assert "no retrained models" in answers(items, "score", 0.03).forgotten.why


def test_without_retrained_models_only_usefulness_is_answered_against_the_original() -> None:
    near = [{"known": x, "test_score": x} for x in SPREAD]
    items = exam({"known": 0.11, "test_score": 0.0}, {"known": 0.9, "test_score": 0.11}, [], near)["model"]
    found = answers(items, "score", 0.03)
    assert found.forgotten.answer == UNKNOWN and "no retrained models" in found.forgotten.why
    assert (found.useful.answer, found.useful.against, found.useful.lost) == (NO, "original", pytest.approx(0.11))
    lost = [e for e in items if e.metric == "test_score" and e.verdict == OUTSIDE]   # worse than the original's neighbours
    assert lost and found.indistinguishable.answer == UNKNOWN and "no retrained models" in found.indistinguishable.why


@pytest.mark.parametrize(("score", "answer"), [(0.2, YES), (0.11, YES), (0.09, NOT_SHOWN), (0.05, NO), (math.nan, NO)])
def test_useful_is_yes_where_the_interval_of_the_loss_ends_within_the_margin(score: float, answer: str) -> None:
    """Lost 0.02 ± 0.011 (t₇ · sd/√8) beside 0.03; 0.06 is beyond it; NaN has lost everything."""
    assert told({**LOW, "test_score": score}).useful.answer == answer


def test_the_three_share_one_band() -> None:
    """Whatever the value: 'no' to forgotten or a trait makes 'no' to indistinguishable, and only what lies outside its band."""
    for x in (0.0, 0.05, 0.08, 0.11, 0.13, 0.15, 0.18, 0.3):
        found = exam({"known": x, "memory": 0.11}, {"known": 0.9, "memory": 0.9}, REFERENCES)["model"]
        said, known = answers(found, "score", 0.03), found[0]
        beyond = not known.yardstick.low <= x <= known.yardstick.high
        assert beyond == (known.verdict == OUTSIDE) == (said.indistinguishable.answer == NO)
        assert (said.forgotten.answer == NO) == (beyond and x > 0.11) and (said.conspicuous is not None) == (beyond and x < 0.11)


def test_the_power_is_the_smallest_difference_that_is_seen() -> None:
    found = told(LOW).forgotten.test
    assert found is not None and found.detectable is not None
    middle = 0.11
    for step, answer in ((0.99, YES), (1.01, NO)):
        assert told({**LOW, "known": middle + step * found.detectable}).forgotten.answer == answer


def test_a_model_that_answers_nothing_cannot_be_judged() -> None:
    assert forgotten([]).answer == UNKNOWN
    assert told({"known": math.nan}, {"known": 0.9}).forgotten.answer == UNKNOWN

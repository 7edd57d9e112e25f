"""The auditor: verdicts, controls, multiplicity, and the sentence that sums them up."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from lethe.core.catalogue import entries
from lethe.core.config import config
from lethe.core.evidence import INSIDE, NO_POWER, NO_YARDSTICK, OUTSIDE, SHOWN, Evidence, Value, Yardstick
from lethe.core.registry import Metric, audit
from lethe.errors import ModelError
from lethe.judge.auditor import examine
from lethe.judge.band import law_of
from lethe.judge.conclusions import conclude
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.judge.scale import scale_of
from lethe.judge.verdict import controlled, judge
from lethe.pools.subject import Subject
from lethe.results.rows import measurement


@config
class Numbers:
    """No options."""


@audit(
    metrics={
        "known": Metric("memory"), "memory": Metric("memory", (0, math.inf)), "far": Metric("far", distance=True),
        "skill": Metric("skill", better="higher", tier="utility"),
        "loss_*": Metric("loss", better="lower", tier="utility"),
        "time": Metric("time", better="lower", tier="cost"),
        "attack": Metric("attack", null=0.5), "back": Metric("back", aspect="recovery"),
        "moving": Metric("loss", moves=True),
        "forget_score": Metric("forget"), "retain_score": Metric("retain", better="higher", tier="utility"),
        "test_score": Metric("test", better="higher", tier="utility"),
    },
    uses=set(), blind="everything",
)
def measure(cfg: Numbers, subject: Subject, panel: Panel) -> list[Value]:
    PANELS[subject.name] = [r.name for r in panel.references]
    if not SAID[subject.name]:
        raise ModelError(f"{subject.name} says nothing; it cannot be audited. Give it a voice.")
    return [Value(metric, value) for metric, value in SAID[subject.name].items()]


PANELS: dict[str, list[str]] = {}        # the references that each model was seen beside
SAID: dict[str, dict[str, float]] = {}   # what each model of a test says


def one(metric: str, value: float, others: list[float], **options: object) -> Evidence:
    values = [Value(metric, x) for x in others]
    return judge(measure, Value(metric, value, **options), values, Value(metric, 1.0))


Said = dict[str, float]


def exam(model: Said, original: Said, references: list[Said], near: Sequence[Said] = (), heir: bool = False,
         **options: object) -> dict[str, list[Evidence]]:
    """Evidence when models say these numbers; `near` are the original's neighbours."""
    task = tiny.classification()
    SAID.clear()
    SAID.update({"model": model, "original": original, **{f"r{i}": said for i, said in enumerate(references)},
                 **{f"n{i}": said for i, said in enumerate(near)}})
    subjects = {name: Subject(name, torch.nn.Identity(), task) for name in SAID}
    subjects["model"].heir = heir
    pool = [subjects[f"r{i}"] for i in range(len(references))]
    neighbours = [subjects[f"n{i}"] for i in range(len(near))]
    return examine(task, [subjects["model"]], subjects["original"], pool, [(measure, Numbers())], neighbours=neighbours,
                   **options)


SPREAD = [0.10, 0.12, 0.11, 0.09, 0.13, 0.10, 0.11, 0.12]


def test_two_sided_verdict_with_its_side():
    assert one("known", 0.11, SPREAD).verdict == INSIDE
    assert (one("known", 0.9, SPREAD).verdict, one("known", 0.9, SPREAD).side) == (OUTSIDE, "+")
    assert (one("known", 0.0, SPREAD).verdict, one("known", 0.0, SPREAD).side) == (OUTSIDE, "−")
    assert one("known", 0.9, SPREAD).gap == pytest.approx(0.79)


def test_utility_is_one_sided():
    assert one("skill", 0.9, SPREAD).verdict == INSIDE and one("skill", 0.0, SPREAD).verdict == OUTSIDE
    assert one("loss_x", 0.9, SPREAD).verdict == OUTSIDE and one("loss_x", 0.0, SPREAD).verdict == INSIDE


def test_distance_below_the_references_is_no_fault():
    assert one("far", 0.001, SPREAD).verdict == INSIDE and one("far", 0.9, SPREAD).verdict == OUTSIDE
    band = one("far", 0.11, SPREAD).yardstick   # judged by its logarithm: exp(mean + 2.365·sd·√(1 + 1/8)) of the logs
    assert band.low == 0 and band.high == pytest.approx(0.1485, abs=2e-3)


def test_few_references_give_no_yardstick_and_cost_is_only_shown():
    assert one("known", 0.9, SPREAD[:2]).verdict == NO_YARDSTICK
    assert one("time", 0.9, SPREAD).verdict == SHOWN


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_outside(bad):
    assert one("known", bad, SPREAD).verdict == OUTSIDE
    assert one("skill", -bad, SPREAD).verdict == OUTSIDE


@pytest.mark.parametrize(("hits", "verdict"), [(0, INSIDE), (1, INSIDE), (3, INSIDE), (10, OUTSIDE), (100, OUTSIDE)])
@pytest.mark.parametrize("kept", [True, False])
def test_references_that_agree_exactly_do_not_condemn_a_single_example(hits, verdict, kept):
    """All references 0 of 100: paired by `per_sample` or by the interval, 1 of 100 is noise, 10 of 100 is not."""
    def value(hits: int) -> Value:
        made = mean_value("known", (np.arange(100) < hits).astype(float))
        return made if kept else Value("known", made.value, made.low, made.high, made.n)

    assert judge(measure, value(hits), [value(0)] * 8, value(100)).verdict == verdict


def test_what_the_seeds_explain_is_inside_however_sure_the_examples_are():
    """Every example differs by the same amount, so the paired test has p = 0; retrained models differ as much."""
    rows = [mean_value("known", np.full(50, x) + 1e-6 * np.arange(50)) for x in [0.13, *SPREAD]]
    assert judge(measure, rows[0], rows[1:], rows[0]).verdict == INSIDE


def test_false_alarms_stay_below_the_level_for_counts_and_for_normal_values():
    """Where all references have 0 of 100, Student's prediction alone has p = 0 for 1 of 100: 4 % false alarms at 0.5 %."""
    rng, alarms, plain = np.random.default_rng(0), 0, 0
    for _ in range(300):
        rows = (rng.random((9, 100)) < 0.001).astype(float)
        value, *others = (mean_value("known", row) for row in rows)
        alarms += alone(value, others) <= 0.005
        plain += alone(Value("known", value.value), [Value("known", v.value) for v in others]) <= 0.005
    assert alarms <= 3 and plain >= 8   # 0.5 % of 300: 1.5
    normal = sum(alone(Value("known", x[0]), [Value("known", v) for v in x[1:]]) <= 0.05
                 for x in rng.normal(0, 1, (300, 9)))
    assert 5 <= normal <= 26      # binomial(300, 0.05): 15 ± 3.8


def alone(value: Value, others: Sequence[Value]) -> float:
    """p of one value as if it were the only test."""
    law = law_of(others, Metric("known"))
    assert law is not None
    return law.p(value.value)


def test_the_level_is_that_of_the_whole_model_and_comes_from_the_references():
    """Two tests of behaviour that are the same count as one; one band for all models; a reference is judged by the others."""
    references = [{"known": x, "memory": x, "skill": x} for x in SPREAD]
    made = exam({"known": 0.16, "memory": 0.11, "skill": 0.11}, {"known": 0.9, "memory": 0.9, "skill": 0.11}, references)
    known, memory, skill = made["model"]
    assert known.p < known.p_joint and skill.p_joint == memory.p_joint == 1
    assert known.verdict == (OUTSIDE if known.p_joint <= 0.05 else INSIDE)
    assert [e.yardstick.low for e in made["original"]] == [e.yardstick.low for e in made["model"]]
    rng = np.random.default_rng(1)
    other = [{**said, "memory": x} for said, x in zip(references, rng.normal(0.11, 0.01, 8), strict=True)]   # two, apart
    apart = exam({"known": 0.16, "memory": 0.11, "skill": 0.11}, {"known": 0.9, "memory": 0.9, "skill": 0.11}, other)
    assert apart["model"][0].yardstick.high > known.yardstick.high


def test_one_reference_unlike_others_that_agree_exactly_neither_condemns_nor_hides():
    """Seven curves the same and one another, as relearning shows: a third is no alarm, and the other metrics keep their band."""
    def value(x: float) -> Value:
        return Value("known", x, n=51, per_sample=np.full(51, x))

    same = [value(0.277)] * 7
    for others in (same, [*same, value(0.241)]):
        assert judge(measure, value(0.22), others, None).verdict == INSIDE
        assert judge(measure, value(0.9), others, None).verdict == OUTSIDE
    plain, odd = ([{"memory": x, "back": back} for x, back in zip(SPREAD, (*[0.277] * 7, last), strict=True)]
                  for last in (0.277, 0.241))
    width = [exam({"memory": 0.11, "back": 0.277}, {"memory": 0.9}, said)["model"][0].detectable for said in (plain, odd)]
    assert width[1] < 1.5 * width[0]


def test_fewer_than_four_references_have_no_leave_one_out_and_tests_are_counted():
    """Two tests of forgetting and one of utility, two tiers: p times 4."""
    references = [{"known": x, "memory": x, "skill": x} for x in SPREAD[:3]]
    known = exam({"known": 0.16, "memory": 0.11, "skill": 0.11}, {"known": 0.9}, references)["model"][0]
    assert known.p_joint == pytest.approx(min(1.0, 4 * known.p))


@pytest.mark.parametrize(("limits", "values", "n", "at", "place"), [
    ((-math.inf, math.inf), [1.0], 0, 3.0, 3.0), ((0.0, math.inf), [1.0], 9, math.e, 1.0),
    ((0.0, math.inf), [0.0], 0, 3.0, 3.0),
    ((-math.inf, 1.0), [0.0], 0, 1 - math.e, -1.0), ((0.0, 1.0), [0.3], 0, 0.75, math.log(3)),
    ((-1.0, 1.0), [0.3], 0, 0.5, math.log(3)), ((0.0, 1.0), [0.0, 0.5], 4, 1.0, math.log(9)),
    ((0.0, 1.0), [0.0, 0.3], 4, 0.4, 0.4),
])
def test_a_metric_is_judged_on_the_scale_of_its_range(limits, values, n, at, place):
    """e lies at log e = 1; ¾ at log 3; 4 of 4 at log(4½/½); on an edge that is no count nothing is changed."""
    scale = scale_of(limits, values, n)
    assert scale.onto(at) == pytest.approx(place) and scale.back(place) == pytest.approx(at)


@pytest.mark.parametrize("metric", ["known", "far", "skill", "loss_x"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_band_is_what_decides(metric: str, per_sample: bool):
    """Just inside the band is inside, just beyond its ends is outside: sign and picture agree, also of 0/1 answers."""
    rng = np.random.default_rng(0)
    others = [mean_value(metric, (rng.random(100) < 0.3).astype(float)) for _ in SPREAD] if per_sample else [
        Value(metric, x) for x in SPREAD]
    found = judge(measure, others[0], others, None)
    low, high = found.yardstick.low, found.yardstick.high
    step = (found.yardstick.mean - max(low, 0)) / 1000 or 1e-4
    for value, verdict in ((low + step, INSIDE), (low - step, OUTSIDE), (high - step, INSIDE), (high + step, OUTSIDE)):
        if math.isfinite(value) and 0 <= value <= 1:
            assert judge(measure, Value(metric, value), others, None).verdict == verdict, (value, low, high)
    assert math.isinf(high) or high == 1 if metric == "skill" else low == 0 if metric in ("far", "loss_x") else low > 0


def test_inside_without_a_positive_control_is_not_enough_power():
    references = [{"known": x, "memory": x} for x in SPREAD]
    found = exam({"known": 0.11, "memory": 0.11}, {"known": 0.11, "memory": 0.9}, references)
    assert [e.verdict for e in found["model"]] == [NO_POWER, INSIDE]
    assert [e.verdict for e in found["original"]] == [NO_POWER, OUTSIDE]
    assert [e.original_outside for e in found["model"]] == [False, True]
    assert [e.verdict for e in controlled(found["model"], {})] == [NO_POWER, NO_POWER]


def test_outside_counts_even_where_the_original_is_inside():
    found = exam({"known": 0.0}, {"known": 0.11}, [{"known": x} for x in SPREAD])
    assert found["model"][0].verdict == OUTSIDE and found["model"][0].direction == "over-forgotten"


def test_each_reference_is_held_against_the_others():
    found = exam({"known": 0.11}, {"known": 0.9}, [{"known": x} for x in [*SPREAD, 0.8]])
    last = found["r8"][0]
    assert last.yardstick.values == tuple(SPREAD) and last.verdict == OUTSIDE
    assert "r8" not in PANELS["r8"] and len(PANELS["r8"]) == 8 and len(PANELS["model"]) == 9
    assert found["r0"][0].yardstick.n == 8 and found["model"][0].yardstick.n == 9


def test_direction():
    low = [{"known": x} for x in SPREAD]
    assert exam({"known": 0.8}, {"known": 0.9}, low)["model"][0].direction == "still knows"
    assert exam({"known": 1.0}, {"known": 0.9}, low)["model"][0].direction == "still knows"
    assert exam({"known": 0.0}, {"known": 0.9}, low)["model"][0].direction == "over-forgotten"
    assert exam({"known": 0.0}, {"known": 0.01}, low)["model"][0].direction == "still knows"
    assert exam({"far": 0.9}, {"far": 0.9}, [{"far": x} for x in SPREAD])["model"][0].direction == "differs"
    assert exam({"known": 0.11}, {"known": 0.9}, low)["model"][0].direction == ""


@pytest.mark.parametrize(("model", "original", "verdict", "words"), [
    ({"known": 0.8, "skill": 0.1}, {"known": 0.9, "skill": 0.1}, OUTSIDE, "Still knows the forget set: known is 0.8"),
    ({"known": 0.0, "skill": 0.1}, {"known": 0.9, "skill": 0.1}, OUTSIDE, "Over-forgotten"),
    ({"known": 0.8, "skill": 0.0}, {"known": 0.9, "skill": 0.1}, OUTSIDE, "Utility is worse than after retraining"),
    ({"known": 0.1, "skill": 0.0}, {"known": 0.9, "skill": 0.1}, OUTSIDE, "forgetting is indistinguishable from retraining"),
    ({"known": 0.1, "skill": 0.0}, {"known": 0.1, "skill": 0.1}, OUTSIDE, "tests of forgetting had not enough power"),
    ({"known": 0.1, "skill": 0.1}, {"known": 0.1, "skill": 0.1}, NO_POWER, "even the untouched original"),
    ({"known": 0.1, "skill": 0.1}, {"known": 0.9, "skill": 0.1}, INSIDE, "by the 1 tests of forgetting"),
])
def test_conclusion(model, original, verdict, words):
    found = conclude(exam(model, original, [{"known": x, "skill": x} for x in SPREAD])["model"])
    assert found.verdict == verdict and words in found.text


def test_what_a_person_reads_has_names_and_minus_signs_of_a_person():
    references = [{"memory": x - 1} for x in SPREAD]
    items = exam({"memory": 0.9}, {"memory": 0.9}, references)["model"]
    told = conclude([replace(item, metric="lira_auc_known") for item in items]).text
    assert "LiRA AUC known is 0.900, retrained models have at most −0.843" in told and "_" not in told and " -" not in told


def test_conclusion_without_yardstick_or_evidence():
    assert conclude(exam({"known": 0.8}, {"known": 0.9}, [])["model"]).verdict == NO_YARDSTICK
    assert conclude([]).verdict == "not examined"   # not: no power


def test_evidence_is_json_ready_without_examples():
    e = Evidence("a", "m", math.nan, None, None, 1, "", (0, math.inf), "match", "forgetting", 1, OUTSIDE,
                 yardstick=Yardstick(0, 1, 3, -1, 1), per_sample=np.zeros(3))
    made = measurement(e)
    assert made.value is None and made.range == (0, None) and "per_sample" not in made.model_dump()


def test_one_forward_pass_per_model_and_split():
    task = tiny.classification()
    calls = []
    model = task.copy_of_original()
    model.register_forward_hook(lambda *_: calls.append(1))
    subject = Subject("m", model, task, batch_size=50)
    first = subject.seen(task.holdout)
    assert len(calls) == 3 and subject.seen(task.holdout) is first and len(calls) == 3   # 120 examples in 3 batches
    assert torch.equal(first["y"], task.holdout.columns["y"])


def test_unseen_examples_share_labels_with_the_forget_set_and_removed_ones_are_not_retained():
    task = tiny.classification()   # class 3 is removed
    panel = Panel(task, Subject("o", task.original, task), [])
    y = task.holdout.columns["y"].numpy()
    assert np.array_equal(panel.unseen(), y == 3) and np.array_equal(panel.removed(task.holdout), y == 3)
    part = panel.part(task.retain, 10)
    assert len(part) == 10 and panel.part(task.retain, 10) is part and panel.part(task.retain, 1000) is task.retain


def test_ensembles_are_disjoint_and_equal_in_size():
    task = tiny.classification()
    pool = [Subject(f"r{i}", task.original, task) for i in range(8)]
    alone = Subject("m", task.original, task)
    several = Subject("m", task.original, task, siblings=[Subject(f"m{i}", task.original, task) for i in range(3)])
    assert Panel(task, alone, pool).ensembles(alone, 4) == ([], [])
    ours, theirs = Panel(task, alone, pool).ensembles(several, 4)
    assert [m.name for m in ours] == ["m", "m0", "m1", "m2"] and theirs == pool[:4]
    ours, theirs = Panel(task, alone, pool[1:], retrained=True).ensembles(pool[0], 4)
    assert ours[0] is pool[0] and len({id(m) for m in [*ours, *theirs]}) == 8


def test_what_no_reference_moves_is_measured_once_for_two_yardsticks() -> None:
    task, shared, asked = tiny.classification(), {}, []

    def measure(cfg: Numbers, subject: Subject, panel: Panel) -> list[Value]:
        asked.append(subject.name)
        return [Value("known", 0.5)]

    alone = audit(metrics={"known": Metric("memory")}, uses=set(), blind="everything")(measure)
    beside = replace(alone, name="beside", needs=frozenset({"references?"}))
    assert (alone.compares, beside.compares) == (False, True)
    original, model, *pool = (Subject(name, torch.nn.Identity(), task) for name in ("original", "model", "a", "b", "c", "d"))
    for yardstick in (pool[:2], pool[2:]):
        examine(task, [model], original, yardstick, [(alone, Numbers()), (beside, Numbers())], shared=shared)
    assert Counter(asked) == {"original": 3, "model": 3, **dict.fromkeys("abcd", 2)}


def test_every_audit_that_reads_references_declares_it() -> None:
    """What does not is measured once for all yardsticks."""
    for name, entry in entries("audits").items():
        reads = re.search(r"\bpanel\.(references|ensembles|retrained)\b", Path(entry.path).read_text())
        declared = {need.rstrip("?") for need in entry.needs} & {"reference", "references"}
        assert declared or not reads, f"{name} reads {reads and reads[0]} and needs no references"

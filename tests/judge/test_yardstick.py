"""What a verdict rests on: equivalence margins, contaminated and missing yardsticks, hiding, degenerate input."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from scipy.stats import norm
from test_auditor import SPREAD, Said, exam, measure

from lethe.core.catalogue import load
from lethe.core.evidence import HOLDOUT, INSIDE, NO_POWER, NO_YARDSTICK, OUTSIDE, RASHOMON, RETRAINED, Evidence, Value
from lethe.core.split import concat
from lethe.data.select import Where
from lethe.judge.answers import forgotten
from lethe.judge.auditor import examine
from lethe.judge.conclusions import conclude
from lethe.judge.hiding import hiding
from lethe.judge.measured import mean_value
from lethe.judge.neighbours import losses, neighbours, perturbed
from lethe.judge.verdict import judge, judge_weakly
from lethe.judge.yardstick import doubts, references_seen
from lethe.pools.pool import train_pool
from lethe.pools.subject import Subject

# -- equivalence -------------------------------------------------------------------------------------------------------


def test_equivalence_golden():
    """Seeds 0.1, 0.2, 0.3: s²/R = 0.01/3; no sample error; t(0.95, 2) = 2.91999: 0.25 − 0.2 ± 0.168586."""
    e = judge(measure, Value("known", 0.25), [Value("known", x) for x in (0.1, 0.2, 0.3)], None, margin=0.22)
    assert e.smallest_margin == pytest.approx(0.05 + 2.919986 * math.sqrt(0.01 / 3), rel=1e-6)
    assert (e.margin, e.equivalent) == (0.22, True)
    tight = judge(measure, Value("known", 0.25), [Value("known", x) for x in (0.1, 0.2, 0.3)], None, margin=0.21)
    assert tight.equivalent is False


def test_inside_is_not_equality_and_a_margin_is_declared_or_nothing_is_claimed():
    wide = [Value("known", x) for x in (0.0, 0.5, 1.0)]
    e = judge(measure, Value("known", 0.5), wide, None, margin=0.05)
    assert e.verdict == INSIDE and e.equivalent is False
    assert judge(measure, Value("known", 0.5), wide, None).equivalent is None
    assert judge(measure, Value("known", math.nan), wide, None, margin=9.0).equivalent is False


def test_examples_that_all_agree_do_not_prove_equality():
    """0 of 20 beside 0 of 20: no spread of seeds or pairs; Wilson's 0 to 0.16 remains."""
    value = mean_value("known", np.zeros(20))
    e = judge(measure, value, [value] * 8, None, margin=0.01)
    assert e.equivalent is False and 0.05 < e.smallest_margin < 0.1


def test_margins_of_the_request_go_before_the_metrics_own():
    references = [{"known": x, "memory": x} for x in SPREAD]
    found = exam({"known": 0.11, "memory": 0.11}, {"known": 0.9, "memory": 0.9}, references, margins={"k*": 0.5, "memory": 1e-9})
    assert [(e.margin, e.equivalent) for e in found["model"]] == [(0.5, True), (1e-9, False)]


def test_a_model_at_the_margin_is_called_equal_in_at_most_one_of_twenty():
    """A true difference of exactly the margin; seeds and a binary sample, paired or by its interval."""
    rng, wrong, right, audits = np.random.default_rng(5), np.zeros(2), 0, 400
    for _ in range(audits):
        rates = np.clip(rng.normal(0.5, 0.02, 9), 0, 1)
        rates[0] = 0.5 + 0.1
        rows = [mean_value("known", (rng.random(300) < rate).astype(float)) for rate in rates]
        alone = [Value("known", v.value, v.low, v.high, v.n) for v in rows]
        wrong += [judge(measure, r[0], r[1:], None, margin=0.1).equivalent for r in (rows, alone)]
        right += bool(judge(measure, rows[0], rows[1:], None, margin=0.25).equivalent)
    assert (wrong <= 0.05 * audits + 9).all(), wrong   # 20 expected, standard deviation 4.4
    assert right >= 0.95 * audits


# -- the yardstick -----------------------------------------------------------------------------------------------------


def doubted(references: list[Said], original: Said) -> list[str]:
    found = exam(original, original, references)
    return [d.reference for d in doubts({k: v for k, v in found.items() if k.startswith("r")}, found["original"])]


def test_contaminated_references_are_named():
    clean = [{"known": x} for x in SPREAD]
    assert doubted(clean, {"known": 0.9}) == []
    assert doubted([*clean, {"known": 0.88}], {"known": 0.9}) == ["r8"]
    assert doubted([*clean[:5], {"known": 0.88}, {"known": 0.9}, {"known": 0.91}], {"known": 0.9}) == ["r5", "r6", "r7"]
    assert doubted([*clean, {"known": 0.5}], {"known": 0.11}) == ["r8"]   # unlike the others, and unlike the original


def test_references_that_have_all_seen_the_forget_set_leave_no_power_and_are_announced():
    rng = np.random.default_rng(0)
    def said(forget: float) -> list[Said]:
        return [{"forget_score": forget + e, "retain_score": 0.99, "test_score": 0.8 - e} for e in rng.normal(0, 0.01, 8)]

    original = {"forget_score": 0.99, "retain_score": 0.99, "test_score": 0.8}
    found = exam(original, original, said(0.99))
    ending = conclude(found["model"])
    assert ending.verdict == NO_POWER
    assert "have seen it as well" in ending.text and "cannot see this forget set" in ending.text
    assert "all trained with the forget set" in references_seen(found["original"])
    assert references_seen(exam(original, original, said(0.8))["original"]) == ""
    few = [replace(e, low=e.value - 0.2, high=e.value + 0.2) if e.metric == "forget_score" else e for e in found["original"]]
    assert references_seen(few) == ""   # 0.99 and 0.8 on so few examples may be the same


def test_a_model_between_a_detected_original_and_a_retrained_model_is_left_open():
    """As the relative test leaves it, beside one: the original was distinguished, so that is not what is lacking."""
    found = exam({"known": 0.5}, {"known": 0.9}, [{"known": x} for x in SPREAD])["model"]
    ending = conclude([replace(item, verdict=NO_POWER, original_outside=True) for item in found], 1)
    assert ending.verdict == NO_POWER and "nearer to it or to a retrained one" in ending.text and "even" not in ending.text


@pytest.mark.parametrize("count", [1, 3, 8])
def test_tiny_models_trained_with_the_forget_set_are_found_among_the_references(count):
    task, audits = tiny.classification(), [(load("audits", "scores"), load("audits", "scores").config())]
    whole = concat([task.retain, task.forget], "train")
    models = train_pool(task, split_of=lambda i: whole if i < count else task.retain, count=8, seed=1, strategy="serial").models
    references = [Subject(f"r{i}", m, task) for i, m in enumerate(models)]
    found = examine(task, [], Subject("original", task.original, task), references, audits)
    named = [d.reference for d in doubts({r.name: found[r.name] for r in references}, found["original"])]
    if count < 8:
        assert named == [f"r{i}" for i in range(count)]
    else:
        assert conclude(found["original"]).verdict == NO_POWER and "have seen it" in conclude(found["original"]).text


# -- without retrained models ------------------------------------------------------------------------------------------


def attacked(auc: float, half: float = 0.05) -> Evidence:
    return judge_weakly(measure, Value("attack", auc, auc - half, auc + half, 100), [], None)


def test_against_the_null_value_of_an_attack():
    e = attacked(0.5)
    assert (e.verdict, e.kind) == (INSIDE, HOLDOUT)
    assert (e.yardstick.low, e.yardstick.high) == pytest.approx((0.0, 0.5 + 0.05 * norm.isf(0.05) / 1.959964))   # one-sided
    assert attacked(0.6).verdict == OUTSIDE and attacked(math.nan).verdict == OUTSIDE
    assert attacked(0.6).p == pytest.approx(norm.sf(2 * 1.959964), rel=1e-4)
    assert attacked(0.3).verdict == INSIDE      # below chance is no sign of memory
    assert judge_weakly(measure, Value("attack", 0.9), [], None).verdict == NO_YARDSTICK   # without an interval


def test_the_neighbours_widen_the_null_and_never_clear_a_model():
    near = [Value("attack", x) for x in (0.7, 0.8, 0.9)]
    wide = judge_weakly(measure, Value("attack", 0.6, 0.55, 0.65, 100), near, None)
    assert wide.yardstick.sd == pytest.approx(0.1) and wide.verdict == INSIDE
    band = [Value("known", x) for x in SPREAD]
    same, other = (judge_weakly(measure, Value("known", x), band, None) for x in (0.11, 0.9))
    assert (same.verdict, other.verdict, same.kind) == (NO_POWER, NO_YARDSTICK, RASHOMON)
    assert judge_weakly(measure, Value("skill", 0.0), [Value("skill", x) for x in SPREAD], None).verdict == OUTSIDE


def test_the_weaker_claim_is_said_and_is_no_pass():
    near = [{"known": x, "skill": x} for x in SPREAD]
    found = exam({"known": 0.8, "skill": 0.1}, {"known": 0.1, "skill": 0.1}, [], near)
    ending = conclude(found["model"])
    assert ending.verdict == NO_YARDSTICK and "changed by more than that" in ending.text
    assert "not changed beyond" in conclude(found["original"]).text
    worse = conclude(exam({"known": 0.8, "skill": -9.0}, {"known": 0.1, "skill": 0.1}, [], near)["model"])
    assert worse.verdict == OUTSIDE and "models like the original" in worse.text


def test_neighbours_change_nothing_where_there_are_references():
    model, original, references = {"known": 0.5}, {"known": 0.9}, [{"known": x} for x in SPREAD]
    alone, beside = (exam(model, original, references, near) for near in ([], [{"known": 0.5}] * 5))
    for name, items in alone.items():
        assert [replace(e, seconds=0) for e in items] == [replace(e, seconds=0) for e in beside[name]]
    assert exam(model, original, references)["model"][0].kind == RETRAINED


# -- gone or hidden ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("known", "back", "kind", "verdict"), [
    (0.11, 0.9, "weights", "obfuscation suspected"), (0.0, 0.9, "weights", "obfuscation suspected"),
    (0.11, 0.11, "weights", "weights"), (0.9, 0.9, "weights", "not known"), (0.11, 0.9, "adapter", "adapter"),
    (0.11, 0.9, "guard", "guard"),
])
def test_hiding(known, back, kind, verdict):
    found = exam({"known": known, "back": back}, {"known": 0.9, "back": 0.9}, [{"known": x, "back": x} for x in SPREAD])
    said = hiding(found["model"], kind)
    assert said.verdict == verdict and (verdict != "obfuscation suspected" or said.metrics == ("back",))


@pytest.mark.parametrize(("skill", "said", "answer", "hidden"), [
    (0.11, {"moving": 0.3}, "no", "not known"),                        # utility agrees: what lies outside knows
    (0.02, {"moving": 0.3}, "cannot be judged", "not known"),          # trained shorter, and accused of still knowing
    (0.02, {"back": 0.3}, "cannot be judged", "not known"),            # and of hiding: 0.24 of the way to the original
    (0.02, {"back": 0.7}, "no", "obfuscation suspected"),              # no other training goes so far
    (0.02, {"known": 0.7}, "no", "not known"), (0.02, {}, "yes", "weights"),
    (0.02, {"moving": 0.0}, "yes", "not known"),                       # beyond retraining, but 'over-forgotten' is not known
])
def test_where_utility_differs_another_training_explains_what_moves_with_it(skill, said, answer, hidden):
    """Measured on digits: never seen, 8 epochs instead of 60: 'still knows' by lood_forget and records_worst, 30: 'hides'."""
    names = ("known", "moving", "back", "skill")
    low = {**dict.fromkeys(names, 0.11), "skill": skill, **said}
    found = exam(low, {**dict.fromkeys(names, 0.9), "skill": 0.11}, [dict.fromkeys(names, x) for x in SPREAD])
    assert forgotten(found["model"]).answer == answer and hiding(found["model"]).verdict == hidden
    assert forgotten(found["original"]).answer == "no"
    heir = exam(low, {**dict.fromkeys(names, 0.9), "skill": 0.11}, [dict.fromkeys(names, x) for x in SPREAD], heir=True)
    assert forgotten(heir["model"]).answer == ("no" if any(value > 0.2 for value in said.values()) else "yes")
    text = conclude(found["model"]).text
    assert text.startswith("Differs from retrained") == (skill < 0.1 and (answer == "cannot be judged" or "moving" in said))


def test_a_model_that_still_shows_the_data_anywhere_does_not_hide_them():
    all_ = {"known": 0.9, "memory": 0.9, "back": 0.9}
    found = exam({**all_, "memory": 0.11}, all_, [dict.fromkeys(all_, x) for x in SPREAD])
    assert hiding(found["model"]).verdict == "not known" and "known" in hiding(found["model"]).metrics


def test_hiding_is_not_known_without_a_test_of_recovery():
    found = exam({"known": 0.11}, {"known": 0.9}, [{"known": x} for x in SPREAD])
    assert hiding(found["model"]).verdict == "not known" and hiding([]).verdict == "not known"


# -- degenerate input --------------------------------------------------------------------------------------------------


def test_an_audit_that_refuses_one_model_does_not_stop_the_others():
    told = []
    found = exam({}, {"known": 0.9}, [{"known": x} for x in SPREAD], refused=lambda *what: told.append(what))
    assert found["model"] == [] and found["original"][0].verdict == OUTSIDE
    assert [(name, str(error)) for _, name, error in told] == [
        ("model", "model says nothing; it cannot be audited. Give it a voice.")]


@pytest.mark.parametrize("audit_name", ["scores", "threshold"])
def test_one_record_and_outputs_that_are_no_numbers_are_audited(audit_name):
    task = tiny.classification(Where(ids=(tiny.classification().retain.ids[0],)))
    assert len(task.forget) == 1
    record = load("audits", audit_name)
    broken = task.copy_of_original()
    with torch.no_grad():
        for p in broken.parameters():
            p.fill_(math.nan)
    constant = task.copy_of_original()
    with torch.no_grad():
        for p in constant.parameters():
            p.zero_()
    subjects = [Subject("broken", broken, task), Subject("constant", constant, task)]
    models = train_pool(task, count=4, seed=1, strategy="serial").models
    references = [Subject(f"r{i}", m, task) for i, m in enumerate(models)]
    found = examine(task, subjects, Subject("original", task.original, task), references, [(record, record.config())])
    assert {conclude(found["original"]).verdict, conclude(found["r0"]).verdict} <= {NO_POWER, INSIDE}
    assert conclude(found["broken"]).verdict == OUTSIDE
    assert conclude(found["constant"]).verdict in (OUTSIDE, NO_POWER)


# -- the original's neighbours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["gaussian", "bernoulli"])
def test_neighbours_are_as_good_on_retained_data_and_differ(law):
    task = tiny.classification()
    before = {k: v.clone() for k, v in task.original.state_dict().items()}
    near = neighbours(task, 4, seed=3, law=law)
    base = losses(task, task.original, task.retain)
    limit = float(base.mean()) + 0.05
    found = [float(losses(task, n.model, task.retain).mean()) for n in near]
    assert len(near) == 4 and max(found) <= limit and len(set(found)) == 4
    assert all(torch.equal(before[k], v) for k, v in task.original.state_dict().items())
    again = neighbours(task, 4, seed=3, law=law)
    assert found == [float(losses(task, n.model, task.retain).mean()) for n in again]
    tight = [float(losses(task, n.model, task.retain).mean()) for n in neighbours(task, 4, seed=3, law=law, epsilon=1e-3)]
    assert max(tight) <= float(base.mean()) + 1e-3
    assert neighbours(task.replaced(task.original, retain=None), 4) == []


@pytest.mark.parametrize("law", ["gaussian", "bernoulli"])
def test_the_noise_has_mean_one_and_leaves_biases(law):
    model = torch.nn.Linear(300, 300)
    with torch.no_grad():
        model.weight.fill_(1.0)
    noisy = perturbed(model, 0.2, torch.Generator().manual_seed(0), law)
    sd = 0.2 if law == "gaussian" else math.sqrt(0.2 / 0.8)
    assert float(noisy.weight.mean()) == pytest.approx(1, abs=0.01) and float(noisy.weight.std()) == pytest.approx(sd, rel=0.02)
    assert torch.equal(noisy.bias, model.bias)

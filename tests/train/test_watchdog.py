"""The watchdog: what it returns, what it leaves alone, and what it costs; through the public call, as users run it."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import lethe
from lethe.certificate.gather import chosen
from lethe.cli.run import status_of
from lethe.core import catalogue
from lethe.core.alike import leaving
from lethe.core.modules import copied, state_fingerprint
from lethe.core.outcome import Outcome
from lethe.core.split import Split
from lethe.core.task import Recipe, Task
from lethe.errors import LetheError, NeedsUnmet, RequestError
from lethe.models.classification.task import Classification
from lethe.models.regression.task import Regression
from lethe.results import schema
from lethe.train import watchdog
from lethe.train.apply import all_methods, apply, fitting, same_weights
from lethe.train.gauge import LEAST, Found, Gauge
from lethe.train.loop import Loop, Modifiers, Settings, Term
from lethe.train.watchdog import Point, Watch, Watchdog, judged_on, small, watching


class Linear(nn.Module):
    """Two blobs told apart by one weight each."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


@cache
def blobs(n: int = 600, forget: int = 60, holdout: int = 400) -> Task:
    """A linear model that is right everywhere."""
    y = torch.arange(n + holdout) % 2
    x = torch.nn.functional.one_hot(y, 2).float() * 2 - 1
    x += 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    model = Linear()
    with torch.no_grad():
        model.fc.weight.copy_(torch.eye(2))
    cut = {"forget": slice(0, forget), "retain": slice(forget, n), "holdout": slice(n, None)}
    return Classification(model, {name: Split({"x": x[s], "y": y[s]}, name) for name, s in cut.items()})


def ascend(loop: Loop, lr: float, steps: int = 20, damage: bool = False) -> Outcome:
    """Ascent on the forget set: the labels of everything are turned round after some steps."""
    model = loop.start()
    term = Term(blobs().forget, lambda m, b: -blobs().nll(m, b))
    if damage:
        with loop.damage():
            loop.minimise(model, {"up": term}, lr=lr, steps=steps, optimiser="sgd", momentum=0.0, batch_size=60)
    else:
        loop.minimise(model, {"up": term}, lr=lr, steps=steps, optimiser="sgd", momentum=0.0, batch_size=60)
    return loop.finish(model)


def test_it_returns_the_last_sound_point_and_says_so() -> None:
    out = ascend(Loop(blobs(), watchdog=Watchdog()), 0.3)
    assert out.fall and 0 < out.fall.kept < out.fall.step == 20
    assert (out.fall.part, out.fall.metric) == ("holdout", "accuracy") and out.fall.original == 1.0
    assert f"the model of step {out.fall.kept}, the last sound one, was returned" in out.notes[-1]
    found = Watch(Watchdog(), blobs(), "cpu", 0).gauge.settle(out.model, "holdout", 0.03)
    assert found.loss <= 0.03, found
    direct = ascend(Loop(blobs()), 0.3, out.fall.kept)
    assert state_fingerprint(direct.model) == state_fingerprint(out.model), "a look must change nothing"


def test_more_may_be_lost_when_more_is_allowed_and_fewer_looks_find_fewer_points() -> None:
    assert ascend(Loop(blobs(), watchdog=Watchdog(loss=100)), 0.3).fall is None
    kept = [ascend(Loop(blobs(), watchdog=Watchdog(checks=checks)), 0.3).fall for checks in (10, 1)]
    assert kept[0] and kept[1] and kept[0].kept > kept[1].kept == 0


@pytest.mark.parametrize("average", ["last", "ema", "swa"])
def test_a_run_that_was_never_sound_returns_the_original_and_nothing_changed(average: str) -> None:
    out = ascend(Loop(blobs(), watchdog=Watchdog(), modifiers=Modifiers(average=average)), 100.0)
    assert out.fall and out.fall.kept == 0 and state_fingerprint(out.model) == state_fingerprint(blobs().original)


def test_no_point_of_a_damaging_phase_is_sound_and_what_is_repaired_is_left_alone() -> None:
    out = ascend(Loop(blobs(), watchdog=Watchdog()), 0.3, damage=True)
    assert out.fall and out.fall.kept == 0
    loop = Loop(blobs(), watchdog=Watchdog())
    model = loop.start()
    repaired = copied(model, trainable=False)
    loop.assign(model, {"fc.weight": -torch.eye(2)})      # trial edits: not looked at
    loop.assign(model, {"fc.weight": 2 * torch.eye(2)})
    out = loop.finish(model)
    assert out.fall is None and state_fingerprint(out.model) != state_fingerprint(repaired)


def test_weights_that_break_end_the_run_and_what_follows_is_left_out() -> None:
    loop = Loop(blobs(), watchdog=Watchdog(tries=0))
    model = loop.start()
    for _ in range(2):
        loop.minimise(model, {"nan": Term(blobs().retain, lambda m, b: blobs().nll(m, b) * float("nan"))}, lr=0.1, steps=4)
    out = loop.finish(model)
    assert out.fall and out.fall.part == "weights" and loop.cost.steps == 1
    assert state_fingerprint(out.model) == state_fingerprint(blobs().original)


def test_a_forget_loss_that_explodes_is_said_and_takes_nothing_back() -> None:
    """The model is right on retained data and infinitely sure of the wrong label of what is forgotten."""
    y = torch.zeros(300, dtype=torch.long)
    x = torch.ones(300, 2)
    x[:, 1] = 0
    away = torch.tensor([[0.0, 1.0]]).repeat(40, 1)
    model = Linear()
    with torch.no_grad():
        model.fc.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    task = Classification(model, {"forget": Split({"x": away, "y": y[:40]}, "forget"),
                                  "retain": Split({"x": x, "y": y}, "retain")})
    for limit, told in ((50.0, True), (2000.0, False)):
        loop = Loop(task, watchdog=Watchdog(forget_loss=limit))
        m = loop.start()
        loop.assign(m, {"fc.weight": torch.tensor([[1.0, -500.0], [0.0, 500.0]])})
        out = loop.finish(m)
        assert out.fall is None and float(out.model.get_parameter("fc.weight")[1, 1].detach()) == 500.0
        assert any("loss on forgotten data is 1\N{NARROW NO-BREAK SPACE}000 nats" in note for note in out.notes) == told


def test_a_point_that_only_a_small_sample_found_sound_gives_way_to_one_before_it() -> None:
    task = blobs()
    watch, states = Watch(Watchdog(), task, "cpu", 0), {}
    for step, angle in ((1, 0.01), (2, 3.0)):   # the second is ruined, as the whole sample says
        model = task.copy_of_original()
        with torch.no_grad():
            turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            model.get_parameter("fc.weight").copy_(model.get_parameter("fc.weight") @ turn)
        states[step] = {name: p.detach().clone() for name, p in model.named_parameters()}
    model = task.copy_of_original()
    watch.begin(dict(model.named_parameters()))
    watch.sound = [Point(dict(states[1]), 1), Point(dict(states[2]), 2)]
    again = Watch(Watchdog(), task, "cpu", 0)   # as after a kill
    again.begin(dict(model.named_parameters()))
    again.put(*watch.kept())
    for one in (watch, again):
        with torch.no_grad():
            model.get_parameter("fc.weight").copy_(-task.original.get_parameter("fc.weight"))
        fall = one.judge(model, 3)
        assert fall and (fall.step, fall.kept) == (3, 1)
        assert torch.equal(model.get_parameter("fc.weight"), states[1]["fc.weight"])


def test_predictions_far_outside_the_targets_are_no_forgetting() -> None:
    x = torch.linspace(-1, 1, 300).unsqueeze(1)
    x = torch.cat([x, torch.zeros(300, 1)], 1)
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 1.0]]))
    gone = torch.tensor([[0.0, 0.5]]).repeat(20, 1)
    task = Regression(model, {"forget": Split({"x": gone, "y": torch.full((20,), 0.5)}, "forget"),
                              "retain": Split({"x": x, "y": x[:, 0].clone()}, "retain")})
    for beyond, fell in ((1.0, True), (100.0, False)):
        loop = Loop(task, watchdog=Watchdog(beyond=beyond))
        m = loop.start()
        loop.assign(m, {"weight": torch.tensor([[1.0, 20.0]])})
        assert (loop.finish(m).fall is not None) == fell


def test_the_floor_is_one_point_for_a_few_records_and_three_for_more() -> None:
    assert not small(blobs()) and small(blobs(600, 5))
    assert [Watch(Watchdog(), task, "cpu", 0).points for task in (blobs(), blobs(600, 5))] == [3.0, 1.0]
    assert Watch(Watchdog(loss=7), blobs(), "cpu", 0).points == 7.0


def test_unseen_data_are_looked_at_where_they_are_and_only_of_classes_that_stay() -> None:
    whole = tiny.classification()
    gone = int(whole.forget.columns["y"][0])
    splits = {name: split.subset((split.columns["y"] != gone).numpy() if name == "retain" else np.arange(len(split)), name)
              for name, split in whole.splits.items()}
    task = Classification(whole.copy_of_original(), splits)
    parts = Watch(Watchdog(), task, "cpu", 0).gauge.parts
    assert gone not in parts["holdout"].columns["y"].tolist() and len(parts["holdout"]) > 0
    lonely = Classification(whole.copy_of_original(), {"forget": whole.forget})
    assert watching(None, catalogue.load("methods", "gradient_ascent"), lonely) is None
    with pytest.raises(NeedsUnmet, match="watchdog"):
        Loop(lonely, watchdog=Watchdog()).start()


@pytest.mark.parametrize(("unseen", "retained", "part"), [(0.04, 0.09, "retain"), (0.02, 0.09, None), (0.04, 0.02, None)])
def test_retained_data_decide_where_unseen_ones_cannot_tell(unseen: float, retained: float, part: str | None,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """4 ± 2 points of unseen data may be within 3 or not: on the digits 9 ± 1 of the retained ones were gone."""
    task = blobs(300, 240)
    watch, found = Watch(Watchdog(), task, "cpu", 0), {"holdout": (unseen, 0.02), "retain": (retained, 0.01)}
    assert watch.parts == ["holdout"] and watch.floor == 0.03
    monkeypatch.setattr(watch.gauge, "settle", lambda model, part, floor: Found(part, 1.0, 1 - found[part][0], *found[part], 260))
    fall = watch.judge(task.copy_of_original(), 1)
    assert (fall and fall.part) == part


def test_a_group_that_leaves_is_left_out_of_what_must_stay() -> None:
    """Retraining without a speaker loses that speaker's unseen recordings, too; a column that others share marks no group."""
    speaker, take, day = ["a", "a", "b", "b"], [1, 2, 1, 2], ["x", "y", "z", "w"]
    whole = Split({"x": torch.zeros(4, 2), "y": torch.tensor([0, 1, 0, 1])}, "train",
                  meta={"speaker": speaker, "take": take, "day": day})
    unseen = Split({"x": torch.ones(3, 2), "y": torch.tensor([0, 1, 1])}, "holdout",
                   meta={"speaker": ["a", "b", "c"], "take": [1, 2, 1], "day": ["x", "x", "x"]})
    forget, retain = whole.subset([0, 1], "forget"), whole.subset([2, 3], "retain")
    assert leaving(unseen, forget, retain).tolist() == [True, False, False]
    assert not leaving(unseen, None, retain).any()
    parts = judged_on(Classification(nn.Linear(2, 2), {"forget": forget, "retain": retain, "holdout": unseen}))
    assert list(parts["holdout"].meta["speaker"]) == ["b", "c"]


def test_a_language_model_is_looked_at_on_texts_that_it_was_told() -> None:
    task = tiny.lm()
    assert Watch(Watchdog(), task, "cpu", 0).parts == ["retain"]
    outcome = lethe.forget(task, "simnpo", lr=1e-3, epochs=40, gamma=1.0, progress=False)   # unseen answers: .43 -> .31
    assert outcome.fall is None and not outcome.unchanged and not outcome.unseen_used


def test_a_guard_that_refuses_what_stays_gives_way_to_the_original() -> None:
    task = tiny.lm()
    ruined = lethe.forget(task, "refusal_gate", alpha=0.95, progress=False)
    assert ruined.fall is not None and ruined.fall.part == "retain" and ruined.served is None and ruined.unchanged
    assert any("the original was returned" in note for note in ruined.notes)
    kept = lethe.forget(task, "refusal_gate", alpha=0.95, watchdog=False, progress=False)
    assert kept.fall is None and kept.kind == "guard"


def test_the_sample_grows_until_the_answer_is_clear_and_error_is_allowed_for() -> None:
    task = blobs(3000, 30)
    gauge = Gauge(task, {"retain": task.retain}, "cpu")
    ruined = copied(task.original, trainable=False)
    with torch.no_grad():
        ruined.fc.weight.mul_(-1)
    assert gauge.settle(ruined, "retain", 0.03).n == LEAST and gauge.settle(ruined, "retain", 0.03).over(0.03)
    same = gauge.settle(task.original, "retain", 0.01)
    assert (same.loss, same.n, same.error) == (0.0, 256, 1 / 256), "a hundred examples cannot tell 0 from one point"
    assert len(gauge.before["retain"]) == 256
    assert Watch(Watchdog(examples=50), task, "cpu", 0).gauge.settle(ruined, "holdout", 0.03).n == 50
    gauge.most = 2 * LEAST   # what the run pays for; where something was lost, all there is
    assert gauge.settle(task.original, "retain", 0.01).n == 2 * LEAST
    with torch.no_grad():
        ruined.fc.weight.copy_(torch.tensor([[2.0, 0.0], [9.0, 9.0]]))
    lossy = gauge.settle(ruined, "retain", 0.01)
    assert lossy.loss > 0 and lossy.n > 2 * LEAST


def test_what_a_sample_is_too_small_to_tell_is_said_and_more_data_tell() -> None:
    """The model is wrong of 6 % of unseen data where 6 may be lost: 60 of them cannot tell, with 9 or 2 it is clear."""
    def said(n: int, points: float) -> list[str]:
        loop = Loop(blobs(300, 60, n), watchdog=Watchdog(loss=points))
        model = loop.start()
        loop.assign(model, {"fc.weight": torch.tensor([[2.0, 0.0], [9.0, 9.0]])})
        return [note for note in loop.finish(model).notes if note.startswith("the watchdog")]

    assert [note[:32] for note in said(120, 6.0)] == ["the watchdog cannot tell whether"]
    assert "± " in said(120, 6.0)[0] and "holdout data" in said(120, 6.0)[0]
    assert not said(2000, 9.0) and "ended the run" in said(2000, 2.0)[0]


def test_a_short_training_from_scratch_is_judged_as_no_other_exact_method() -> None:
    task = tiny.classification()
    short = lethe.forget(task, "scratch", share=0.02, progress=False)
    assert short.fall is not None and short.unchanged and "void" in short.guarantee
    full = lethe.forget(task, "retrain", progress=False)
    assert full.fall is None
    assert {name for name in catalogue.entries("methods")
            if (one := catalogue.load("methods", name)).judged != (one.mechanism != "exact")} == {
                "scratch", "sgtm", "nulls"}   # the last two switch off what was set aside at training


def test_looks_cost_little_of_the_training_and_a_call_on_forgotten_data_alone_gets_some() -> None:
    watch = Watch(Watchdog(), blobs(), "cpu", 0)
    assert watch.spacing(100, 700, alone=False) == 101, "700 examples pay for no look of 64 at a third of a step each"
    assert watch.spacing(100, 3600, alone=False) == 100 // 5
    assert watch.spacing(100, 80, alone=True) == 25 and watch.spacing(100, 10**9, alone=True) == 10


@pytest.mark.parametrize(("forget", "alone"), [(400, False), (900, False), (400, True)])
def test_all_that_the_watchdog_asks_is_a_tenth_of_the_training_except_where_nothing_else_protects(
        forget: int, alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model that is too large to ask for nothing. To tell no loss from one point takes 256 examples, of two models."""
    monkeypatch.setattr(watchdog, "FREE", 0)
    task = blobs(3000, forget, 600)
    loop = Loop(task, watchdog=Watchdog(loss=1))
    model = loop.start()
    terms = {"forget": Term(task.forget, lambda m, b: 0 * task.nll(m, b))}
    if not alone:
        terms["retain"] = Term(task.retain, lambda m, b: 0 * task.nll(m, b))
    loop.minimise(model, terms, lr=0.1, epochs=1, batch_size=50, optimiser="sgd")
    out = loop.finish(model)
    assert loop.cost.examples == forget * (1 if alone else 2)
    share = loop.asked / (3 * loop.cost.examples)
    assert out.fall is None and (share > 0.5 if alone else 0 < share <= 0.10)


MOST = 200   # steps of one run here: some methods take a thousand by default, and an adversary's inside each


def watched(name: str, watchdog: bool | None, task: Task) -> Outcome | str:
    """A run with defaults, of `MOST` steps and few members at most; or why there is none."""
    record = catalogue.load("methods", name)
    steps = {f.name: f.default for f in dataclasses.fields(record.config) if f.name in ("steps", "inner_steps", "attack_steps")}
    share = max(1, math.prod(steps.values()) // MOST) if all(isinstance(n, int) and n for n in steps.values()) else 1
    cut = {"steps": max(2, steps["steps"] // share)} if "steps" in steps and share > 1 else {}
    cut |= {f.name: min(2, f.default) for f in dataclasses.fields(record.config) if f.name in ("shards", "slices", "budget")}
    try:
        return apply(task, record, record.config(**cut), Settings(), watchdog=watchdog)
    except LetheError as error:
        return str(error)


MADE = {"classification": tiny.classification, "regression": tiny.regression, "lm": tiny.lm, "diffusion": tiny.diffusion}
LONG = {"laf", "scar"}   # seconds a run
STANDING = [pytest.param(family, name, id=f"{family}-{name}",
                         marks=[] if family == "classification" and name not in LONG else [pytest.mark.slow])
            for family in MADE for name, entry in catalogue.entries("methods").items() if entry.fits(family) and name != "auto"]


@pytest.mark.parametrize(("family", "name"), STANDING)
def test_the_watchdog_leaves_a_method_the_method_or_says_what_was_not_done(family: str, name: str) -> None:
    if name not in fitting(MADE[family]()):
        pytest.skip(f"the tiny {family} task has not what {name} needs")
    on, off = (watched(name, watchdog, MADE[family]()) for watchdog in (None, False))
    if isinstance(on, str) or isinstance(off, str):
        assert on == off and name not in all_methods(MADE[family]())
        return
    same = same_weights(on.model, off.model) and (on.served is None) == (off.served is None)
    assert same != bool(on.fall)
    assert on.fall is None or any("the watchdog ended the run" in note for note in on.notes)


@pytest.mark.parametrize(("retrained", "fell"), [([[5.0, 0.0], [0.0, 5.0]], True), ([[1.0, 0.0], [9.0, 9.0]], False)])
def test_what_retraining_loses_too_is_no_fault_and_the_note_says_what_was_compared(retrained: list[list[float]], fell: bool
                                                                                   ) -> None:
    """The model is wrong of 6 % of unseen data; retrained models are right everywhere, or wrong of more."""
    reference = copied(blobs().original, trainable=False)
    with torch.no_grad():
        reference.get_parameter("fc.weight").copy_(torch.tensor(retrained))
    loop = Loop(blobs(), watchdog=Watchdog(), references=[reference])
    model = loop.start()
    loop.assign(model, {"fc.weight": torch.tensor([[2.0, 0.0], [9.0, 9.0]])})
    out = loop.finish(model)
    assert (out.fall is not None) == fell
    said = "the watchdog compared with retraining, not with the original: accuracy on unseen data is 0.9"
    assert any(said in note for note in out.notes) == (not fell)


def test_a_comparison_trains_its_references_first_and_the_watchdog_knows_them() -> None:
    whole = tiny.classification()
    poor = Recipe(epochs=1, lr=1e-6, batch_size=64)   # retraining by it gives chance
    task = Classification(whole.copy_of_original(), dict(whole.splits), poor, whole.build)
    strong = {"name": "gradient_ascent", "lr": 0.05, "epochs": 20.0}
    assert lethe.forget(task, "gradient_ascent", lr=0.05, epochs=20.0, progress=False).fall is not None
    found = lethe.compare(task, [strong], references=3, shadows=0, depth="quick", progress=False)
    row = next(row for row in found.results.scenarios[0].subjects if row.role == "method")
    assert row.fall is None and any("compared with retraining" in note for note in row.notes)


def test_nothing_changed_is_said_and_proves_nothing() -> None:
    out = lethe.forget(tiny.classification(), "ssd", alpha=1e9, progress=False)
    assert out.unchanged and "nothing changed" in out.notes[-1]
    assert not lethe.forget(tiny.classification(), "finetune", progress=False, watchdog=False).unchanged


def test_what_the_watchdog_ended_and_what_changed_nothing_are_typed_and_end_with_status_3(
        capsys: pytest.CaptureFixture[str]) -> None:
    strong = {"name": "gradient_ascent", "lr": 0.05, "epochs": 20.0}
    found = lethe.compare(tiny.classification(), [strong, {"name": "ssd", "alpha": 1e9}], references=0, depth="quick",
                          progress=False)
    rows = {row.name: row for row in found.results.scenarios[0].subjects}
    ended, idle = rows["gradient_ascent"], rows["ssd"]
    assert found.results.scenarios[0].references.reason == "none were requested (audit.references: 0)"
    assert ended.fall and ended.fall.kept > 0 and not ended.unchanged
    assert ended.conclusion.text.startswith("Ended by the watchdog")
    assert idle.unchanged and idle.conclusion.verdict == "failed" and "nothing changed" in (idle.error or "") and idle.config
    assert schema.read(schema.plain(found.results)) == found.results
    assert status_of(found) == 3 and "gradient_ascent" in capsys.readouterr().err and "! nothing changed" in found.table()
    with pytest.raises(RequestError, match="no deletion to certify"):
        chosen(found.results, "ssd", None)


def test_an_edit_in_closed_form_that_ruins_the_model_ends_at_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values a million times too large, of a network whose norms hide it and that draws too badly to lose anything."""
    from lethe.methods.diffusion import uce
    from lethe.models.diffusion.open import text_to_image
    from lethe.models.diffusion.small import pipeline

    task = text_to_image(pipeline(width=16), "disk", ["a red cross", "a blue cross"], per_prompt=4, steps=2, guidance=1.0)
    real = uce.uce_map
    monkeypatch.setattr(uce, "uce_map", lambda *given: 1e6 * real(*given))
    outcome = apply(task, *_usual("uce"), Settings())
    assert outcome.fall is not None and outcome.fall.part == "weights" and outcome.unchanged
    assert any("times as large as the original's" in note for note in outcome.notes)
    monkeypatch.setattr(uce, "uce_map", real)
    assert apply(task, *_usual("uce"), Settings()).fall is None


def _usual(name: str) -> tuple[object, object]:
    record = catalogue.load("methods", name)
    return record, record.config()

"""Guards: what answers is asked for behaviour, what is inside for weights; both are saved and come back."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from fakes import Refusal
from safetensors.torch import load_file
from torch import Tensor, nn

import lethe
from lethe.core.guard import Guard, as_served, bare, load_guard
from lethe.core.modules import state_fingerprint
from lethe.core.outcome import Outcome
from lethe.core.task import Task
from lethe.errors import ModelError
from lethe.judge.battery import battery
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject
from lethe.train.loop import Loop


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the file with the filter were a method of ours."""
    monkeypatch.setattr("lethe.core.guard.entries", lambda kind: {"refusal": SimpleNamespace(module=Refusal.__module__)})


def guarded(task: Task) -> Outcome:
    """What a method of this kind does: nothing to the weights, a filter around them."""
    loop = Loop(task)
    return loop.finish(loop.start(), guard=lambda model: Refusal(model, 3))


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def test_an_outcome_says_what_answers_and_what_is_inside() -> None:
    task = tiny.classification()
    outcome = guarded(task)
    assert outcome.kind == "guard" and isinstance(outcome.answering, Refusal) and not isinstance(outcome.model, Guard)
    assert state_fingerprint(outcome.model) == state_fingerprint(task.original)
    assert outcome.answering.model is outcome.model and not outcome.answering.training
    passed = Outcome(outcome.answering, task=task)   # a guard passed as the model
    assert passed.kind == "guard" and passed.model is outcome.model and passed.served is outcome.served
    plain = Outcome(task.original, task=task)
    assert plain.kind == "weights" and plain.served is None and plain.answering is task.original
    with pytest.raises(ValueError, match="do not belong together"):
        Outcome(task.original, kind="guard")
    with pytest.raises(ValueError, match="do not belong together"):
        Outcome(task.original, served=outcome.served)


def test_a_guard_is_saved_beside_its_model_and_comes_back(tmp_path: Path, known: None) -> None:
    task = tiny.classification()
    outcome = guarded(task)
    folder = outcome.save(tmp_path / "out")
    model = task.copy_of_original()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    again = as_served(folder, model)
    x = task.forget.columns["x"]
    assert isinstance(again, Refusal) and again.model is model
    assert torch.equal(predictions(again, x), predictions(outcome.answering, x))
    assert not torch.equal(predictions(again, x), predictions(model, x))


def test_without_a_guard_the_model_itself_answers(tmp_path: Path) -> None:
    task = tiny.classification()
    folder = Outcome(task.copy_of_original(), task=task).save(tmp_path / "out")
    assert not (folder / "guard").exists()
    assert load_guard(folder, task.original) is None and as_served(folder, task.original) is task.original


def test_a_folder_does_not_decide_what_is_imported(tmp_path: Path, known: None) -> None:
    (tmp_path / "guard").mkdir()
    for module, name, word in (("os", "system", "no installed method"), (Refusal.__module__, "nothing", "no guard")):
        (tmp_path / "guard" / "guard.json").write_text(json.dumps({"module": module, "class": name}))
        with pytest.raises(ModelError, match=word):
            load_guard(tmp_path, nn.Identity())


def test_audits_ask_the_guard_for_answers_and_the_model_for_features() -> None:
    task = tiny.classification()
    outcome = guarded(task)
    subject, inside = Subject("g", outcome.answering, task), Subject("m", outcome.model, task)
    assert subject.kind == "guard" and subject.model is outcome.model is bare(subject.answering)
    assert subject.numbers(task.forget, "score").mean() == 0 < 0.9 < inside.numbers(task.forget, "score").mean()
    assert np.array_equal(subject.features(task.forget), inside.features(task.forget))
    assert not isinstance(subject.copy(), Guard)


def test_attacks_on_weights_start_from_what_answers() -> None:
    """An attack that changes nothing recovers everything that a guard hides."""
    task = tiny.classification()
    subject = Subject("g", guarded(task).answering, task)
    panel = Panel(task, Subject("o", task.original, task), [])
    before, after = battery(subject, panel, {"as it is": subject.copy}, 20)
    assert before.forget.mean() == 0 < 0.9 < after.forget.mean()


def test_an_audit_of_a_guard_is_one_of_what_answers() -> None:
    task = tiny.classification()
    outcome = guarded(task)
    outcome.method = "filter"
    report = lethe.audit(task, outcome, references=3, shadows=0, audits=["scores", "guard", "residual"])
    assert report.value("filter", "forget_accuracy") == 0 and report.value("filter", "bare_score") > 0.9

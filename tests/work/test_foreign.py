"""Models from elsewhere: whatever they raise is a line, never the end; what only answers is asked for answers alone."""

from __future__ import annotations

import warnings

import pytest
import tiny
import torch
from panels import pool
from torch import Tensor, nn

from lethe import api
from lethe.core.modules import copied
from lethe.data.select import Where
from lethe.results.schema import Row, Scenario

FORGET = Where(label=3)


class Wrapped(nn.Module):
    """Answers by the model inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Broken(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("lost")


class Remote(nn.Module):
    """Only answers: no parameters, no layers, no gradients."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.ask = [inner]

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.ask[0](x)


class Filter(Wrapped):
    """Never answers class 3; the original is inside."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x).clone()
        logits[:, 3] = logits.min() - 1
        return logits


def audited(model: nn.Module, *audits: str, references: int = 0) -> tuple[Scenario, Row]:
    found = api.audit(tiny.classification(FORGET), model, depth="standard", references=references, shadows=0, audits=audits,
                      progress=False).results.scenarios[0]
    return found, found.subjects[-1]


def fresh() -> nn.Module:
    return copied(pool(FORGET, 1)[0].model, trainable=False)


@pytest.mark.parametrize("kind", [Remote, "int8", "traced"])
def test_a_model_that_only_answers_is_asked_for_answers_alone(kind):
    x = torch.zeros(2, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = (kind(fresh()) if kind is Remote else torch.jit.trace(fresh(), x) if kind == "traced" else
                 torch.ao.quantization.quantize_dynamic(fresh(), {nn.Linear}, dtype=torch.qint8))
        case, row = audited(model, "scores", "threshold", "population", "steering")
    assert {e.audit for e in row.evidence} == {"scores", "threshold", "population"}
    line = next(one for one in case.not_tested if one.subject == "unlearned")
    assert line.audit == "steering" and line.why.startswith("could not be run on this model: ") and not case.defects


def test_a_model_that_cannot_answer_is_not_examined():
    case, row = audited(Broken(Remote(fresh())), "scores", "threshold", "guard")
    assert row.conclusion.verdict == "not examined" and row.answers.forgotten.answer == "cannot be judged"
    assert [one.why for one in case.not_tested if one.audit == "scores"] == [
        "could not be run on this model: KeyError: 'lost' (in test_foreign.py, line 34)"]
    assert not case.defects


def test_the_original_inside_a_wrapper_is_decisive_without_any_reference():
    case, row = audited(Filter(copied(tiny.classification(FORGET).original, trainable=False)), "scores", "guard")
    assert row.measured("forget_accuracy").value == 0.0
    assert row.conclusion.verdict == "outside" and "every number of the original" in row.conclusion.text
    assert row.answers.forgotten.answer == "no" and row.answers.forgotten.test.metric == "bare_same_weights"
    assert case.subjects[0].conclusion.verdict != "outside"   # of the control itself it says nothing


def test_attacks_that_so_few_shadows_leave_without_a_value_say_so(tmp_path):
    task = tiny.classification(FORGET)
    found = api.audit(task, fresh(), references=0, shadows=2, audits=("base", "rmia"), progress=False, cache=tmp_path)
    lines = {one.audit: one.why for one in found.results.scenarios[0].not_tested}
    assert set(lines) == {"base", "rmia"} and all("2 shadow models are too few" in why for why in lines.values())

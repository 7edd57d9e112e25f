"""Which part of what a model returns are its outputs, and what they mean."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lethe
from lethe.core.modules import evaluating
from lethe.errors import LabelOutOfRange, NeedsUnmet, OutputShape
from lethe.models.answer import logits_of, looks_like, picked
from lethe.models.classification.open import classification
from lethe.models.classification.task import Classification
from lethe.train.apply import method_of, require

Z = torch.tensor([[1.0, 2.0]])
Named = namedtuple("Named", ["logits", "aux"])


@pytest.mark.parametrize(("found", "place"), [
    (Z, "auto"), ({"logits": Z, "hidden": Z + 1}, "auto"), ({"loss": None, "scores": Z}, "auto"), ((Z,), "auto"),
    (Named(Z, Z + 1), "auto"), (SimpleNamespace(logits=Z, hidden=Z + 1), "auto"), ({"a": Z, "b": Z + 1}, "a"),
    ((Z + 1, Z), 1), (Named(Z + 1, Z), "aux"), (Z, "anything")])
def test_the_outputs_are_found(found: Any, place: Any) -> None:
    assert torch.equal(picked(found, place), Z)


@pytest.mark.parametrize(("found", "place"), [((Z, Z + 1), "auto"), ({"scores": Z}, "scors"), ([], "auto"), ("text", "auto")])
def test_what_is_unclear_is_refused(found: Any, place: Any) -> None:
    with pytest.raises(OutputShape, match=r"model\.output"):
        picked(found, place)


def test_probabilities_become_the_logits_that_they_came_from() -> None:
    z = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(logits_of(z.softmax(1)).softmax(1), z.softmax(1))
    torch.testing.assert_close(logits_of(z[:, 0].sigmoid()), z[:, 0])
    assert [looks_like(one) for one in (z, z.softmax(1), z.sigmoid(), z[:, 0], z[:, 0].sigmoid())] == [
        "logits", "probabilities", "logits", "logits", "probabilities"]


class Single(nn.Module):
    """One output per example, squeezed as many people do."""

    def __init__(self, close: Any = lambda z: z) -> None:
        super().__init__()
        self.body, self.out, self.close = nn.Linear(6, 5), nn.Linear(5, 1), close

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.close(self.out(self.body(x).relu()).squeeze())
        return z


def points(n: int, classes: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(0)), torch.arange(n) % classes


def binary(model: nn.Module, **options: Any) -> Classification:
    return classification(model, points(40, 2), lethe.where(index=[0, 1, 2]), **options)


def test_one_output_is_binary_cross_entropy() -> None:
    task = binary(Single())
    batch = task.retain.batch(range(len(task.retain)))
    with evaluating(task.original):
        z = task.original(batch.x)
        expected = nn.functional.binary_cross_entropy_with_logits(z, batch.y.float(), reduction="none")
        torch.testing.assert_close(task.nll(task.original, batch), expected)
        seen = task.observe(task.original, task.retain.batch([0]))
        assert seen["features"].shape == (1, 5) and seen["logits"].shape == (1, 2)
        assert torch.equal(task.observe(task.original, batch)["score"], ((z > 0) == (batch.y == 1)).float())
        assert task.class_count == 2
    closed = binary(Single(torch.sigmoid), returns="probabilities")
    closed.original.load_state_dict(task.original.state_dict())
    torch.testing.assert_close(closed.nll(closed.original, batch), expected)


def test_one_output_unlearns_and_refuses_what_edits_a_head_of_classes() -> None:
    task = binary(Single())
    outcome = lethe.forget(task, "neggrad_plus", epochs=1)
    assert "neggrad_plus" in lethe.train.apply.fitting(task) and outcome.model(torch.randn(4, 6)).shape == (4,)
    with pytest.raises(NeedsUnmet, match="head, which has no meaning for a model with a single output"):
        require(task, *method_of("pour"))
    with pytest.raises(LabelOutOfRange, match="by one output"):
        classification(Single(), points(40, 3), lethe.where(index=[0]))


def test_half_precision_is_computed_in_float32_and_what_is_audited_is_what_the_file_holds(tmp_path: Any) -> None:
    from safetensors.torch import load_file

    model = Single().half()
    task = binary(model)
    outcome = lethe.forget(task, "finetune", epochs=1)
    outcome.save(tmp_path / "out")
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert next(model.parameters()).dtype == torch.float16, "the caller's own model is left alone"
    for name, value in outcome.model.state_dict().items():
        assert value.dtype == torch.float32 and saved[name].dtype == torch.float16
        assert torch.equal(value, saved[name].float()), "another model was audited than the one that was delivered"



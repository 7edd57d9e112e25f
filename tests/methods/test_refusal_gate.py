"""Refusal gate: scores by hand, who is refused and who is not, and the same answer for texts and for likelihoods."""

from __future__ import annotations

import math

import byhand
import pytest
import tiny
import torch

import lethe
from lethe.core.families.language import LanguageTask
from lethe.core.language_guard import prompts_of
from lethe.errors import RequestError
from lethe.methods.guard.refusal_gate import Refusing, gradients, nearness


def test_golden_numbers() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert nearness(torch.tensor([[3.0, 0.0]]), bank, 1).tolist() == [0.0]
    assert nearness(torch.tensor([[3.0, 0.0]]), bank, 2).tolist() == [pytest.approx(-math.sqrt(2))]


@pytest.mark.parametrize("score", ["features", "gradient"])
def test_a_gate_by_hand(score: str) -> None:
    """z, the bank and the limit worked out in plain torch; the weights are the original's."""
    task = tiny.lm()
    outcome = byhand.outcome("refusal_gate", task, score=score, components=4)
    guard = outcome.answering
    assert isinstance(guard, Refusing) and outcome.kind == "guard"
    assert all(torch.equal(p, task.original.get_parameter(name)) for name, p in outcome.model.named_parameters())
    model = task.copy_of_original().eval()

    def z(prompt: list[int]) -> torch.Tensor:
        ids = torch.tensor([prompt])
        if score == "features":
            return model(input_ids=ids, output_hidden_states=True).hidden_states[2][0, -1].detach()
        weight = model.get_parameter("model.layers.2.mlp.down_proj.weight")
        found, = torch.autograd.grad(model(input_ids=ids).logits[0, -1].exp().sum().log(), weight)
        return found.flatten()

    forgotten, kept = (torch.stack([z(prompt) for prompt in prompts_of(split)]) for split in (task.forget, task.retain))
    if score == "gradient":
        assert torch.allclose(gradients(model, "model.layers.2.mlp.down_proj", prompts_of(task.forget)), forgotten, atol=1e-5)
        basis = torch.linalg.svd(forgotten, full_matrices=False)[2][:4].T
        forgotten, kept = forgotten @ basis, kept @ basis
    bank = forgotten / forgotten.norm(dim=1, keepdim=True)
    near = [-min(float((row / row.norm() - other).norm()) for other in bank) for row in kept]
    assert guard.limit == pytest.approx(sorted(near)[22], abs=2e-3)   # α = 0.1, n = 24: the 23rd smallest
    assert guard.refused(prompts_of(task.forget)) == [True] * 8
    assert sum(guard.refused(prompts_of(task.retain))) <= 2


def test_texts_and_likelihoods_tell_of_the_same_system() -> None:
    task = LanguageTask.of(tiny.lm())
    guard = byhand.outcome("refusal_gate", task).answering
    assert isinstance(guard, Refusing)
    asked, kept = list(task.forget.column("prompt")), [p for p in task.retain.column("prompt") if "Selbatan" not in p]
    assert set(task.generate(guard, asked)) == {"I cannot answer that."}
    assert task.generate(guard, kept[:4]) == task.generate(task.original, kept[:4])
    refusal = task.encode(asked, ["I cannot answer that."] * len(asked))
    assert (task.nll(guard, refusal.batch(range(len(asked)))) < 1e-6).all()
    forget, retain = task.forget.batch(range(8)), task.retain.batch([0, 1])
    assert (task.nll(guard, forget) > 20).all() and torch.equal(task.nll(guard, retain), task.nll(task.original, retain))
    # the fault that the docstring states: the same question in other words passes, and the model answers it
    other = [prompt.replace("What does", "Tell me what").replace(" like?", " likes?") for prompt in asked]
    assert not any(guard.refused(prompts_of(task.encode(other, ["x"] * 8))))


def test_it_promises_no_more_than_it_can() -> None:
    task = tiny.lm()
    with pytest.raises(RequestError, match=r"24 retained prompts cannot promise .* for which 99 are"):
        lethe.forget(task, "refusal_gate", alpha=0.01, progress=False)

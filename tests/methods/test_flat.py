"""FLAT: golden numbers, the slopes of all divergences, and one step by hand."""

from __future__ import annotations

import math

import byhand
import pytest
import tiny
import torch
from torch import Tensor, nn

import lethe
from lethe.core.split import Split
from lethe.methods.lm.flat import LOSSES, Divergence, flat_loss


def test_golden() -> None:
    one, zero, half = torch.ones(1), torch.zeros(1), torch.full((1,), 0.5)
    assert flat_loss(one, zero, "kl").item() == pytest.approx(-1 + math.exp(-1))
    assert flat_loss(half, half, "pearson").item() == pytest.approx(0.0625)
    assert flat_loss(half, zero, "neyman").item() == pytest.approx(math.exp(-0.5) - 1)
    assert flat_loss(half, half, "total_variation").item() == 0
    assert flat_loss(one, one, "hellinger").item() == pytest.approx(math.exp(-1) - 1 + math.e - 1)
    assert flat_loss(zero, zero, "jensen_shannon").item() == pytest.approx(0)
    assert flat_loss(one, one, "reverse_kl").item() == pytest.approx(math.exp(-1))
    assert flat_loss(one, one, "jeffrey").item() == pytest.approx(1 / 4 + 1 / 16)


@pytest.mark.parametrize("divergence", LOSSES)
def test_the_refusal_is_raised_and_the_answer_lowered(divergence: Divergence) -> None:
    """For every divergence on all of [0, 1]; the official code fails in three rows."""
    v = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    refusal, answer = v.clone().requires_grad_(), v.clone().requires_grad_()
    up, down = torch.autograd.grad(flat_loss(refusal, answer, divergence).sum(), (refusal, answer))
    assert (up < 0).all() and (down > 0).all()


def test_one_step_by_hand() -> None:
    task = tiny.lm()
    refused = task.encode(list(task.forget.column("prompt")), ["I do not know."] * len(task.forget))
    found = byhand.run("flat", task, divergence="pearson", lr=3.0)

    def probability(m: nn.Module, split: Split) -> Tensor:
        ids, labels = split.columns["ids"], split.columns["labels"][:, 1:]
        kept = labels != -100
        p = m(input_ids=ids).logits[:, :-1].softmax(-1).gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
        return (p * kept).sum(1) / kept.sum(1)

    def objective(m: nn.Module) -> Tensor:
        y = probability(m, task.forget)
        return (-probability(m, refused) + y**2 / 4 + y).mean()

    byhand.assert_same(task, found, byhand.steps(task, [objective], lr=3.0), atol=1e-5)


def test_forgets_without_retained_data() -> None:
    full = tiny.lm()
    task = lethe.language_model(full.original, full.tokenizer, forget=full.forget, refusals=["I do not know."])
    outcome = lethe.forget(task, "flat", lr=1e-3, epochs=10, progress=False)
    batch = task.forget.batch(range(len(task.forget)))
    with torch.no_grad():
        before, after = (float(task.score(model.eval(), batch).mean()) for model in (task.original, outcome.model))
    assert after < before / 2

"""SimNPO: golden numbers, its weight in closed form, indifference to length, and forgetting on the tiny model."""

from __future__ import annotations

import math

import byhand
import pytest
import tiny
import torch

import lethe
from lethe.core.split import Split
from lethe.errors import NeedsUnmet
from lethe.methods.lm.simnpo import simnpo_loss


def test_golden() -> None:
    torch.testing.assert_close(simnpo_loss(torch.zeros(1), 2.5), torch.tensor([0.8 * math.log(2)]))
    torch.testing.assert_close(simnpo_loss(torch.ones(1), 2.0, 1.0), torch.tensor([math.log(2)]))    # s = margin
    torch.testing.assert_close(simnpo_loss(torch.ones(1), 2.0), torch.tensor([math.log1p(math.exp(-2.0))]))
    assert simnpo_loss(torch.tensor([1e4]), 2.5) == 0


@pytest.mark.parametrize("beta", [0.5, 4.5])
def test_gradient_weight_has_its_closed_form(beta: float) -> None:
    nll = torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    simnpo_loss(nll, beta).sum().backward()
    p = (-nll.detach()).exp()   # geometric mean of the token probabilities
    torch.testing.assert_close(nll.grad, -2 * p**beta / (1 + p**beta), atol=1e-12, rtol=0)


def test_length_does_not_matter() -> None:
    """Two answers whose tokens all have the same probability weigh the same, however long; under NPO they do not."""
    task = tiny.lm()
    model = task.build(0).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()   # uniform over the vocabulary: every token has −log p = ln V
        batch = task.forget.batch(range(8))
        loss = simnpo_loss(task.nll(model, batch), 2.5)
        torch.testing.assert_close(loss, simnpo_loss(torch.full((8,), math.log(model.config.vocab_size)), 2.5))
        assert task.sequence_logp(model, batch).std() > 1


def test_forgets_and_keeps() -> None:
    task = tiny.lm()
    outcome = lethe.forget(task, "simnpo", lr=1e-3, epochs=40, gamma=1.0, progress=False)
    with torch.no_grad():
        after = {key: float(task.observe(outcome.model, split.batch(range(len(split))))["score"].mean())
                 for key, split in task.splits.items()}
    assert after["forget"] < 0.5 and after["retain"] > 0.7


def test_needs_retain() -> None:
    full = tiny.lm()
    with pytest.raises(NeedsUnmet, match="retain"):
        lethe.forget(lethe.language_model(full.original, full.tokenizer, forget=full.forget), "simnpo", progress=False)


def answers(model: torch.nn.Module, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of all answer tokens, summed, and their number: plain transformers.  -> [n], [n]"""
    ids, labels = split.columns["ids"], split.columns["labels"][:, 1:]
    logp = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    kept = labels != -100
    each = logp.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
    return (each * kept).sum(1), kept.sum(1)


def test_one_step_by_hand() -> None:
    task, beta, margin, gamma, alpha = tiny.lm(), 2.0, 0.3, 0.25, 0.6

    def objective(m: torch.nn.Module) -> torch.Tensor:
        (pushed, length), (kept, count) = (answers(m, split) for split in (task.forget, task.retain))
        loss = -pushed / length   # mean over tokens
        return gamma * (-2 / beta * torch.sigmoid(beta * (loss - margin)).log()).mean() - alpha * (kept / count).mean()

    found = byhand.run("simnpo", task, beta=beta, margin=margin, gamma=gamma, alpha=alpha, lr=3.0)
    byhand.assert_same(task, found, byhand.steps(task, [objective], lr=3.0), atol=1e-5)

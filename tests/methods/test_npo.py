"""NPO: golden numbers, its weight in closed form, the limit of gradient ascent, and what the cache may not change."""

from __future__ import annotations

import math

import byhand
import pytest
import tiny
import torch

import lethe
from lethe.core.split import Split
from lethe.errors import NeedsUnmet, OutOfRange
from lethe.maths.losses import npo_loss
from lethe.train.loop import Loop, Settings


def test_golden() -> None:
    zero = torch.tensor([-7.0])
    torch.testing.assert_close(npo_loss(zero, zero, 0.1), torch.tensor([20 * math.log(2)]))          # (2/0.1)·ln 2
    # r = p/p0 = 2, β = 1: 2·ln(1 + 2)
    torch.testing.assert_close(npo_loss(torch.tensor([math.log(2.0)]), torch.zeros(1), 1.0), torch.tensor([2 * math.log(3)]))
    assert npo_loss(torch.tensor([-1e4]), torch.zeros(1), 1.0) == 0   # forgotten: no loss is left
    assert torch.isfinite(npo_loss(torch.tensor([1e4]), torch.zeros(1), 1.0)).all()


@pytest.mark.parametrize("beta", [0.05, 0.5, 2.0])
def test_gradient_weight_has_its_closed_form(beta: float) -> None:
    logp = torch.tensor([-30.0, -5.0, -1.0, 0.0], dtype=torch.float64, requires_grad=True)
    logp0 = torch.tensor([-4.0, -5.0, -6.0, -0.5], dtype=torch.float64)
    npo_loss(logp, logp0, beta).sum().backward()
    r = ((logp - logp0).detach()).exp()
    torch.testing.assert_close(logp.grad, 2 * r**beta / (1 + r**beta), atol=1e-10, rtol=0)
    assert logp.grad[1] == 1.0   # at θ_0


def test_first_loss_on_the_task_is_two_ln2_over_beta() -> None:
    task, batch = tiny.lm(), tiny.lm().forget.batch(range(8))
    logp0 = Loop(task).reference("npo", task.sequence_logp, task.forget)(batch)
    model = task.copy_of_original()
    loss = npo_loss(task.sequence_logp(model, batch), logp0, 0.1)
    torch.testing.assert_close(loss, torch.full((8,), 20 * math.log(2)), atol=1e-5, rtol=0)   # float32 of a sum of ~8 tokens


def test_small_beta_is_gradient_ascent() -> None:
    task, batch = tiny.lm(), tiny.lm().forget.batch(range(8))
    loop, model = Loop(task), task.build(9)   # far from θ_0, where only β → 0 can make them agree
    logp0 = loop.reference("npo", task.sequence_logp, task.forget)(batch)
    params = list(model.parameters())

    def direction(loss: torch.Tensor) -> torch.Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)]).double()

    ascent = direction(task.sequence_logp(model, batch).mean())
    cosines = [float(torch.cosine_similarity(direction(npo_loss(task.sequence_logp(model, batch), logp0, beta).mean()),
                                             ascent, dim=0)) for beta in (1e-4, 1.0)]
    assert cosines[0] > 0.999 and cosines[1] < 0.99


def test_cached_reference_equals_the_resident_one() -> None:
    task = tiny.lm()
    cached = Loop(task).reference("npo", task.sequence_logp, task.forget)
    asked = Loop(task, Settings(cache_mb=0)).reference("npo", task.sequence_logp, task.forget)
    for index in ([0], [3, 1, 6], list(range(8))):
        batch = task.forget.batch(index)
        torch.testing.assert_close(cached(batch), asked(batch), atol=1e-6, rtol=1e-6)


def test_forgets_and_keeps() -> None:
    task = tiny.lm()
    outcome = lethe.forget(task, "npo", lr=1e-3, epochs=40, alpha=5.0, progress=False)
    again = lethe.forget(task, "npo", lr=1e-3, epochs=40, alpha=5.0, progress=False)

    def score(model: torch.nn.Module, split) -> float:
        with torch.no_grad():
            return float(task.observe(model, split.batch(range(len(split))))["score"].mean())

    assert score(outcome.model, task.forget) < 0.5 * score(task.original, task.forget)
    assert score(outcome.model, task.retain) > 0.8 * score(task.original, task.retain)
    for a, b in zip(outcome.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_plain_npo_touches_no_retained_data() -> None:
    full = tiny.lm()
    task = lethe.language_model(full.original, full.tokenizer, forget=full.forget)
    assert lethe.forget(task, "npo", alpha=0, epochs=1, progress=False).cost.steps == 1
    with pytest.raises(NeedsUnmet, match="retain"):
        lethe.forget(task, "npo", epochs=1, progress=False)
    with pytest.raises(OutOfRange, match=r"npo\.beta"):
        lethe.forget(task, "npo", beta=0)


def test_kl_term_runs_from_the_cached_logits() -> None:
    task = tiny.lm()
    outcome = lethe.forget(task, "npo", alpha=0, kl=1.0, epochs=2, lr=1e-3, watchdog=False, progress=False)
    assert outcome.cost.examples == 2 * (8 + 24) and not outcome.notes


def answers(model: torch.nn.Module, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of all answer tokens, summed, and their number: plain transformers.  -> [n], [n]"""
    ids, labels = split.columns["ids"], split.columns["labels"][:, 1:]
    logp = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    kept = labels != -100
    each = logp.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
    return (each * kept).sum(1), kept.sum(1)


def test_two_steps_by_hand() -> None:
    """All three terms. At θ_0 the ratio is 1 and the KL has no gradient; the second step sees both."""
    task, beta, alpha, kl = tiny.lm(), 0.3, 0.6, 0.8
    with torch.no_grad():
        before, _ = answers(task.original, task.forget)
        logits = task.original(input_ids=task.retain.columns["ids"]).logits[:, :-1]

    def objective(m: torch.nn.Module) -> torch.Tensor:
        now, _ = answers(m, task.forget)
        kept, count = answers(m, task.retain)
        mask = task.retain.columns["labels"][:, 1:] != -100
        other = m(input_ids=task.retain.columns["ids"]).logits[:, :-1]
        apart = (logits.softmax(-1) * (logits.log_softmax(-1) - other.log_softmax(-1))).sum(-1)
        return ((2 / beta * torch.log(1 + (now - before).exp() ** beta)).mean() - alpha * (kept / count).mean()
                + kl * ((apart * mask).sum(1) / count).mean())

    found = byhand.run("npo", task, beta=beta, alpha=alpha, kl=kl, epochs=2, warmup=0, lr=0.05)
    byhand.assert_same(task, found, byhand.steps(task, [objective] * 2, lr=0.05), atol=1e-5)


def test_the_longest_answer_of_a_batch_need_not_stand_in_its_longest_row() -> None:
    """One batch at a time against the original that is asked at every step: the table knows no batches."""
    task = tiny.lm()
    options = {"alpha": 0.0, "kl": 5.0, "epochs": 2, "lr": 1e-2, "batch_size": 5, "progress": False, "watchdog": False}
    cached, asked = (lethe.forget(task, "npo", settings=Settings(cache_mb=mb), **options) for mb in (1024.0, 1e-9))
    assert asked.notes and not cached.notes
    for a, b in zip(cached.model.parameters(), asked.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)

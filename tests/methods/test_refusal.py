"""Methods that teach a refusal: golden number, IdkDPO's start, and one step of each in plain transformers."""

from __future__ import annotations

import math

import byhand
import pytest
import tiny
import torch
from torch import Tensor, nn

import lethe
from lethe.core.split import Split
from lethe.maths.losses import preference_loss
from lethe.methods.lm.refusal import jsd, token_jsd

STEP = 3.0


def test_golden() -> None:
    three = torch.full((1,), -3.0)
    assert preference_loss(three, three, 0.1, 2.0).item() == pytest.approx(13.862944)
    assert preference_loss(three + 1, three, 1.0).item() == pytest.approx(math.log1p(math.exp(-1)))
    half = torch.tensor(0.5, dtype=torch.float64).log()
    assert token_jsd(half).item() == pytest.approx(0.75 * math.log(4 / 3)) == 0.21576155433883568
    assert token_jsd(torch.zeros(())).item() == 0 and token_jsd(torch.tensor(-60.0)).item() == pytest.approx(math.log(2))
    even, skewed = torch.zeros(2), torch.tensor([math.log(3), 0.0])
    assert jsd(even, skewed).item() == pytest.approx(0.033822, abs=1e-6) == jsd(skewed, even).item()
    assert jsd(skewed, skewed).item() == pytest.approx(0, abs=1e-7)


def logp(model: nn.Module, split: Split) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all answer tokens, summed, and their number: plain transformers.  -> [n], [n]"""
    labels = split.columns["labels"][:, 1:]
    kept = labels != -100
    each = model(input_ids=split.columns["ids"]).logits[:, :-1].log_softmax(-1)
    return (each.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2) * kept).sum(1), kept.sum(1)


def nll(model: nn.Module, split: Split) -> Tensor:
    total, count = logp(model, split)
    return -(total / count).mean()


def refused(task: lethe.core.families.language.LanguageTask, split: Split) -> Split:
    """The tiny task has one refusal."""
    return task.encode(list(split.column("prompt")), ["I do not know."] * len(split))


def test_one_step_of_idk_nll() -> None:
    task = tiny.lm()
    taught = refused(task, task.forget)
    found = byhand.run("idk_nll", task, alpha=0.4, lr=STEP)
    wanted = byhand.steps(task, [lambda m: nll(m, taught) + 0.4 * nll(m, task.retain)], lr=STEP)
    byhand.assert_same(task, found, wanted, atol=1e-5)


def test_two_steps_of_idk_dpo() -> None:
    """Two: at the first the ratios are 1, whatever the references are."""
    task, beta = tiny.lm(), 0.5
    taught = refused(task, task.forget)
    found = byhand.run("idk_dpo", task, alpha=0.4, beta=beta, lr=0.05, epochs=2)
    with torch.no_grad():
        chosen0, rejected0 = logp(task.original.eval(), taught)[0], logp(task.original, task.forget)[0]

    def objective(m: nn.Module) -> Tensor:
        ratio = (logp(m, taught)[0] - chosen0) - (logp(m, task.forget)[0] - rejected0)
        return (-2 / beta * torch.sigmoid(beta * ratio).log()).mean() + 0.4 * nll(m, task.retain)

    byhand.assert_same(task, found, byhand.steps(task, [objective] * 2, lr=0.05), atol=1e-5)


def test_one_step_of_idk_ap() -> None:
    task, beta = tiny.lm(), 0.5
    taught, answered = refused(task, task.forget), refused(task, task.retain)
    found = byhand.run("idk_ap", task, alpha=0.4, beta=beta, lr=STEP)

    def objective(m: nn.Module) -> Tensor:
        kept = -torch.sigmoid(beta * (logp(m, task.retain)[0] - logp(m, answered)[0])).log() / beta
        return nll(m, taught) + 0.4 * kept.mean()

    byhand.assert_same(task, found, byhand.steps(task, [objective], lr=STEP), atol=1e-5)


def test_two_steps_of_jens_un() -> None:
    """Two: at the first the retain term is 0. The refusal's tokens, its end among them, along the true answer."""
    task, gamma, alpha = tiny.lm(), 0.7, 0.4
    words = refused(task, task.forget).columns
    found = byhand.run("jens_un", task, gamma=gamma, alpha=alpha, lr=0.3, epochs=2)

    def kl(p: Tensor, q: Tensor) -> Tensor:
        return (p * (p.clamp(min=1e-30) / q).log()).sum(-1)

    def divergence(p: Tensor, q: Tensor) -> Tensor:
        return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2

    def predicted(model: nn.Module, split: Split) -> Tensor:
        return model(input_ids=split.columns["ids"]).logits[:, :-1].softmax(-1)

    def mean(values: Tensor, split: Split) -> Tensor:
        kept = split.columns["labels"][:, 1:] != -100
        return ((values * kept).sum(1) / kept.sum(1)).mean()

    taught = torch.zeros(*task.forget.columns["labels"][:, 1:].shape, 290)
    for row, (labels, refusal) in enumerate(zip(task.forget.columns["labels"][:, 1:], words["labels"], strict=True)):
        target = refusal[refusal != -100].tolist()
        for turn, place in enumerate((labels != -100).nonzero().flatten().tolist()):
            taught[row, place, target[turn % len(target)]] = 1.0
    with torch.no_grad():
        before = predicted(task.original.eval(), task.retain)

    def objective(m: nn.Module) -> Tensor:
        return (gamma * mean(divergence(taught, predicted(m, task.forget)), task.forget)
                + alpha * mean(divergence(before, predicted(m, task.retain)), task.retain))

    byhand.assert_same(task, found, byhand.steps(task, [objective] * 2, lr=0.3), atol=1e-5)


def refusals(task: lethe.core.families.language.LanguageTask, model: nn.Module, split: Split) -> float:
    """Share of prompts that are answered with the refusal."""
    said = task.generate(model, list(split.column("prompt")), max_new_tokens=16)
    return said.count("I do not know.") / len(said)


def test_refuses_and_keeps() -> None:
    task = tiny.lm()
    outcome = lethe.forget(task, "idk_nll", lr=3e-3, epochs=40, alpha=3.0, progress=False)
    with torch.no_grad():
        kept = float(task.score(outcome.model.eval(), task.retain.batch(range(len(task.retain)))).mean())
    assert refusals(task, outcome.model, task.forget) >= 0.75 and kept > 0.8


def test_answer_preservation_prevents_refusing_everything() -> None:
    """Yuan et al.: without it what was to be kept is refused, too. The answers' probabilities may drift: no watchdog here."""
    task = tiny.lm()
    plain = lethe.forget(task, "idk_nll", lr=3e-3, epochs=40, alpha=0.0, watchdog=False, progress=False).model
    kept = lethe.forget(task, "idk_ap", lr=3e-3, epochs=40, watchdog=False, progress=False).model
    assert refusals(task, plain, task.retain) > 0.2
    assert refusals(task, kept, task.retain) <= 0.05 and refusals(task, kept, task.forget) >= 0.75


def test_preference_lowers_the_answer() -> None:
    task = tiny.lm()
    outcome = lethe.forget(task, "idk_dpo", lr=3e-3, epochs=40, alpha=3.0, progress=False)
    with torch.no_grad():
        (forgotten, before), kept = (
            [float(task.score(model.eval(), task.forget.batch(range(8))).mean()) for model in (outcome.model, task.original)],
            float(task.score(outcome.model, task.retain.batch(range(len(task.retain)))).mean()))
    assert forgotten < before - 0.25 and kept > 0.8

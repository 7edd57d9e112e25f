"""Methods that differ in what every token is taught: golden numbers, limits, and one step of each in plain transformers."""

from __future__ import annotations

import math
from collections.abc import Callable

import byhand
import pytest
import tiny
import torch
from torch import Tensor, nn

import lethe
from lethe.core.split import Split
from lethe.maths.losses import uniform_tokens
from lethe.methods.lm.token_weighted import ceu_tokens, masc_tokens, satimp_tokens, undial_tokens, wga_tokens

LN3 = torch.tensor([math.log(3), 0.0, 0.0])
STEP = 3.0


def test_golden() -> None:
    half = torch.tensor(0.5).log()
    assert wga_tokens(half, 1.0).item() == pytest.approx(-0.346574, abs=1e-6)
    assert satimp_tokens(half, 5.0, 1.0).item() == pytest.approx(-0.010830, abs=1e-6)
    assert ceu_tokens(LN3, torch.tensor(0)).item() == pytest.approx(1.609438, abs=1e-6)
    assert uniform_tokens(LN3).item() == pytest.approx(0.144621, abs=1e-6)
    assert uniform_tokens(torch.full((7,), 2.0)).item() == pytest.approx(0, abs=1e-6)
    assert masc_tokens(torch.tensor([3.0, 2.0, 0.0]), torch.tensor(0), 2, 0.5).item() == 2.5
    assert masc_tokens(torch.tensor([3.0, 2.0, 0.0]), torch.tensor(2), 5, 0.5).item() == 0
    zero = torch.zeros(2)
    assert undial_tokens(zero, zero, torch.tensor(0), math.log(3)).item() == pytest.approx(math.log(2), abs=1e-6)


def test_weights_are_held_fixed() -> None:
    logp = torch.tensor([-2.0, -0.1], dtype=torch.float64, requires_grad=True)
    p = logp.detach().exp()
    (found,) = torch.autograd.grad(satimp_tokens(logp, 2.0, 3.0).sum(), logp)
    torch.testing.assert_close(found, p**2 * (1 - p) ** 3)
    logits = torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(ceu_tokens(logits, torch.tensor(1)), logits)
    p, q = logits.detach().softmax(0), torch.tensor([1.0, -math.inf, -1.0]).softmax(0)
    torch.testing.assert_close(found, (p - q).float().double(), atol=1e-6, rtol=0)


def test_undial_converges_to_its_closed_form() -> None:
    teacher, lower = torch.tensor([4.0, 1.0, 0.0]), 3.0
    student = teacher.clone().requires_grad_()
    optimiser = torch.optim.SGD([student], lr=1.0)
    for _ in range(2000):
        optimiser.zero_grad()
        undial_tokens(student, teacher, torch.tensor(0), lower).backward()
        optimiser.step()
    p = teacher.softmax(0)[0]
    wanted = p * math.exp(-lower) / (1 - p + p * math.exp(-lower))
    torch.testing.assert_close(student.softmax(0)[0], wanted, atol=1e-4, rtol=0)


def seen(model: nn.Module, split: Split) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that predict every place, the tokens there, and which are an answer's: plain transformers."""
    labels = split.columns["labels"][:, 1:]
    return model(input_ids=split.columns["ids"]).logits[:, :-1], labels.clamp(min=0), labels != -100


def mean(values: Tensor, kept: Tensor) -> Tensor:
    """Over the tokens of each answer, then over answers."""
    return ((values * kept).sum(1) / kept.sum(1)).mean()


def logp_of(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(2, labels.unsqueeze(2)).squeeze(2)


def rank(kept: Tensor) -> Tensor:
    """The number of each answer token within its answer, from 0."""
    return kept.long().cumsum(1) - 1


def retained(model: nn.Module, split: Split, alpha: float) -> Tensor:
    logits, labels, kept = seen(model, split)
    return -alpha * mean(logp_of(logits, labels), kept)


def assert_one_step(task: lethe.core.task.Task, found: object, forget: Callable[[Tensor, Tensor, Tensor], Tensor], gamma: float,
                    alpha: float) -> None:
    def objective(m: nn.Module) -> Tensor:
        return gamma * forget(*seen(m, task.forget)) + retained(m, task.retain, alpha)

    byhand.assert_same(task, found, byhand.steps(task, [objective], lr=STEP), atol=1e-5)


def test_one_step_of_wga() -> None:
    task = tiny.lm()
    found = byhand.run("wga", task, beta=0.5, gamma=0.7, alpha=0.4, lr=STEP)
    assert_one_step(task, found, lambda z, y, kept: mean(logp_of(z, y).detach().exp() ** 0.5 * logp_of(z, y), kept), 0.7, 0.4)


def test_one_step_of_satimp() -> None:
    task = tiny.lm()
    found = byhand.run("satimp", task, beta1=2.0, beta2=0.5, gamma=0.7, alpha=0.4, lr=STEP)

    def forget(z: Tensor, y: Tensor, kept: Tensor) -> Tensor:
        p = logp_of(z, y).detach().exp()
        return mean(p**2 * (1 - p) ** 0.5 * logp_of(z, y), kept)

    assert_one_step(task, found, forget, 0.7, 0.4)


def test_one_step_of_ce_u() -> None:
    task = tiny.lm()
    found = byhand.run("ce_u", task, skip=1, gamma=0.7, alpha=0.4, lr=STEP)

    def forget(z: Tensor, y: Tensor, kept: Tensor) -> Tensor:
        p = z.detach().softmax(-1)
        others = p.scatter(2, y.unsqueeze(2), 0.0)
        target = others / others.sum(-1, keepdim=True)
        return mean(-(target * z.log_softmax(-1)).sum(-1), kept & (rank(kept) >= 1))

    assert_one_step(task, found, forget, 0.7, 0.4)


def test_one_step_of_me_gd() -> None:
    task = tiny.lm()
    found = byhand.run("me_gd", task, gamma=0.7, alpha=0.4, lr=STEP)
    assert_one_step(task, found, lambda z, y, kept: mean(-z.log_softmax(-1).mean(-1) - math.log(z.shape[-1]), kept), 0.7, 0.4)


def test_one_step_of_palu() -> None:
    task = tiny.lm()
    found = byhand.run("palu", task, prefix=2, gamma=0.7, alpha=0.4, lr=STEP)

    def forget(z: Tensor, y: Tensor, kept: Tensor) -> Tensor:
        return mean(-z.log_softmax(-1).mean(-1) - math.log(z.shape[-1]), kept & (rank(kept) < 2))

    assert_one_step(task, found, forget, 0.7, 0.4)


def test_one_step_of_undial() -> None:
    task = tiny.lm()
    found = byhand.run("undial", task, lower=2.0, gamma=0.7, alpha=0.4, lr=STEP)
    with torch.no_grad():
        before, labels, _ = seen(task.original.eval(), task.forget)
    target = (before - 2.0 * nn.functional.one_hot(labels, before.shape[-1])).softmax(-1)
    assert_one_step(task, found, lambda z, y, kept: mean(-(target * z.log_softmax(-1)).sum(-1), kept), 0.7, 0.4)


def test_one_step_of_masc() -> None:
    task = tiny.lm()
    found = byhand.run("masc", task, rivals=2, margin=1.0, enough=None, gamma=0.7, alpha=0.4, lr=STEP)

    def forget(z: Tensor, y: Tensor, kept: Tensor) -> Tensor:
        true = z.gather(2, y.unsqueeze(2)).squeeze(2)
        rivals = z.masked_fill(nn.functional.one_hot(y, z.shape[-1]).bool(), -math.inf).sort(-1, descending=True).values
        return mean(torch.relu(true - (rivals[..., 0] + rivals[..., 1]) / 2 + 1.0), kept)

    assert_one_step(task, found, forget, 0.7, 0.4)


@pytest.mark.parametrize("name", ["masc", "wga"])
def test_ends_when_enough_is_no_longer_said(name: str) -> None:
    """It ends after the first pass at whose end half of the tokens have a likelier rival; a smaller share ends it no later."""
    task, options = tiny.lm(), {"lr": 1e-3, "epochs": 40, "watchdog": False, "progress": False}

    def unsaid(model: nn.Module) -> float:
        z, y, kept = seen(model, task.forget)
        return float((z.argmax(-1) != y)[kept].float().mean())

    steps = []
    for share in (0.2, 0.5):
        outcome = lethe.forget(task, name, enough=share, **options)
        before = lethe.forget(task, name, enough=None, **{**options, "epochs": outcome.cost.steps - 1}) if steps else None
        with torch.no_grad():
            assert unsaid(outcome.model) >= share and (before is None or unsaid(before.model) < share)
        steps.append(outcome.cost.steps)
        assert any("no longer the likeliest" in note for note in outcome.notes)
    assert steps[0] <= steps[1] < 40


FORGETTING = {"masc": {"lr": 3e-3, "gamma": 0.1}, "wga": {"lr": 1e-3}, "satimp": {"lr": 1e-3, "beta1": 1.0, "gamma": 1.0},
              "ce_u": {"lr": 1e-3, "alpha": 1.0, "gamma": 0.3}, "me_gd": {"lr": 1e-3, "gamma": 0.3},
              "palu": {"lr": 1e-3, "gamma": 0.3}, "undial": {"lr": 1e-3, "alpha": 1.0, "gamma": 0.3}}


# two by default: each formula has golden numbers and a step by hand above
@pytest.mark.parametrize("name", [name if name in ("wga", "undial") else pytest.param(name, marks=pytest.mark.slow)
                                  for name in FORGETTING])
def test_forgets_and_keeps(name: str) -> None:
    task = tiny.lm()
    outcome = lethe.forget(task, name, **{"epochs": 40, **FORGETTING[name]}, progress=False)
    with torch.no_grad():
        after = {key: float(task.observe(outcome.model, split.batch(range(len(split))))["score"].mean())
                 for key, split in task.splits.items()}
    assert after["forget"] < 0.5 and after["retain"] > 0.7, after

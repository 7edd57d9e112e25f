"""ULD: the rule by its arithmetic, one step of the assistant and the guarded answers by hand, what it forgets and keeps."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import byhand
import plain_lm as plain
import pytest
import tiny
import torch
from torch import Tensor, nn

import lethe
from lethe.core.families.language import LanguageTask
from lethe.core.guard import as_served
from lethe.errors import RequestError
from lethe.methods.guard.uld import Contrasting, contrasted, first_blocks


def test_golden_numbers() -> None:
    before, said = torch.tensor([1 / 2, 3 / 8, 1 / 8]).log(), torch.tensor([3 / 4, 1 / 8, 1 / 8]).log()
    assert contrasted(before, said, 1.0, 0.5).exp().tolist() == pytest.approx([2 / 9, 1.0, 1 / 8])
    assert contrasted(before, said, 1.0, 0.0).exp().tolist() == pytest.approx([2 / 9, 1.0, 1 / 3])
    assert contrasted(before, torch.zeros(3), 5.0, 0.1).tolist() == pytest.approx(before.tolist())   # uniform: the original
    assert contrasted(before + 3, said - 2, 1.0, 0.5).exp().tolist() == pytest.approx([2 / 9, 1.0, 1 / 8])


def low_rank(model: nn.Module, factors: dict[str, tuple[Tensor, Tensor]], scale: float) -> nn.Module:
    """Every named layer's matrix W becomes W + scale · b a."""
    for name, (a, b) in factors.items():
        layer = model.get_submodule(name)
        weight = layer.weight
        del layer.weight
        layer.weight = weight.detach() + scale * (b @ a)
    return model


def test_a_step_and_the_answers_by_hand() -> None:
    """One block of three; b starts at 0, so a stays where it was drawn and b goes down the gradient once."""
    task, lr, gamma, alpha, likely = LanguageTask.of(tiny.lm()), 2.0, 3.0, 1.5, 0.1
    guard = byhand.outcome("uld", task, blocks=1, rank=4, lr=lr, gamma=gamma, alpha=alpha, likely=likely).answering
    assert isinstance(guard, Contrasting) and len(guard.layers) == 7 and guard.scale == 2.0

    def assistant() -> nn.Module:
        model = copy.deepcopy(task.original).eval().requires_grad_(False)
        model.model.layers = model.model.layers[:1]
        return model

    factors = {name: (getattr(guard, f"a{i}"), torch.zeros_like(getattr(guard, f"b{i}"), requires_grad=True))
               for i, name in enumerate(guard.layers)}
    model = low_rank(assistant(), factors, 2.0)
    z, _, kept = plain.seen(model, task.retain)
    uniform = plain.mean(-z.log_softmax(-1).mean(-1) - math.log(z.shape[-1]), kept)
    loss = plain.nll(model, task.forget) + gamma * uniform
    for i, gradient in enumerate(torch.autograd.grad(loss, [b for _, b in factors.values()])):
        assert torch.allclose(getattr(guard, f"b{i}"), -lr * gradient, atol=1e-6)
    learnt = {name: (getattr(guard, f"a{i}"), getattr(guard, f"b{i}")) for i, name in enumerate(guard.layers)}
    split = task.forget
    before, said = plain.before(task.original, split), plain.before(low_rank(assistant(), learnt, 2.0), split)
    p0, size = before.softmax(-1), before.shape[-1]
    inside = p0 >= torch.minimum(likely * p0.amax(-1), p0.sort(-1).values[..., -math.ceil(likely * size)]).unsqueeze(-1)
    mixed = p0.log() - alpha * torch.where(inside, said.log_softmax(-1) + math.log(size), 0.0)
    _, tokens, kept = plain.seen(task.original, split)
    wanted = plain.mean(-mixed.log_softmax(-1).gather(2, tokens.unsqueeze(2)).squeeze(2), kept)
    found = task.nll(guard, split.batch(range(len(split)))).mean()
    assert float(found.detach()) == pytest.approx(float(wanted), abs=1e-5)
    assert abs(float(wanted) - float(plain.nll(task.original, split).detach())) > 0.1


def test_it_forgets_keeps_and_comes_back(tmp_path: Path) -> None:
    """As a user calls it. The original: 0.85 on F, 0.84 on R; 0.43 on people that it was never told of."""
    task = LanguageTask.of(tiny.lm())
    outcome = lethe.forget(task, "uld", lr=1e-2, epochs=60, progress=False)
    guard, asked = outcome.answering, list(task.forget.column("prompt"))[:3]

    def score(name: str) -> float:
        return float(task.score(guard, task.splits[name].batch(range(len(task.splits[name])))).mean().detach())

    assert outcome.kind == "guard" and score("forget") < 0.5 and score("retain") > 0.78
    said = task.generate(guard, asked)
    written = task.encode(asked, said).batch(range(3))
    seen = task.observe(guard, written)
    assert (seen["correct"] >= seen["content_mask"]).all()   # greedy, token by token: texts and likelihoods are of one system
    again = as_served(outcome.save(tmp_path / "out"), outcome.model)
    assert isinstance(again, Contrasting) and task.generate(again, asked) == said
    whole = first_blocks(outcome.model, 3)
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(whole(input_ids=ids).logits, outcome.model(input_ids=ids).logits)


def test_more_blocks_than_there_are_is_refused() -> None:
    with pytest.raises(RequestError, match="has 3, so there is no such assistant"):
        byhand.outcome("uld", tiny.lm(), blocks=4)

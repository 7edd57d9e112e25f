"""DELETE: the target and its gradient."""

from __future__ import annotations

import math

import byhand
import torch
from running import run
from tiny import classification

from lethe.maths.losses import kl
from lethe.methods.general.delete import without


def test_golden_loss() -> None:
    # original logits 0, 0, 0 with label 0: p = (0, ½, ½); an undecided model says ⅓ each: KL = ln(½ / ⅓) = ln 1.5
    target = without(torch.zeros(1, 3), torch.tensor([0]))
    assert target.softmax(-1).tolist() == [[0.0, 0.5, 0.5]]
    torch.testing.assert_close(kl(target, torch.zeros(1, 3)), torch.tensor([math.log(1.5)]))


def test_gradient_is_the_models_probability_of_the_class_and_the_difference_elsewhere() -> None:
    rng = torch.Generator().manual_seed(0)
    original, now = torch.randn(4, 5, generator=rng), torch.randn(4, 5, generator=rng, requires_grad=True)
    y = torch.tensor([0, 1, 2, 4])
    target = without(original, y)
    kl(target, now).sum().backward()
    torch.testing.assert_close(now.grad, now.softmax(-1).detach() - target.softmax(-1))
    assert (now.grad.gather(1, y[:, None]) > 0).all()   # type: ignore[union-attr]


def test_the_class_goes_and_the_others_keep_their_proportions() -> None:
    task = classification()
    model = run("delete", task, lr=3e-2, epochs=30).model
    batch = task.forget.batch(range(len(task.forget)))
    with torch.no_grad():
        p, target = task.outputs(model, batch).softmax(-1), without(task.outputs(task.original, batch), batch.y).softmax(-1)
    assert float(p[:, 3].mean()) < 0.05
    assert float((p - target).abs().sum(1).mean()) < 0.3


def test_half_precision_logits_do_not_overflow() -> None:
    target = without(torch.tensor([[60000.0, 1.0]], dtype=torch.float16), torch.tensor([0]))
    assert target.softmax(-1).tolist() == [[0.0, 1.0]]


def test_two_steps_by_hand() -> None:
    task = byhand.classification()
    x, y = task.forget.columns["x"], task.forget.columns["y"]
    others = byhand.soft(task.original(x)).detach() * (torch.nn.functional.one_hot(y, 3) == 0)
    target = others / others.sum(1, keepdim=True)
    aim = [lambda m: byhand.kl(target, byhand.soft(m(x)))] * 2
    byhand.assert_same(task, byhand.run("delete", task, epochs=2), byhand.steps(task, aim))

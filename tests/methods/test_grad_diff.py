"""GradDiff: the bound, its limits against gradient ascent, and which terms take part."""

from __future__ import annotations

import byhand
import pytest
import tiny
import torch
from byhand import kl, nll, soft

import lethe
from lethe.errors import RequestError
from lethe.methods.general.grad_diff import ascent_loss


def test_golden() -> None:
    nll = torch.tensor([1.0, 5.0], requires_grad=True)
    loss = ascent_loss(nll, 4.0)
    assert loss.tolist() == [-1.0, -4.0] and ascent_loss(nll, None).tolist() == [-1.0, -5.0]
    loss.sum().backward()
    assert nll.grad.tolist() == [-1.0, 0.0]   # what is beyond the bound is not pushed


def test_without_retain_terms_it_is_gradient_ascent() -> None:
    task = tiny.lm()
    options = {"lr": 1e-3, "epochs": 3, "batch_size": 4, "optimiser": "adamw", "weight_decay": 0.0, "clip": None}
    ours = lethe.forget(task, "grad_diff", alpha=0, progress=False, **options).model
    ascent = lethe.forget(task, "gradient_ascent", progress=False, **options).model
    for a, b in zip(ours.parameters(), ascent.parameters(), strict=True):
        assert torch.equal(a, b)


def test_zero_bound_leaves_the_model_alone() -> None:
    task = tiny.lm()
    model = lethe.forget(task, "grad_diff", alpha=0, bound=0.0, lr=1e-2, weight_decay=0.0, progress=False).model
    for a, b in zip(model.parameters(), task.original.parameters(), strict=True):
        assert torch.equal(a, b)


def test_bound_prevents_collapse() -> None:
    task = tiny.lm()
    batch = task.forget.batch(range(8))
    ended = {}
    for bound in (None, 3.0):   # without the watchdog, which would keep either from collapse
        model = lethe.forget(task, "grad_diff", bound=bound, lr=3e-3, epochs=40, weight_decay=0.0, watchdog=False,
                             progress=False).model
        with torch.no_grad():
            ended[bound] = float(task.nll(model, batch).mean())
    assert ended[None] > 3 * ended[3.0] > 6


def test_staying_near_the_original_is_kl() -> None:
    task = tiny.lm()
    outcome = lethe.forget(task, "grad_diff", gamma=0, alpha=0, kl=1.0, lr=1e-3, epochs=3, weight_decay=0.0, progress=False)
    batch = task.retain.batch(range(24))
    with torch.no_grad():   # KL is 0 with a zero gradient at θ_0; only rounding moves anything
        moved = task.divergence(task.outputs(task.original, batch), task.outputs(outcome.model, batch), batch)
    assert float(moved.max()) < 1e-2


def test_nothing_to_do_is_refused() -> None:
    with pytest.raises(RequestError, match="nothing would move"):
        lethe.forget(tiny.lm(), "grad_diff", gamma=0, alpha=0, progress=False)


def test_two_steps_by_hand() -> None:
    """All three terms, the ascent bounded: at 1.5 nats some examples push and some do not."""
    task, x = byhand.classification(), byhand.classification().retain.columns["x"]
    forget, before = task.forget.columns, soft(task.original(x)).detach()

    def objective(m: torch.nn.Module) -> torch.Tensor:
        each = torch.nn.functional.cross_entropy(m(forget["x"]), forget["y"], reduction="none")
        assert 0 < (each > 1.5).sum() < len(each)
        return -0.5 * each.clamp(max=1.5).mean() + 0.8 * nll(m, task.retain) + 0.7 * kl(before, soft(m(x)))

    found = byhand.run("grad_diff", task, gamma=0.5, alpha=0.8, kl=0.7, bound=1.5, epochs=2)
    byhand.assert_same(task, found, byhand.steps(task, [objective, objective]))

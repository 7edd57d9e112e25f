"""Refresh learning: the unlearning step and its limits."""

from __future__ import annotations

import byhand
import torch
from byhand import nll
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint
from lethe.methods.general.refresh import refreshed


def test_golden_step() -> None:
    # ‖θ‖ = 5, g/‖g‖ = (0, 1): θ + 0.1·(1·0, ½·5)
    found = refreshed(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.5]), torch.zeros(2), 0.1)
    torch.testing.assert_close(found, torch.tensor([3.0, 4.25]))


def test_without_gradient_only_the_noise_is_left() -> None:
    theta, noise = torch.tensor([3.0, 4.0]), torch.tensor([1.0, -1.0])
    torch.testing.assert_close(refreshed(theta, torch.zeros(2), torch.ones(2), noise, 0.1), theta + 0.1 * noise)


def test_without_unlearning_it_is_finetune() -> None:
    task = classification()
    same = {"lr": 1e-2, "epochs": 2}
    bare, plain = run("refresh", task, delta=0.0, **same), run("finetune", task, **same)
    assert state_fingerprint(bare.model) == state_fingerprint(plain.model)


def test_an_unlearning_step_raises_the_loss_of_its_batch() -> None:
    task = classification()
    size = len(task.retain)
    unlearned = run("refresh", task, delta=1e-2, lr=1e-12, epochs=1, batch_size=size).model   # one step, nothing learned
    batch = task.forget.batch(range(len(task.forget)))
    with torch.no_grad():
        assert task.nll(unlearned, batch).mean() > task.nll(task.original, batch).mean()


def test_noise_is_seeded() -> None:
    task = classification()
    prints = {seed: state_fingerprint(run("refresh", task, seed=seed, noise=0.1).model) for seed in (0, 1)}
    assert prints[0] != prints[1] and prints[0] == state_fingerprint(run("refresh", task, seed=0, noise=0.1).model)


def test_one_step_by_hand() -> None:
    task, delta, protection = byhand.classification(), 0.1, 2.0
    wanted = byhand.trainable(task.original)
    matters = byhand.gradient(wanted, lambda m: nll(m, task.retain))
    up = byhand.gradient(wanted, lambda m: nll(m, task.forget))
    with torch.no_grad():
        for name, p in wanted.named_parameters():
            importance = matters[name] ** 2
            spare = 1 / (1 + protection * importance / importance.mean())
            p.add_(delta * spare * p.norm() * up[name] / up[name].norm())
    wanted = byhand.stepped(wanted, [lambda m: nll(m, task.retain)])
    byhand.assert_same(task, byhand.run("refresh", task, delta=delta, noise=0.0, protection=protection), wanted)

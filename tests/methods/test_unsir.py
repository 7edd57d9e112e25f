"""UNSIR: the noise is what the model calls anything but the class; classes only."""

from __future__ import annotations

import math

import byhand
import pytest
import torch
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint
from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.data.select import Where
from lethe.errors import RequestError
from lethe.maths.losses import cross_entropy
from lethe.methods.classification.unsir import UNSIR, learned_noise, noise_loss
from lethe.train.loop import Loop


def test_golden_loss() -> None:
    found = noise_loss(torch.zeros(1, 2), torch.tensor([0]), torch.ones(1, 2), 0.1)
    torch.testing.assert_close(found, torch.tensor([0.2 - math.log(2)]))


def test_the_noise_maximises_the_error_of_the_original_and_leaves_it_alone() -> None:
    task, labels = classification(), torch.full((32,), 3)
    print_before = state_fingerprint(task.original)
    drawn = learned_noise(UNSIR(noise_steps=1, noise_lr=1e-9), task, Loop(task), labels)
    shaped = learned_noise(UNSIR(noise_steps=40, penalty=0.0), task, Loop(task), labels)

    def error(noise: torch.Tensor) -> float:
        with torch.no_grad():
            return float(cross_entropy(task.original(noise), labels).mean())

    assert error(shaped.columns["x"]) > error(drawn.columns["x"]) + 2
    tame = learned_noise(UNSIR(noise_steps=40, penalty=10.0), task, Loop(task), labels)
    assert tame.columns["x"].norm() < 0.5 * drawn.columns["x"].norm()
    assert state_fingerprint(task.original) == print_before


def test_without_impairing_it_is_finetune() -> None:
    task = classification()
    bare = run("unsir", task, impair_epochs=0, repair_epochs=2, repair_lr=1e-2, noise_steps=1,
               optimiser="sgd")
    plain = run("finetune", task, lr=1e-2, epochs=2, weight_decay=0.0)
    assert state_fingerprint(bare.model) == state_fingerprint(plain.model)


def test_a_class_that_is_also_retained_is_refused() -> None:
    with pytest.raises(RequestError, match="whole classes"):
        run("unsir", classification(Where(index=(0, 1, 2))))


def test_one_step_of_each_phase_by_hand() -> None:
    task, penalty = byhand.classification(removed=True), 0.3
    noise = torch.randn(5, 4, generator=generator(0, "unsir")).requires_grad_(True)
    adam = torch.optim.Adam([noise], lr=0.2)
    for _ in range(2):
        adam.zero_grad()
        error = byhand.cross_entropy(task.original(noise), torch.full((5,), 2))
        (-error.mean() + penalty * (noise**2).sum() / 5).backward(inputs=[noise])
        adam.step()
    shaped = Split({"x": noise.detach(), "y": torch.full((5,), 2)}, "noise")
    wanted = byhand.steps(task, [lambda m: byhand.nll(m, shaped) + byhand.nll(m, task.retain)], lr=0.2)
    wanted = byhand.stepped(wanted, [lambda m: byhand.nll(m, task.retain)], lr=0.05)
    found = byhand.run("unsir", task, noise=5, noise_steps=2, noise_lr=0.2, penalty=penalty, impair_lr=0.2, impair_epochs=1,
                       repair_lr=0.05, repair_epochs=1)
    byhand.assert_same(task, found, wanted)

"""RECE: what comes back after an edit, and the edits round by round."""

from __future__ import annotations

import math

import byhand
import pytest
import torch
from test_uce import states

from lethe.methods.diffusion.rece import returning


def test_golden_number() -> None:
    half, four = torch.tensor([[0.5]]), torch.tensor([[4.0]])
    assert math.isclose(float(returning(half, four, 1.0)), 0.5 * 4 / (1 + 0.5 * 4 * 0.5))


def test_what_returns_minimises_the_objective_layer_by_layer() -> None:
    layers, edit, c, beta = [states(i, 5) for i in range(3)], states(7, 8), states(8, 1)[0], 0.3
    found = (returning(edit, torch.stack([w.T @ w for w in layers]).sum(0), beta) @ c).requires_grad_(True)
    objective = beta * found.square().sum()
    for w in layers:
        objective = objective + (w @ edit @ found - w @ c).square().sum()
    objective.backward()
    assert found.grad is not None and float(found.grad.abs().max()) < 1e-9


def test_without_an_edit_the_concept_itself_returns() -> None:
    w = states(0, 12)
    assert torch.allclose(returning(torch.eye(8), w.T @ w, 1e-12), torch.eye(8).double(), atol=1e-9)
    assert float(returning(torch.eye(8), w.T @ w, 10.0).norm()) < float(returning(torch.eye(8), w.T @ w, 0.1).norm())


@pytest.mark.parametrize("rounds", [1, 2])
def test_rounds_by_hand(rounds: int) -> None:
    """Every layer by itself, in double precision: the stored weights are its values rounded once."""
    task, a, b, lamb, beta = byhand.diffusion(), 0.9, 0.2, 0.4, 0.05

    def every(prompts: list[str]) -> torch.Tensor:
        return task.text(task.tokens(prompts)).double()

    c, g = every(task.prompts["forget"]), every(["a square"] * 2)
    k = every(["", *task.prompts["keep"]]).flatten(0, 1)
    wanted = byhand.trainable(task.original)
    ends = ("attn2.to_k.weight", "attn2.to_v.weight")
    layers = {n: p.detach().double() for n, p in wanted.named_parameters() if n.endswith(ends)}
    now = dict(layers)

    def edited(erase: torch.Tensor, towards: torch.Tensor) -> None:
        right = lamb * torch.eye(c.shape[2], dtype=torch.float64) + a * erase.T @ erase + b * k.T @ k
        for name, w in now.items():
            now[name] = (lamb * w + a * (w @ towards.T) @ erase + b * (w @ k.T) @ k) @ torch.linalg.inv(right)

    edited(c[:, 4], g[:, 3])   # the first end tokens of "a red disk" and "a square"
    for _ in range(rounds):
        left = beta * torch.eye(c.shape[2], dtype=torch.float64) + sum(w.T @ w for w in now.values())
        back = torch.linalg.inv(left) @ sum(now[name].T @ w for name, w in layers.items())
        edited(c.flatten(0, 1) @ back.T, g.flatten(0, 1))
    for name, p in wanted.named_parameters():
        if name in now:
            p.data = now[name].float()
    found = byhand.run("rece", task, guide="a square", rounds=rounds, beta=beta, erase_scale=a, preserve_scale=b, lamb=lamb,
                       tokens="eos")
    for name, w in now.items():
        assert float((found.get_parameter(name).detach() - w).abs().max()) < 1e-7 * float(w.abs().max()), name
    byhand.assert_same(task, found, wanted)

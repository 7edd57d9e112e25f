"""Fisher forgetting: the matrix is the model's own, the variance and its limits."""

from __future__ import annotations

import byhand
import pytest
import torch
from running import run
from tiny import classification
from torch import nn

from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.methods.classification.fisher import model_fisher, variance
from lethe.models.classification.task import Classification


def test_golden_variance() -> None:
    # α = 2, q = 1: 2/1 and 2/3, mean over the inputs 4/3; without dimension 1 nothing is averaged; 1e9 is cut at the cap
    torch.testing.assert_close(variance(torch.tensor([[1.0, 3.0]]), 2.0, 1.0, 1e3), torch.full((1, 2), 4 / 3))
    torch.testing.assert_close(variance(torch.tensor([1.0, 4.0, 0.0]), 2.0, 0.5, 1e3), torch.tensor([2.0, 1.0, 2000.0]))


def test_fisher_of_a_linear_model_has_its_closed_form() -> None:
    """∇_W ℓ = (p − e_y) xᵀ, and E_y (p_k − 1[y = k])² = p_k(1 − p_k): the diagonal is p_k(1 − p_k)·x_j²."""
    torch.manual_seed(0)
    model, x = nn.Linear(3, 4), torch.randn(5, 3)
    split = Split({"x": x, "y": torch.zeros(5, dtype=torch.long)}, "retain")
    task = Classification(model, {"retain": split})
    found = model_fisher(model, dict(model.named_parameters()), split.batches(2), task, 4)
    p = model(x).detach().softmax(-1)
    spread = p * (1 - p)
    torch.testing.assert_close(found["weight"], torch.einsum("nk,nj->kj", spread, x.square()) / 5)
    torch.testing.assert_close(found["bias"], spread.mean(0))


def test_without_noise_only_the_row_of_the_forgotten_class_changes() -> None:
    task = classification()
    unlearned = run("fisher", task, alpha=0.0).model
    for name, p in task.original.named_parameters():
        now = unlearned.get_parameter(name)
        if name.startswith("head."):
            assert torch.equal(now[:3], p[:3]) and now[3].abs().max() < 0.05   # N(0, 1e-4): five deviations
        else:
            assert torch.equal(now, p)


def test_seeds_draw_different_noise() -> None:
    task = classification()
    one, other = (run("fisher", task, seed=seed, alpha=1e-6).model for seed in (0, 1))
    assert not torch.equal(one.get_parameter("head.weight"), other.get_parameter("head.weight"))


@pytest.mark.parametrize(("power", "cap"), [(1.0, 150.0), (0.5, 8.0)])
def test_the_noise_by_hand(power: float, cap: float) -> None:
    """Gradients of one example and one label at a time; the cap bites somewhere and not everywhere."""
    task, alpha = byhand.classification(removed=True), 1e-3
    x = task.retain.columns["x"]
    information = {name: torch.zeros_like(p) for name, p in task.original.named_parameters()}
    wanted = byhand.trainable(task.original)
    for i in range(12):
        for y in range(3):
            p = float(byhand.soft(task.original(x[i : i + 1]))[0, y])
            one = byhand.gradient(wanted, lambda m, i=i, y=y: byhand.cross_entropy(m(x[i : i + 1]), torch.tensor([y])).mean())
            for name, g in one.items():
                information[name] += p * g**2 / 12
    for name, p in wanted.named_parameters():
        most = cap / 10 if name.startswith("head") else cap
        wide = (information[name] + 1e-8) ** -power
        assert name != "body.weight" or 0 < (wide > most).sum() < wide.numel()
        spread = alpha * wide.clamp(max=most)
        if p.dim() == 2:
            spread = spread.mean(1, keepdim=True).expand_as(p)
        if name != "body.weight":   # a bias, or the head
            spread = 10 * spread
        if name.startswith("head"):   # class 2 goes
            spread = torch.cat([spread[:2], torch.full_like(spread[2:], 1e-4)])
            p.data[2] = 0
        p.data += spread.sqrt() * torch.randn(p.shape, generator=generator(0, "fisher", name))
    byhand.assert_same(task, byhand.run("fisher", task, alpha=alpha, power=power, cap=cap, batch_size=5), wanted, atol=1e-5)

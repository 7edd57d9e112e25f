"""MU-Mis: the sensitivity, its derivative, the bound, and what it must not change."""

from __future__ import annotations

import byhand
import pytest
import torch
from running import run
from tiny import classification
from torch import Tensor, nn

from lethe.core.modules import state_fingerprint
from lethe.core.split import Batch, Split
from lethe.methods.classification.mu_mis import contribution, sensitivity
from lethe.models.classification.task import Classification


def test_golden_contribution_and_its_bound() -> None:
    label, other = torch.tensor([9.0, 9.0]), torch.tensor([4.0, 1.0], requires_grad=True)
    loss = contribution(label, other, torch.tensor([2.0, 2.0]))
    assert loss.tolist() == [7.0, 8.0]   # 9 − min(4, 2), 9 − min(1, 2)
    loss.sum().backward()
    assert other.grad is not None and other.grad.tolist() == [0.0, -1.0]   # above the bound nothing rises


def test_sensitivity_of_a_linear_model_is_the_norm_of_its_row() -> None:
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]))
    split = Split({"x": torch.randn(2, 2), "y": torch.tensor([0, 1])}, "forget")
    task = Classification(model, {"forget": split})
    found = sensitivity(task, model, split.batch([0, 1]), torch.tensor([[0, 1], [2, 2]]), False)
    assert found.tolist() == [[25.0, 1.0], [4.0, 4.0]]   # 3² + 4², 1², 2²


class Attends(nn.Module):
    """One attention layer: its fused kernel has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm, self.head = nn.Linear(4, 12), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mix(self.norm(x)).chunk(3, -1)
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v).mean(1))


def test_gradient_agrees_with_finite_differences_through_attention() -> None:
    torch.manual_seed(0)
    model = Attends().double()
    x, y = torch.randn(3, 5, 4, dtype=torch.float64), torch.tensor([0, 1, 2])
    split = Split({"x": x, "y": y}, "forget")
    task = Classification(model, {"forget": split})
    classes = torch.stack([y, (y + 1) % 3], 1)

    def objective() -> Tensor:
        batch = Batch({"x": x, "y": y}, torch.arange(3))
        label, other = sensitivity(task, model, batch, classes, True).double().unbind(1)
        return contribution(label, other, torch.full((3,), 1e9)).sum()

    weight = model.mix.weight
    (gradient,) = torch.autograd.grad(objective(), weight)
    direction, step = torch.randn_like(weight), 1e-3
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step * direction)
        ends.append(objective().item())
        with torch.no_grad():
            weight.sub_(sign * step * direction)
    slope = (ends[0] - ends[1]) / (2 * step)
    assert abs(slope - float((gradient * direction).sum())) < 1e-3 * abs(slope)   # float32 logits limit the difference


def test_it_stops_by_the_share_of_sensitivity() -> None:
    outcome = run("mu_mis", classification(), delta=1.0, lr=1e-6, epochs=5)
    assert outcome.notes == ["stopped after pass 1: the label's sensitivity is 1.00 of the original's"]


def test_the_label_is_suppressed_without_a_retain_set() -> None:
    full = classification()
    task = Classification(full.original, {"forget": full.forget})
    outcome = run("mu_mis", task, lr=1e-2, epochs=100, delta=0.3)
    batch = task.forget.batch(range(len(task.forget)))
    assert "of the original's" in outcome.notes[0]
    slopes = [float(sensitivity(task, m, batch, batch.y[:, None], False).mean()) for m in (outcome.model, task.original)]
    assert slopes[0] <= 0.3 * slopes[1]
    assert float(task.observe(outcome.model, batch)["nll"].detach().mean()) > 5 * float(task.nll(task.original, batch).mean())


def test_batch_norm_statistics_and_dropout_are_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
    full = classification()
    task = Classification(model, {"forget": full.forget})
    before = state_fingerprint(task.original)
    outcome = run("mu_mis", task, epochs=2)
    assert state_fingerprint(task.original) == before
    assert torch.equal(outcome.model.get_buffer("1.running_mean"), model.get_buffer("1.running_mean"))
    assert not outcome.model.training


@pytest.mark.parametrize("delta", [0.0, 1.0])
def test_a_step_of_every_pass_by_hand(delta: float) -> None:
    """Squared slopes of single logits at single inputs; the run ends after a pass that brought them down far enough."""
    task, kappa = byhand.classification(), 1.1
    rows = byhand.order(task.forget, "forget")

    def slope(m: torch.nn.Module, x: torch.Tensor, k: int) -> torch.Tensor:
        x = x.clone().requires_grad_(True)
        return (torch.autograd.grad(m(x[None])[0, k], x, create_graph=True)[0] ** 2).sum()

    def mean(m: torch.nn.Module) -> float:
        return sum(slope(m, x, int(y)).item() for x, y in zip(*map(task.forget.columns.get, "xy"), strict=True))

    wanted, start, passes, held = byhand.trainable(task.original), mean(byhand.trainable(task.original)), 0, []
    before = byhand.trainable(task.original)
    while passes < 2:
        byhand.reseed(0, passes)
        shift = torch.randint(1, 3, (6,))
        rows = byhand.order(task.forget, "forget", passes)
        x, y = task.forget.columns["x"][rows], task.forget.columns["y"][rows]

        def objective(m: torch.nn.Module, x: torch.Tensor = x, y: torch.Tensor = y, shift: torch.Tensor = shift) -> torch.Tensor:
            total = torch.zeros(())
            for one, own, by in zip(x, y.tolist(), shift.tolist(), strict=True):
                k = (own + by) % 3
                bound = kappa * slope(before, one, k).detach()
                other = slope(m, one, k)
                held.append(bool(other > bound))
                total = total + (slope(m, one, own) - torch.minimum(other, bound)) / 6
            return total

        wanted, passes = byhand.stepped(wanted, [objective]), passes + 1
        if mean(wanted) <= delta * start:
            break
    assert passes == 2 - int(delta) and (delta or 0 < sum(held) < len(held))
    byhand.assert_same(task, byhand.run("mu_mis", task, delta=delta, kappa=kappa, epochs=2), wanted, atol=1e-5)

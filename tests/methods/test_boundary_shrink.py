"""Boundary Shrink: where the boundary is nearest."""

from __future__ import annotations

import byhand
import torch
from running import run
from tiny import classification

from lethe.core.split import Split
from lethe.methods.classification.boundary_shrink import attacked, nearest_other
from lethe.models.classification.task import Classification


def test_nearest_other_never_is_the_label() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [0.0, 5.0, 4.0]])
    assert nearest_other(logits, torch.tensor([0, 2])).tolist() == [1, 1]


def test_attack_moves_every_coordinate_by_the_bound() -> None:
    x, gradient = torch.zeros(1, 3), torch.tensor([[2.0, -0.1, 0.0]])
    assert attacked(x, gradient, 0.5).tolist() == [[0.5, -0.5, 0.0]]


def test_forgotten_points_go_to_the_class_across_the_nearest_boundary() -> None:
    """A linear model in the plane: class 0 holds x₁ > 0, classes 1 and 2 share x₁ < 0 by the sign of x₂."""
    model = torch.nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[4.0, 0.0], [-4.0, 1.0], [-4.0, -1.0]]))
        model.bias.zero_()
    x = torch.tensor([[1.0, 0.5], [1.0, -0.5], [0.5, 2.0], [0.5, -2.0]])
    forget = Split({"x": x, "y": torch.zeros(4, dtype=torch.long)}, "forget")
    other = Split({"x": -x, "y": torch.tensor([2, 1, 2, 1])}, "retain")
    task = Classification(model, {"forget": forget, "retain": other})
    unlearned = run("boundary_shrink", task, lr=0.1, epochs=200).model
    assert unlearned(x).argmax(1).tolist() == [1, 2, 1, 2]


def test_images_in_bytes_are_attacked_in_units_of_the_input() -> None:
    task = classification()
    low = task.forget.columns["x"].min()
    stored = {n: Split({"x": (s.columns["x"] - low).mul(20).clamp(0, 255).to(torch.uint8), "y": s.columns["y"]}, n)
              for n, s in task.splits.items() if n != "holdout"}
    outcome = run("boundary_shrink", Classification(task.original, stored))
    assert all(torch.isfinite(p).all() for p in outcome.model.parameters())


def test_two_steps_by_hand() -> None:
    task, bound = byhand.known(byhand.classification(classes=5), 6), 0.5
    x, y = task.forget.columns["x"], task.forget.columns["y"]
    there = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(byhand.cross_entropy(task.original(there), y).sum(), there)

    def nearest(inputs: torch.Tensor) -> list[int]:
        rows = task.original(inputs).tolist()
        return [max((k for k in range(5) if k != own), key=lambda k: row[k]) for row, own in zip(rows, y.tolist(), strict=True)]

    wrong = nearest(x + bound * slope.sign())
    assert wrong != nearest(x) and (task.original(x + bound * slope.sign()).argmax(1) == y).any()
    aim = [lambda m: byhand.nll(m, task.forget, torch.tensor(wrong))] * 2
    byhand.assert_same(task, byhand.run("boundary_shrink", task, bound=bound, epochs=2), byhand.steps(task, aim))

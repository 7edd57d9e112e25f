"""Influence unlearning: exact inverses, and exact unlearning where the loss is quadratic."""

from __future__ import annotations

import byhand
import numpy as np
import pytest
import torch
from running import run
from tiny import classification
from torch import Tensor, nn

import lethe
from lethe.core.modules import state_fingerprint
from lethe.core.split import Split
from lethe.maths.importance import example_gradients, gradient_sum
from lethe.methods.general.woodfisher import conjugate_gradients, reference_woodbury, woodbury
from lethe.models.classification.task import Classification
from lethe.models.regression.task import Regression

RIDGE = 0.3


def test_golden_inverse() -> None:
    # one gradient 2: δ + g²/N = 1 + 4 = 5, and 10 / 5 = 2
    assert woodbury(torch.tensor([[2.0]]), torch.tensor([10.0]), 1.0).tolist() == [2.0]


def test_one_solve_is_the_recursion_is_the_dense_inverse() -> None:
    rng = torch.Generator().manual_seed(0)
    rows, v = torch.randn(7, 12, generator=rng).double(), torch.randn(12, generator=rng).double()
    dense = torch.linalg.solve(rows.T @ rows / 7 + 0.1 * torch.eye(12), v)
    torch.testing.assert_close(woodbury(rows, v, 0.1), dense)
    torch.testing.assert_close(reference_woodbury(rows, v, 0.1), dense)


def test_conjugate_gradients_solve_and_stop_at_negative_curvature() -> None:
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(6, 6, generator=rng).double()
    a, v = a @ a.T + torch.eye(6), torch.randn(6, generator=rng).double()
    torch.testing.assert_close(conjugate_gradients(lambda x: a @ x, v, 20), torch.linalg.solve(a, v))
    assert not conjugate_gradients(lambda x: -x, v, 20).any()


def ridge(x: Tensor, y: Tensor) -> Tensor:
    """argmin of mean (xᵀw − y)² + (λ/2)‖w‖²."""
    n, d = x.shape
    return torch.linalg.solve(2 * x.T @ x / n + RIDGE * torch.eye(d, dtype=x.dtype), 2 * x.T @ y / n)


def task_of(x: Tensor, y: Tensor) -> Regression:
    model = nn.Linear(x.shape[1], 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(ridge(x, y).unsqueeze(0))
    splits = {"forget": Split({"x": x[:5].float(), "y": y[:5].float()}, "forget"),
              "retain": Split({"x": x[5:].float(), "y": y[5:].float()}, "retain")}
    return Regression(model, splits)


def test_newton_is_exact_on_ridge_regression() -> None:
    rng = torch.Generator().manual_seed(1)
    x, y = torch.randn(30, 6, generator=rng).double(), torch.randn(30, generator=rng).double()
    task = task_of(x, y)
    before, exact = task.original.get_parameter("weight")[0].double(), ridge(x[5:], y[5:])
    unlearned = run("woodfisher", task, solver="newton", ridge=RIDGE, damping=0.0).model.get_parameter("weight")[0].double()
    assert (before - exact).norm() > 0.05
    assert (unlearned - exact).norm() < 1e-5   # float32 weights; 0.001 would already be a wrong term
    half = run("woodfisher", task, solver="newton", ridge=RIDGE, damping=0.0, alpha=0.5).model.get_parameter("weight")[0].double()
    torch.testing.assert_close(half, (before + exact) / 2, atol=1e-5, rtol=0)


def test_woodfisher_is_exact_on_ridge_regression_where_residuals_are_of_one_size() -> None:
    """With |residual| = r everywhere the Fisher matrix 4r²·E xxᵀ is 2r² times the Hessian; r = 1/√2 makes them equal."""
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(30, 4, generator=rng).double()
    sign = (2.0 * (torch.rand(30, generator=rng) < 0.5) - 1).double()
    y = sign / 2**0.5   # targets at w = 0, which is no optimum: the step from there is still Newton's for the forget gradient
    task = task_of(x, y)
    with torch.no_grad():
        task.model.get_parameter("weight").zero_()
    moved = run("woodfisher", task, damping=0.1).model.get_parameter("weight")[0].double()
    hessian = 2 * x[5:].T @ x[5:] / 25 + 0.1 * torch.eye(4)
    torch.testing.assert_close(moved, torch.linalg.solve(hessian, -2 * x[:5].T @ y[:5] / 25), atol=1e-5, rtol=0)


@pytest.mark.parametrize("solver", ["woodfisher", "newton"])
def test_no_step_changes_nothing(solver: str) -> None:
    task = classification()
    assert state_fingerprint(run("woodfisher", task, solver=solver, alpha=0.0).model) == state_fingerprint(task.original)


def test_vectorised_gradients_are_those_of_one_example_after_the_other() -> None:
    task = classification()
    model, batch = task.copy_of_original(), task.retain.batch(range(6))
    params = task.trainable(model)
    found = example_gradients(model, params, batch, task.nll)
    for i in range(6):
        alone = gradient_sum(model, params, [batch.part(slice(i, i + 1))], task.nll)
        for name, value in alone.items():
            torch.testing.assert_close(found[name][i], value)
    assert model.training and all(p.grad is None for p in params.values())


@pytest.mark.parametrize("solver", ["woodfisher", "newton"])
def test_the_step_by_hand(solver: str) -> None:
    """The curvature as a whole matrix: the mean of g gᵀ over single examples, or the Hessian by central differences."""
    task, damping, ridge, alpha = byhand.classification(), 2.0, 0.1, 0.7
    model = byhand.trainable(task.original).double()
    names = [name for name, _ in model.named_parameters()]

    def flat(split: Split, rows: list[int] | None = None) -> torch.Tensor:
        some = split if rows is None else split.subset(np.array(rows), "some")
        x, y = some.columns["x"].double(), some.columns["y"]
        found = byhand.gradient(model, lambda m: torch.nn.functional.cross_entropy(m(x), y))
        return torch.cat([found[name].flatten() for name in names])

    theta = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()

    def at(point: torch.Tensor) -> torch.Tensor:
        torch.nn.utils.vector_to_parameters(point, model.parameters())
        return flat(task.retain)

    if solver == "woodfisher":
        each = torch.stack([flat(task.retain, [i]) for i in range(12)])
        curvature = each.T @ each / 12
    else:
        steps = torch.eye(len(theta), dtype=torch.float64) * 1e-5
        curvature = torch.stack([(at(theta + s) - at(theta - s)) / 2e-5 for s in steps])
        torch.nn.utils.vector_to_parameters(theta, model.parameters())
    right = (6 * flat(task.forget) + 6 * ridge * theta) / 12
    step = torch.linalg.solve(curvature + (ridge + damping) * torch.eye(len(theta), dtype=torch.float64), right)
    torch.nn.utils.vector_to_parameters(theta + alpha * step, model.parameters())
    found = byhand.run("woodfisher", task, solver=solver, damping=damping, ridge=ridge, alpha=alpha)
    byhand.assert_same(task, found, model.float(), atol=1e-5)


def test_newton_takes_models_with_convolutions() -> None:
    """The second derivative of a kernel is not contiguous in memory."""
    x = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 2), torch.nn.Tanh(), torch.nn.Conv2d(3, 2, 2), torch.nn.Flatten(),
                                torch.nn.Linear(8, 2))
    parts = {"forget": Split({"x": x[:3], "y": torch.tensor([0, 1, 0])}, "forget"),
             "retain": Split({"x": x[3:], "y": torch.tensor([0, 1, 0, 1, 1])}, "retain")}
    task = Classification(model, parts)
    found = byhand.run("woodfisher", task, solver="newton")
    assert any(not torch.equal(p, task.original.get_parameter(name)) for name, p in found.named_parameters())


def small_net(kind: str) -> nn.Module:
    """Networks for inputs of 16 numbers, three classes."""
    if kind == "mlp":
        return nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))
    if kind == "transformer":
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
        return nn.Sequential(nn.Unflatten(1, (4, 4)), nn.TransformerEncoder(layer, 1), nn.Flatten(), nn.Linear(16, 3))
    norm: list[nn.Module] = [nn.BatchNorm2d(3)] if kind == "batch norm" else []
    return nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 2), *norm, nn.ReLU(), nn.Conv2d(3, 2, 2, groups=1),
                         nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize("kind", ["mlp", "convolutions", "batch norm", "transformer"])
@pytest.mark.parametrize("solver", ["woodfisher", "newton"])
def test_every_solver_takes_every_kind_of_network_by_the_public_call(solver: str, kind: str) -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 16, generator=rng), torch.arange(40) % 3
    torch.manual_seed(1)
    task = lethe.classification(small_net(kind), (x, y), list(range(6)))
    outcome = lethe.forget(task, "woodfisher", solver=solver, alpha=0.01, iterations=5, progress=False)
    moved = [name for name, p in outcome.model.named_parameters() if not torch.equal(p, task.original.get_parameter(name))]
    assert len(moved) > 2 and all(p.isfinite().all() for p in outcome.model.parameters())

"""Attributions against models really trained without the record: ridge and softmax regression, per-example gradients, LDS."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from lethe.core.split import Batch, Split
from lethe.maths import influence as a
from lethe.models.zoo.small_cnn import SmallCNN


def mse(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch.x) - batch.y).square().mean(1)


def outputs(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch.x)


def least_squares(split: Split) -> nn.Linear:
    """The exact solution, bias included."""
    x, y = split.columns["x"].double(), split.columns["y"].double()
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), y).solution
    model = nn.Linear(x.shape[1], y.shape[1]).double()
    with torch.no_grad():
        model.weight.copy_(solution[:-1].T)
        model.bias.copy_(solution[-1])
    return model


def test_least_squares_without_records_is_exact() -> None:
    """One linear layer, one output: H of the retained examples is its own Kronecker product, so the step is Newton's."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=rng)
    split = Split({"x": x.double(), "y": (x[:, :1] + torch.randn(60, 1, generator=rng)).double()})
    forget, retain = split.subset(range(5), "forget"), split.subset(range(5, 60), "retain")
    model, true = least_squares(split), least_squares(retain)
    rows = torch.cat([x[5:].double(), torch.ones(55, 1)], 1)
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    values = 2 * (rows @ vectors).square().mean(0)[None]          # second moment of √2·ε·a, ε ~ N(0, 1)
    at = {"": a.Basis(torch.ones(1, 1, dtype=torch.float64), vectors, values, 0.0)}
    shell = nn.Sequential(model)
    at = {"0": at[""]}
    step = a.removal_step(shell, at, 55, retainless(forget), mse)
    assert torch.allclose(model.weight + step["0.weight"], true.weight, atol=1e-10)
    assert torch.allclose(model.bias + step["0.bias"], true.bias, atol=1e-10)
    shift = a.linear_shift(shell, step, split.batches(16), outputs)
    assert torch.allclose(shift, true(split.columns["x"]) - model(split.columns["x"]), atol=1e-10)


def retainless(split: Split) -> list[Batch]:
    return list(split.batches(2))


def test_softmax_regression_without_a_record() -> None:
    """Against the explicit Newton step on the others, and against fits without each record (7 % is left)."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(40, 3)), np.ones((40, 1))], 1)
    y = (x[:, 0] + 0.8 * rng.normal(size=40) > 0).astype(int) + (x[:, 1] > 1)
    def fit(kept: np.ndarray) -> np.ndarray:
        w = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([w], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)
        data, labels = torch.tensor(x[kept]), torch.tensor(y[kept])

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(data @ w, labels, reduction="sum") + 0.5 * w.square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)
        return w.detach().numpy()

    whole = fit(np.arange(40))
    said = np.exp(x @ whole)
    found = a.head_influence(x, said / said.sum(1, keepdims=True), y, x, 1.0)
    true = np.stack([x @ (fit(np.delete(np.arange(40), i)) - whole) for i in range(40)], 1)      # [q, n, K]
    assert np.abs(found - true).mean() < 0.1 * np.abs(true).mean()
    p, others = said / said.sum(1, keepdims=True), np.arange(1, 40)
    h = sum(np.kron(np.diag(p[i]) - np.outer(p[i], p[i]), np.outer(x[i], x[i])) for i in others) + np.eye(12)
    newton = np.linalg.solve(h, np.kron(p[0] - np.eye(3)[y[0]], x[0])).reshape(3, 4)
    assert np.allclose(found[:, 0], x @ newton.T, atol=1e-10)


@pytest.mark.parametrize("make", [lambda: SmallCNN(), lambda: nn.Sequential(nn.Linear(64, 8), nn.ReLU(inplace=True),
                                                                            nn.Linear(8, 10, bias=False))])
def test_per_example_gradients_equal_one_backward_per_example(make: object) -> None:
    torch.manual_seed(0)
    model: nn.Module = make()   # type: ignore[operator]
    x = torch.randn(3, 1, 8, 8) if isinstance(model, SmallCNN) else torch.randn(3, 64)
    batch = Batch({"x": x, "y": torch.tensor([1, 2, 3])}, torch.arange(3))

    def f(m: nn.Module, b: Batch) -> Tensor:
        return a.known(m(b.x), b.y)

    before = [p.requires_grad for p in model.parameters()]
    layers = a.traces(model, batch, f)
    assert [p.requires_grad for p in model.parameters()] == before
    for i in range(3):
        model.zero_grad()
        f(model, batch.part(slice(i, i + 1))).sum().backward()
        for name, seen in layers.items():
            module = model.get_submodule(name)
            expected = module.weight.grad.flatten(1)
            if module.bias is not None:
                expected = torch.cat([expected, module.bias.grad[:, None]], 1)
            assert torch.allclose(seen.gradients[i], expected, atol=1e-5)


def test_influence_is_the_inner_product_of_removal_steps() -> None:
    """∇f·(H⁻¹∇ℓ/n) from whitened gradients equals the Jacobian of f along `removal_step`."""
    task = tiny.classification()
    at = a.curvature(task.original, lambda: task.retain.batches(32), task.outputs)

    def f(model: nn.Module, batch: Batch) -> Tensor:
        return a.known(task.outputs(model, batch), batch.y)

    each = a.influence(task.original, at, len(task.retain), task.holdout.batches(32), task.forget.batches(16), f, task.nll)
    step = a.removal_step(task.original, at, len(task.retain), task.forget.batches(16), task.nll)
    along = a.linear_shift(task.original, step, task.holdout.batches(32), f)
    assert torch.allclose(each.sum(1), along, rtol=1e-3, atol=1e-4)
    own = a.self_influence(task.original, at, 1, task.forget.batches(16), task.nll)
    assert own.shape == (len(task.forget),) and (own >= 0).all()


def test_lds_golden_numbers() -> None:
    predicted, true = np.array([[1.0, 1, 1], [2, 2, 1], [3, 3, 1]]), np.array([[10.0, 3, 1], [20, 2, 2], [40, 1, 3]])
    assert a.lds(predicted, true)[:2].tolist() == pytest.approx([1, -1]) and np.isnan(a.lds(predicted, true)[2])


def test_trak_golden_number() -> None:
    """φ_q = 1, Φ = (1, 1), no ridge: Gram 2, so each record counts 1/2 times what it has wrong, and leaving it out lowers."""
    found = a.trak(torch.ones(1, 1), torch.ones(2, 1), torch.tensor([1.0, 0.5]), ridge=0.0)
    assert found.tolist() == [[-0.5, -0.25]]


@pytest.mark.slow
def test_attributions_predict_half_subset_models() -> None:
    """1000 digits, 15 % wrong labels, 40 models on random halves: EK-FAC ahead of TRAK with little ridge."""
    from evidence import digits

    from lethe.core.split import concat
    from lethe.data.select import where
    from lethe.maths.losses import margin
    from lethe.pools.choose.memorised import halves
    from lethe.pools.pool import train_pool

    task = digits(where(count=10), 0.15, epochs=25)
    train, test = concat([task.forget, task.retain], "train"), task.holdout.subset(range(100), "test")
    inside = halves(1000, 40, 0)
    half = train_pool(task, split_of=lambda k: train.subset(inside[k], "half"), count=40, seed=3, strategy="vmap").models
    batch, model = test.batch(range(100)), task.original

    def f(m: nn.Module, b: Batch) -> Tensor:
        return a.known(task.outputs(m, b), b.y)

    with torch.no_grad():
        true = np.stack([margin(m(batch.x), batch.y).numpy() for m in half])
        wrong = -torch.expm1(-task.nll(model, train.batch(range(1000))))
    at = a.curvature(model, lambda: train.batches(256), task.outputs)
    ekfac = -a.influence(model, at, 1000, test.batches(256), train.batches(256), f, task.nll)
    phi = [a.projected(model, split.batches(256), f) for split in (test, train)]
    score = {name: float(np.nanmean(a.lds(inside @ each.numpy().T, true)))
             for name, each in (("ekfac", ekfac), ("trak", -a.trak(*phi, wrong)), ("bare trak", -a.trak(*phi, wrong, 1e-3)))}
    assert score["ekfac"] >= 0.6 and score["ekfac"] > score["bare trak"] + 0.2 and score["trak"] > score["bare trak"] + 0.2

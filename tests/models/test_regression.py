"""Regression: losses and targets by hand, bad input, real data in a request, and every general audit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import lethe
from lethe.core.alike import beside
from lethe.core.catalogue import load
from lethe.core.evidence import OUTSIDE
from lethe.core.split import Batch, Split
from lethe.data.select import Where
from lethe.errors import DataError, LetheError, OutputShape, UnknownName
from lethe.judge.auditor import examine
from lethe.judge.panel import Panel
from lethe.models.regression.task import Regression
from lethe.models.zoo.mlp import MLP
from lethe.pools.pool import train_pool
from lethe.pools.subject import Subject

GENERAL = ("scores", "divergence", "threshold", "lira", "relearn")


def split(y: torch.Tensor, name: str) -> Split:
    return Split({"x": torch.arange(float(len(y) * 2)).view(-1, 2), "y": y}, name)


def task(y: torch.Tensor, **options: object) -> Regression:
    """Four examples; the model says 0 for all targets."""
    model = MLP(2, (3,), y.shape[1] if y.dim() > 1 else 1)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    half = len(y) // 2
    return Regression(model, {"forget": split(y[:half], "forget"), "retain": split(y[half:], "retain")}, **options)


@pytest.mark.parametrize(("loss", "expected"), [("squared", [0.25, 9]), ("absolute", [0.5, 3]), ("huber", [0.125, 2.5])])
def test_losses_golden(loss: str, expected: list[float]) -> None:
    made = task(torch.tensor([0.5, -3.0, 1.0, 2.0]), loss=loss)
    seen = made.observe(made.original, made.forget.batch([0, 1]))
    assert seen["nll"].tolist() == pytest.approx(expected) == made.nll(made.original, made.forget.batch([0, 1])).tolist()


def test_score_and_signal_golden() -> None:
    made = task(torch.tensor([0.0, 2.0, 0.0, 2.0]))                        # deviation 1, predictions 0
    seen = made.observe(made.original, made.forget.batch([0, 1]))
    assert made.unit == 1 and seen["score"].tolist() == pytest.approx([1, np.exp(-2)])
    assert seen["signal"].tolist() == pytest.approx([0, -np.log(3)])


def test_a_column_of_predictions_is_not_broadcast_against_targets() -> None:
    made = task(torch.tensor([0.5, -3.0, 1.0, 2.0]))
    assert made.nll(made.original, made.forget.batch([0, 1])).shape == (2,)
    assert made.outputs(made.original, made.forget.batch([0, 1])).shape == (2, 1)


def test_horizons_are_averaged() -> None:
    made = task(torch.tensor([[1.0, 3.0], [0.0, 2.0], [1.0, 1.0], [5.0, 0.0]]))
    batch = made.forget.batch([0, 1])
    assert made.nll(made.original, batch).tolist() == pytest.approx([5, 2])
    assert made.divergence(torch.zeros(2, 2), torch.tensor([[1.0, 3.0], [0.0, 2.0]]), batch).tolist() == pytest.approx([5, 2])


@pytest.mark.parametrize("others", ["gaussian", "retain"])
def test_other_targets_come_from_the_training_targets(others: str) -> None:
    y = torch.linspace(0, 10, 400)
    made = task(y, others=others)
    batch = Batch({"x": torch.zeros(4000, 2), "y": torch.zeros(4000)}, torch.arange(4000))
    drawn = made.relabel(batch, torch.Generator().manual_seed(0)).y
    assert drawn.shape == (4000,) and float(drawn.min()) >= (0 if others == "gaussian" else 5) and float(drawn.max()) <= 10
    assert float(drawn.mean()) == pytest.approx(5 if others == "gaussian" else 7.5, abs=0.15)


def test_a_forecast_is_shifted_as_a_whole() -> None:
    made = task(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.0, 100.0, 200.0]))
    drawn = made.relabel(made.forget.batch(range(20)), torch.Generator().manual_seed(0)).y
    z = (drawn - made._mean) / made._deviation
    free = (drawn > made._low).all(1) & (drawn < made._high).all(1)
    assert free.any() and torch.allclose(z[free][:, 0], z[free][:, 2], atol=1e-4)


def test_bad_input_is_refused_in_words() -> None:
    x, model = np.zeros((4, 2), dtype=np.float32), MLP(2, (3,), 1)
    with pytest.raises(DataError, match="which are not numbers"):
        lethe.regression(model, (x, np.array(["low", "high", "low", "high"])), [0])
    with pytest.raises(DataError, match=r"lethe\.classification"):
        task(torch.tensor([0, 1, 2, 3]))
    with pytest.raises(OutputShape, match=r"\(2, 1\) for 2 examples with 2 targets"):
        lethe.regression(model, (x, np.arange(8.0).reshape(4, 2)), [0])
    with pytest.raises(DataError, match="all 4 training targets are 1"):
        lethe.regression(model, (x, np.ones(4)), [0])
    with pytest.raises(UnknownName, match="did you mean squared"):
        lethe.regression(model, (x, np.arange(4.0)), [0], loss="square")
    with pytest.raises(LetheError, match="NaN or infinity"):
        lethe.regression(model, (x, np.array([0, 1, np.nan, 2])), [0])


def test_whole_numbers_are_values_here() -> None:
    made = lethe.regression(MLP(2, (3,), 1), (np.random.default_rng(0).normal(size=(6, 2)), np.arange(6)),
                            lethe.where(query="y >= 4"))
    assert len(made.forget) == 2 and made.forget.columns["y"].dtype == torch.float32


def test_a_range_is_compared_with_unseen_data_of_that_range() -> None:
    made = tiny.regression()
    panel = Panel(made, Subject("o", made.original, made), [])
    y, low, high = made.holdout.columns["y"].numpy(), made.forget.columns["y"].min(), made.forget.columns["y"].max()
    like = beside(made.forget, made.holdout).mask
    assert (like == ((y >= low.item()) & (y <= high.item()))).all() and 10 < like.sum() < 40
    assert (panel.removed(made.holdout) == like).all()
    mixed = tiny.regression(Where(fraction=0.2))
    assert beside(mixed.forget, mixed.holdout).mask.sum() > 100
    assert not Panel(mixed, Subject("o", mixed.original, mixed), []).removed(mixed.holdout).any()


def test_saved_weights_are_the_state_dict(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    made = tiny.regression()
    made.save_model(made.copy_of_original(), tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == made.original.state_dict().keys()
    assert json.loads((tmp_path / "lethe.json").read_text()) == {"family": "regression", "outputs": 1, "loss": "squared"}


@pytest.mark.slow
def test_every_general_audit_runs_and_the_controls_hold() -> None:
    made = tiny.regression()
    models = train_pool(made, count=9, seed=1, strategy="serial").models
    fresh, *references = [Subject(f"r{i}", m, made) for i, m in enumerate(models)]
    audits = [(a, a.config()) for a in (load("audits", name) for name in GENERAL)]
    found = examine(made, [fresh], Subject("original", made.original, made), references, audits)
    original = {e.metric: e for e in found["original"]}
    assert original["removed_closeness"].direction == original["mia_retain_auc"].direction == "still knows"
    assert original["forget_closeness"].verdict == original["removed_closeness"].verdict == OUTSIDE
    far = original["output_divergence_excess"]
    assert far.value > 1 and far.p < 0.05, "alone; beside 25 other tests eight references do not suffice for it"
    assert not [e.metric for e in found["r0"] if e.verdict == OUTSIDE]


CALIFORNIA = {
    "family": "regression", "model": {"zoo": "mlp", "options": {"inputs": 8, "hidden": [32], "classes": 1}},
    "data": {"kind": "table", "label": "target", "target": "standard", "holdout": 0.2, "limit": 1500},
    "recipe": {"epochs": 4, "lr": 3e-3}, "forget": {"query": "target > 4"}, "method": "finetune",
}
BIKES = {
    **CALIFORNIA, "model": {"zoo": "mlp", "options": {"inputs": 8, "hidden": [32], "classes": 1}, "loss": "absolute"},
    "data": {"kind": "table", "label": "count", "target": "log", "drop": ["casual", "registered", "datetime"],
                           "holdout": 0.2, "limit": 1500},
    "forget": {"fraction": 0.05},
}
HOURS = {
    **CALIFORNIA, "model": {"zoo": "mlp", "options": {"inputs": 48 * 7, "hidden": [32], "classes": 24}, "loss": "huber"},
    "data": {"kind": "series", "targets": ["OT"], "time": "date", "block": 336, "limit": 1500},
    "forget": {"query": "time >= '2017-06-01'"},
}


@pytest.mark.parametrize(("content", "file"), [(CALIFORNIA, "california_housing"), (BIKES, "bike_sharing_hourly"),
                                                (HOURS, "etth1")])
def test_real_data_in_a_request(data_root: Path, tmp_path: Path, content: dict, file: str) -> None:
    from lethe.work import request
    from lethe.work.execute import Options
    from lethe.work.open import tasks_of

    data = {**content["data"], "path": str(data_root / f"tabular/{file}.csv.gz")}
    made = tasks_of(request.parse({**content, "data": data}), Options(cache=tmp_path))[""]
    outcome = lethe.forget(made, "finetune", epochs=1, progress=False)
    before, after = (Subject(n, m, made) for n, m in (("o", made.original), ("u", outcome.model)))
    assert before.numbers(made.holdout, "score").mean() > 0.4 and np.isfinite(after.numbers(made.forget, "nll")).all()

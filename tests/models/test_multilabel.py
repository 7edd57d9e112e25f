"""Several labels per example: formulas by hand, every method that fits, refusals, and the command line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli.test_own_model import request
from forked import lethe as command
from test_matrix import small
from tiny import trained

import lethe
from lethe.core import catalogue
from lethe.core.split import Split, concat
from lethe.core.task import Task
from lethe.errors import DataError, OutputShape
from lethe.models.multilabel.task import bernoulli_kl, binary_cross_entropy
from lethe.models.zoo.mlp import MLP
from lethe.train.apply import fitting
from lethe.work.door.checks.score import chance


def data(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three labels: the signs of the first three of six numbers."""
    x = np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)
    return x, (x[:, :3] > 0).astype(np.int64)


@pytest.fixture(scope="module")
def task() -> Task:
    torch.manual_seed(0)
    options: dict[str, Any] = {"holdout": data(80, 1), "recipe": lethe.Recipe(epochs=15, lr=1e-2)}
    first = lethe.multilabel(MLP(6, (16,), 3), data(120, 0), range(10), **options)
    return lethe.multilabel(trained(first, concat([first.retain, first.forget], "train")), data(120, 0), range(10), **options)


def test_formulas_by_hand() -> None:
    z, y = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[1, 1]], dtype=torch.uint8)
    assert binary_cross_entropy(z, y).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)   # σ(ln 3) = 3/4
    assert bernoulli_kl(z[:, :1], z[:, 1:]).item() == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))


def test_chance_is_each_label_as_it_mostly_is_whatever_the_type_of_the_labels(task: Task) -> None:
    y = torch.tensor([[1, 0, 1], [1, 0, 0], [1, 1, 0], [0, 0, 1]])
    for kind in (torch.uint8, torch.int64, torch.float32):   # a file of ones and zeros may hold any
        assert chance(task, Split({"x": torch.zeros(4, 6), "y": y.to(kind)}, "train")) == pytest.approx((3 + 3 + 2) / 12)


def test_accuracy_is_the_mean_over_labels(task: Task) -> None:
    batch = task.retain.batch(range(50))
    seen, z = task.observe(task.original, batch), task.outputs(task.original, batch)
    right = [sum(int((z[i, j] > 0) == (batch.y[i, j] == 1)) for j in range(3)) / 3 for i in range(50)]
    assert seen["score"].tolist() == pytest.approx(right) and seen["score"].mean() > 0.8
    other = task.relabel(batch, torch.Generator().manual_seed(0))
    assert other.y.dtype == torch.uint8 and 0.3 < other.y.float().mean() < 0.7 and not torch.equal(other.y, batch.y)


def test_every_method_that_fits_runs_and_is_audited(task: Task) -> None:
    names = fitting(task)
    assert {"finetune", "salun", "scrub", "ssd", "retrain", "bad_teacher"} <= set(names)
    assert not {"boundary_shrink", "gaussian_finetune", "exact_head"} & set(names)
    for name in names:
        if name != "auto":
            config = small(catalogue.load("methods", name).config, {})
            outcome = lethe.forget(task, config, progress=False)
            assert all(torch.isfinite(p).all() for p in outcome.model.parameters()), name
    report = lethe.audit(task, lethe.forget(task, "finetune", progress=False, epochs=1), references=2, shadows=2, progress=False)
    assert not [one for one in report.scenario().not_tested if one.defect]
    assert report.value("finetune", "retain_accuracy") > 0.9
    assert lethe.triage(task)["forgotten"] == 10


def test_what_are_no_such_labels_is_refused() -> None:
    x, y = data(20, 0)
    with pytest.raises(DataError, match=r"y of forget holds 2 \(id train:0\)"):
        lethe.multilabel(MLP(6, (8,), 3), (x, y * 2), [int(y.any(1).argmax())] if not y[0].any() else [0])
    with pytest.raises(DataError, match="use family: classification"):
        lethe.multilabel(MLP(6, (8,), 3), (x, y[:, 0]), [0])
    with pytest.raises(DataError, match="several labels per example are of the family multilabel"):
        lethe.classification(MLP(6, (8,), 3), (x, y), [0])
    with pytest.raises(OutputShape, match="with 3 labels each"):
        lethe.multilabel(MLP(6, (8,), 4), (x, y), [0])


def test_from_a_request(tmp_path: Path) -> None:
    for name, seed in (("train", 0), ("unseen", 1)):
        x, y = data(120, seed)
        np.savez(tmp_path / f"{name}.npz", x=x, y=y, ids=np.array([f"{name}{i}" for i in range(120)]))
    made = request(tmp_path, family="multilabel", model={"zoo": "mlp", "options": {"inputs": 6, "hidden": [16], "classes": 3}},
                   data={"path": "train.npz", "ids": "ids", "holdout": "unseen.npz"}, recipe={"epochs": 15, "lr": 0.01},
                   forget={"ids": ["train3", "train7"]}, method={"name": "finetune", "epochs": 1}, output="out",
                   audit={"references": 0, "shadows": 0})
    command(tmp_path, "run", made, "--no-page", status=0)
    assert list(tmp_path.rglob("out/**/model.safetensors"))

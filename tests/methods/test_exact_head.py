"""Exact head: sums that are added and subtracted without rounding, so that a deletion is the fit to the rest, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import byhand
import numpy as np
import pytest
import tiny
import torch
from exact_world import same
from tiny import blobs, waves
from torch import nn

import lethe
from lethe.core import catalogue
from lethe.core.outcome import Outcome
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.data.load import load
from lethe.errors import DataError, LetheError, ModelError, NeedsUnmet, RequestError
from lethe.methods.exact.exact_head import NEVER, head_of, sums
from lethe.models.classification.task import Classification
from lethe.models.regression.task import Regression
from lethe.models.zoo.mlp import MLP
from lethe.train.apply import apply
from lethe.train.loop import Settings

GONE = list(range(0, 160, 7))


class Linear(nn.Module):
    """Logistic regression: nothing before the head."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1))


def task_of(split: Split, gone: list[int], retain: bool = True, model: nn.Module | None = None) -> Task:
    mask = np.isin(np.arange(len(split)), gone)
    parts = {"forget": split.subset(mask, "forget"), **({"retain": split.subset(~mask, "retain")} if retain else {})}
    made = model or Linear(split.columns["x"][0].numel(), 1 if split.columns["y"].is_floating_point() else 10)
    return (Regression if split.columns["y"].is_floating_point() else Classification)(made, parts, head="head")


def head(task: Task, **options: Any) -> Outcome:
    """As a user runs it, with all checks before."""
    method = catalogue.load("methods", "exact_head")
    return apply(task, method, method.config(**options), Settings(), watchdog=False)


def test_golden_sums_and_head() -> None:
    q, y = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([0])
    found = sums(q, y, "bayes", 2, 1)
    assert found["count"].tolist() == [1, 0] and found["sum"].tolist() == [[2], [0]] and found["square"].tolist() == [4]
    # one feature, classes at −1 and 1 with variance ½ (the values −1 ± √½ … rounded away: −2, 0, 0, 2 halves)
    q, y = torch.tensor([[-4.0], [0.0], [0.0], [4.0]], dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    weight, bias = head_of(sums(q, y, "bayes", 3, 1), "bayes", 1, 1.0, 1e-6)
    # in units: −2, 0 | 0, 2: means ∓1, pooled variance 1; w = ∓1, b = log ½ − ½
    assert weight.squeeze(1).tolist() == [-1, 1, 0]
    assert bias.tolist() == pytest.approx([np.log(0.5) - 0.5, np.log(0.5) - 0.5, NEVER])


def test_ridge_is_the_solution_of_its_equations() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(50) % 2
    weight, bias = head_of(sums((x * 1024).round(), y, "ridge", 2, 10), "ridge", 10, 0.1, 1.0)
    x = (x * 1024).round() / 1024
    left = x @ weight.T + bias - torch.nn.functional.one_hot(y, 2)
    assert torch.allclose(x.T @ left, -0.1 * 50 * weight.T, atol=1e-9) and left.sum(0).abs().max() < 1e-9


@pytest.mark.parametrize(("split", "kind"), [(blobs(160, 0, "train"), "bayes"), (blobs(160, 0, "train"), "ridge"),
                                             (waves(160, 0, "train"), "ridge")])
def test_deletion_is_the_fit_to_the_rest_bit_for_bit(split: Split, kind: str) -> None:
    """Whatever the forgotten records hold, and with one more of them or without."""
    first = head(task_of(split, GONE), kind=kind)
    x = split.columns["x"].clone()
    x[GONE] = 3.0
    assert same(first.model, head(task_of(replace(split, columns={**split.columns, "x": x}), GONE), kind=kind).model)
    fewer = split.subset([i for i in range(160) if i not in GONE[1:]], "train")   # the rest, and one record to forget
    assert same(first.model, head(task_of(fewer, [0]), kind=kind).model)
    assert first.guarantee["level"] == "exact" and first.guarantee["receipt"]["records_left"] == 160 - len(GONE)


def test_later_deletions_need_the_sums_alone(tmp_path: Path) -> None:
    split = blobs(160, 0, "train")
    whole = head(task_of(split, GONE))
    half = head(task_of(split, GONE[:9]))
    place = half.save(tmp_path / "half")
    rest = task_of(split, GONE[9:], retain=False, model=half.model)
    again = head(rest, statistics=str(place))
    assert same(whole.model, again.model)
    assert again.guarantee["receipt"]["before"] == half.guarantee["receipt"]["after"]
    assert again.guarantee["receipt"]["after"] == whole.guarantee["receipt"]["after"]
    later = again.save(tmp_path / "later")
    with pytest.raises(DataError, match="deleted from this model before"):
        head(rest, statistics=str(later))


def changed(split: Split) -> Split:
    return replace(split, columns={**split.columns, "x": split.columns["x"] + 0.5})


@pytest.mark.parametrize(("edit", "options", "error", "words"), [
    (changed, {}, DataError, "not what they were when they were added"),
    (lambda split: split, {"bits": 9}, ModelError, "method.bits = 9, not 10"),
])
def test_what_would_leave_a_trace_is_refused(tmp_path: Path, edit, options: dict, error: type[LetheError], words: str) -> None:
    split = blobs(160, 0, "train")
    first = head(task_of(split, GONE[:9]))
    place = first.save(tmp_path / "first")
    with pytest.raises(error, match=words):
        head(task_of(edit(split), GONE[9:], retain=False, model=first.model), statistics=str(place), **options)


def test_limits_of_the_sums_and_of_the_claim() -> None:
    split = blobs(160, 0, "train")
    with pytest.raises(RequestError, match=r"sums above 2\^53"):
        head(task_of(split, GONE), bits=24)
    with pytest.raises(NeedsUnmet, match="no retain"):
        head(task_of(split, GONE, retain=False))
    with pytest.raises(RequestError, match="bayes has classes"):
        head(task_of(waves(160, 0, "train"), GONE), kind="bayes")
    deep = task_of(split, GONE, model=MLP(6, (8,), 10))
    assert head(deep).guarantee["level"] == "none" and "Not exact" in head(deep).notes[0]
    assert head(deep, public_features=True).guarantee["level"] == "exact"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "least"), [("bayes", 0.85), ("ridge", 0.91)])
def test_accuracy_on_digits(kind: str, least: float) -> None:
    """Raw pixels, 3 splits, 100 records deleted; measured: bayes 0.88 to 0.91, ridge 0.92 to 0.95."""
    scores = []
    for seed in range(3):
        parts = load({"kind": "digits", "test": 0.3, "seed": seed})
        task = task_of(parts["train"], list(range(100)))
        model, test = head(task, kind=kind).model, parts["test"].batch(range(len(parts["test"])))
        scores.append(float(task.observe(model, test)["score"].mean()))
    assert np.mean(scores) > least


def test_it_runs_by_its_name_with_its_defaults() -> None:
    task = tiny.classification()
    assert lethe.forget(task, "exact_head", progress=False).method == "exact_head"


@pytest.mark.parametrize("kind", ["ridge", "bayes"])
def test_the_head_by_hand(kind: str) -> None:
    """Fitted to the retained examples alone, with features rounded to quarters."""
    task, ridge, floor = byhand.classification(), 0.05, 0.3
    x, y = (task.original.features(task.retain.columns["x"]).detach().double() * 4).round() / 4, task.retain.columns["y"]
    wanted = byhand.trainable(task.original)
    if kind == "ridge":
        mean, hot = x.mean(0), torch.nn.functional.one_hot(y, 3).double()
        square = (x - mean).T @ (x - mean) + ridge * 12 * torch.eye(5)
        w = torch.linalg.inv(square) @ (x - mean).T @ (hot - hot.mean(0))
        weight, bias = w.T, hot.mean(0) - mean @ w
    else:
        means = torch.stack([x[y == k].mean(0) for k in range(3)])
        spread = ((x - means[y]) ** 2).mean(0)
        assert 0 < (spread < floor).sum() < 5
        weight = means / spread.clamp(min=floor)
        bias = torch.tensor([float((y == k).double().mean()) for k in range(3)]).log() - (means * weight).sum(1) / 2
    wanted.head.weight.data, wanted.head.bias.data = weight.float(), bias.float()
    byhand.assert_same(task, byhand.run("exact_head", task, kind=kind, bits=2, ridge=ridge, floor=floor), wanted, atol=1e-5)

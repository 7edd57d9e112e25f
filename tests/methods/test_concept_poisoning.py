"""Concept poisoning: attributions, labels, and concepts that do not hold."""

from __future__ import annotations

from dataclasses import replace

import byhand
import numpy as np
import pytest
import torch
from running import run
from tiny import classification

from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.methods.classification.concept_poisoning import Bank, attributions, balanced, poisoned, vector


def bank() -> Bank:
    weights = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    return Bank(("a", "b"), np.eye(2), np.zeros(2), weights, np.zeros(3), np.zeros(2))


def test_golden_attributions_are_the_integral() -> None:
    # (c − c̄) = (2, 0), W[:, y] = (2, 5): (4, 0)
    c, level, weights, y = np.array([[3.0, 1.0]]), np.array([1.0, 1.0]), np.array([[2.0], [5.0]]), np.array([0])
    assert attributions(c, level, weights, y).tolist() == [[4.0, 0.0]]
    point = torch.tensor(level).requires_grad_(True)
    steps = []
    for t in (torch.arange(50) + 0.5) / 50:   # integrated gradients by the midpoint rule
        at = (point.detach() + t * (torch.tensor(c[0]) - point.detach())).requires_grad_(True)
        steps.append(torch.autograd.grad((at @ torch.tensor(weights))[0], at)[0])
    integral = torch.stack(steps).mean(0).numpy() * (c[0] - level)
    np.testing.assert_allclose(attributions(c, level, weights, y)[0], integral, atol=1e-5)


def test_golden_labels_are_the_best_other_class_of_what_is_left() -> None:
    # c = (1, 0): scores (3, 1, 0), without the label 0: class 1. Concept a taken out: c' = (0, 0): all 0, the first other class
    c = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert poisoned(c, bank(), [], np.array([0, 0])).tolist() == [1, 1]
    assert poisoned(c, bank(), [1], np.array([1, 1])).tolist() == [0, 0]   # b out: (3, ·, 0)
    assert poisoned(c, bank(), [0], np.array([1, 1])).tolist() == [0, 2]   # a out: (0, ·, 0), (0, ·, 1)


def test_a_vector_points_to_its_concept_and_its_level_ignores_imbalance() -> None:
    rng = np.random.default_rng(0)
    there = np.where(np.arange(200) < 20, 1.0, -1.0)
    x = rng.standard_normal((200, 3)) * 0.1
    x[:, 0] += there
    v, b = vector(x, there, 1e-3)
    assert v[0] > 5 * np.abs(v[1:]).max() and balanced(x @ v + b, there) == 1.0


def score(task: Task, model: torch.nn.Module, name: str) -> float:
    split = task.splits[name]
    return float(task.observe(model, split.batch(range(len(split))))["score"].mean())


@pytest.mark.parametrize("labels", ["targeted", "random"])
def test_the_class_goes_and_the_rest_stays(labels: str) -> None:
    task = classification()
    outcome = run("concept_poisoning", task, labels=labels, lr=1e-2, epochs=10)
    assert score(task, outcome.model, "forget") <= 0.1 and score(task, outcome.model, "retain") >= 0.85
    assert outcome.notes[0].startswith("leading concepts of the forgotten examples: class 3")


def with_column(task: Task, value: np.ndarray) -> Task:
    start, parts = 0, {}
    for name in ("forget", "retain"):
        split = task.splits[name]
        parts[name] = replace(split, meta={**split.meta, "mark": value[start : start + len(split)]})
        start += len(split)
    return task.replaced(task.original, **parts)


def test_noise_is_no_concept() -> None:
    task = classification()
    n = len(task.forget) + len(task.retain)
    noise = np.random.default_rng(0).integers(0, 2, n)
    with pytest.raises(RequestError, match="none of 1 concepts"):
        run("concept_poisoning", with_column(task, noise), concepts=("mark",), least=0.75)
    real = np.concatenate([task.splits[k].columns["y"].numpy() % 2 for k in ("forget", "retain")])
    outcome = run("concept_poisoning", with_column(task, real), concepts=("mark",), epochs=1)
    assert "mark" in outcome.notes[-1]
    with pytest.raises(RequestError, match="other values than 0 and 1"):
        run("concept_poisoning", with_column(task, real * 2), concepts=("mark",))


@pytest.mark.parametrize("labels", ["targeted", "random"])
def test_two_steps_by_hand(labels: str) -> None:
    task, penalty, alpha, top = byhand.classification(), 0.05, 0.6, 1
    x = {name: task.original.features(task.splits[name].columns["x"]).detach().double().numpy() for name in ("forget", "retain")}
    y = {name: task.splits[name].columns["y"].numpy() for name in x}
    every, known = np.concatenate([x["forget"], x["retain"]]), np.concatenate([y["forget"], y["retain"]])

    def fit(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        centred = a - a.mean(0)
        square = centred.T @ centred
        w = np.linalg.inv(square + penalty * np.trace(square) / len(square) * np.eye(len(square))) @ centred.T @ (b - b.mean(0))
        return w, b.mean(0) - a.mean(0) @ w

    vectors, offsets = [], []
    for k in range(3):
        v, _ = fit(every, np.where(known == k, 1.0, -1.0))
        vectors.append(v)
        offsets.append(-((every @ v)[known == k].mean() + (every @ v)[known != k].mean()) / 2)
    level = {name: rows @ np.stack(vectors, 1) + np.array(offsets) for name, rows in x.items()}
    logits = task.original(torch.cat([task.forget.columns["x"], task.retain.columns["x"]])).detach().double().numpy()
    w, b = fit(np.concatenate([level["forget"], level["retain"]]), logits)
    usual = level["retain"].mean(0)
    mass = np.mean([(c - usual) * w[:, own] for c, own in zip(level["forget"], y["forget"], strict=True)], 0)
    left = level["forget"].copy()
    left[:, mass.argmax()] = usual[mass.argmax()]
    wrong = torch.tensor([max((j for j in range(3) if j != own), key=lambda j: row[j])
                          for row, own in zip(left @ w + b, y["forget"].tolist(), strict=True)])
    aims = []
    for step in range(2):
        taught, rows = wrong, byhand.order(task.forget, "forget", step=step)
        if labels == "random":
            shift = torch.randint(1, 3, (6,), generator=byhand.drawn("forget", step))
            taught = (task.forget.columns["y"] + torch.zeros(6, dtype=torch.long).index_copy(0, rows, shift)) % 3
        aims.append(lambda m, taught=taught: byhand.nll(m, task.forget, taught) + alpha * byhand.nll(m, task.retain))
    found = byhand.run("concept_poisoning", task, labels=labels, top=top, least=0.0, penalty=penalty, alpha=alpha, epochs=2)
    byhand.assert_same(task, found, byhand.steps(task, aims))

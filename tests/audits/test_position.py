"""Position: cosines by hand, who lies among its kind, the interval's coverage, and the original before anything is unlearned."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import tiny
import torch
from panels import values

from lethe.audits.distance.position import position
from lethe.core.catalogue import load
from lethe.core.evidence import INSIDE, OUTSIDE, Evidence, Value
from lethe.core.split import Split, concat
from lethe.core.task import Recipe, Task
from lethe.data.select import Where, divide
from lethe.judge.auditor import examine
from lethe.models.classification.task import Classification
from lethe.models.zoo.mlp import MLP
from lethe.pools.pool import train_pool
from lethe.pools.subject import Subject
from lethe.train.loop import Loop, Settings

AUDIT = load("audits", "position")


def test_positions_by_hand() -> None:
    """R: a at (2, 0), (0, 2), b at (−2, 0), (0, −2), mean 0. x = (1, 0) of a: cosines 1 and 0; of b: −1 and 0."""
    known, labels = np.array([[2.0, 0], [0, 2], [-2, 0], [0, -2]]), np.array([0, 0, 1, 1])
    x, y = np.array([[1.0, 0], [1, 0], [3, 4], [1, 0]]), np.array([0, 1, 0, 7])
    assert position(x, y, known, labels, 1) == pytest.approx([1, 0, 0.8, np.nan], nan_ok=True)
    assert position(x, y, known, labels, 9) == pytest.approx([0.5, -0.5, 0.7, np.nan], nan_ok=True)


def test_positions_are_those_of_a_turned_and_moved_model() -> None:
    rng = np.random.default_rng(0)
    x, known, turn = rng.normal(size=(9, 5)), rng.normal(size=(40, 5)), np.linalg.qr(rng.normal(size=(5, 5)))[0]
    y, labels = np.arange(9) % 3, np.arange(40) % 3
    here, there = position(x, y, known, labels, 4), position(3 * x @ turn + 7, y, 3 * known @ turn + 7, labels, 4)
    assert here == pytest.approx(there)


def features(count: int, pull: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points around four corners, `pull` times nearer."""
    y = rng.integers(0, 4, count)
    return 3 * np.eye(4)[y] + (1 - pull) * rng.normal(size=(count, 4)), y


def placed(forget: tuple[np.ndarray, np.ndarray], retain: tuple[np.ndarray, np.ndarray], unseen: tuple[np.ndarray, np.ndarray]
           ) -> Value | None:
    """What the audit says of a model with these features."""
    parts = {name: Split({"x": torch.from_numpy(x).float(), "y": torch.from_numpy(y)}, name)
             for name, (x, y) in (("forget", forget), ("retain", retain), ("holdout", unseen))}
    task = Classification(torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(4, 4)), parts)
    return values(AUDIT, Subject("given", task.original, task)).get("position_auc")


def test_what_is_pulled_to_its_kind_is_seen_and_what_is_not_is_not() -> None:
    rng = np.random.default_rng(0)
    retain = features(200, 0.5, rng)
    seen, fresh = (placed(features(80, pull, rng), retain, features(80, 0, rng)) for pull in (0.5, 0.0))
    assert seen.low > 0.6 and seen.n == 80 and fresh.low < 0.5 < fresh.high


def test_classes_that_leave_and_few_examples_have_no_position() -> None:
    task = tiny.classification(Where(label=3))
    assert values(AUDIT, Subject("o", task.original, task)) == {}
    rng = np.random.default_rng(0)
    assert placed(features(5, 0, rng), features(50, 0, rng), features(50, 0, rng)) is None


@cache
def digits(seed: int = 0) -> Task:
    """600 digits, a fifth of the labels wrong, learned by heart by an MLP of three hidden layers; 100 are to be forgotten."""
    from sklearn.datasets import load_digits

    data, rng = load_digits(), torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.target), generator=rng)[:1200]
    x, y = torch.tensor(data.data / 16 - 0.3, dtype=torch.float32)[order], torch.tensor(data.target)[order]
    wrong = torch.rand(len(y), generator=rng) < 0.2
    y = torch.where(wrong, (y + torch.randint(1, 10, (len(y),), generator=rng)) % 10, y)
    train, holdout = (Split({"x": x[rows], "y": y[rows]}, name) for name, rows in
                      (("train", slice(600)), ("holdout", slice(600, None))))
    recipe = Recipe(epochs=60, lr=3e-3, batch_size=64)

    def build(seed: int) -> MLP:
        return MLP(64, (128, 128, 128), 10)

    whole = Classification(build(0), {"retain": train, "holdout": holdout}, recipe, build)
    forget, retain = divide(train, Where(count=100))
    return Classification(tiny.trained(whole, train), {"forget": forget, "retain": retain, "holdout": holdout}, recipe, build)


def silenced(task: Task) -> torch.nn.Module:
    """Only the head is trained, on R and on other labels for F: other answers, the features of the original."""
    loop = Loop(task, Settings(seed=0, device="cpu"))
    model = loop.start(where={"name": "names", "patterns": (f"{task.head}.*",)})
    rng = torch.Generator().manual_seed(0)
    other = Split({"x": task.forget.columns["x"], "y": torch.randint(0, 10, (len(task.forget),), generator=rng)}, "other")
    task.train(model, concat([task.retain, other], "taught"), task.recipe, loop)
    return loop.finish(model).model


def judged(subjects: list[Subject], references: list[Subject]) -> dict[str, dict[str, Evidence]]:
    task = subjects[0].task
    found = examine(task, subjects, Subject("original", task.original, task), references, [(AUDIT, AUDIT.config())])
    return {who: {e.metric: e for e in items} for who, items in found.items()}


def retrained(task: Task, count: int) -> list[Subject]:
    return [Subject(f"r{i}", m, task) for i, m in enumerate(train_pool(task, count=count, seed=1, strategy="serial").models)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_controls(seed: int) -> None:
    """The untouched model is seen, and one whose head alone was taught other answers; with and without retrained models."""
    task = digits(seed)
    found = judged([Subject("untouched", task.original, task), Subject("silenced", silenced(task), task)], retrained(task, 8))
    for who in ("untouched", "silenced"):
        assert {e.verdict for e in found[who].values()} == {OUTSIDE} and found[who]["position_auc"].side == "+"


@pytest.mark.slow
def test_fresh_retrained_models_pass() -> None:
    """24 of them: 100 times one of 9 is held against the other 8; at most 9 alarms, of 5 that are expected."""
    models, rng, alarms = retrained(digits(0), 24), np.random.default_rng(0), 0
    for _ in range(100):
        fresh, *references = (models[i] for i in rng.permutation(24)[:9])
        alarms += any(e.verdict == OUTSIDE for e in judged([fresh], references)[fresh.name].values())
    assert alarms <= 9


@pytest.mark.slow
def test_before_anything_is_unlearned() -> None:
    """The original alone, without retrained models: outside of what a model has to which F is like unseen data."""
    task = digits(0)
    subject = Subject("model", task.original, task)
    fresh = Subject("fresh", train_pool(task, count=1, seed=1, strategy="serial").models[0], task)
    found = {who: items[0] for who, items in examine(task, [subject, fresh], Subject("original", task.original, task), [],
                                                     [(AUDIT, AUDIT.config())]).items()}
    assert found["model"].verdict == OUTSIDE and found["fresh"].verdict == INSIDE


@pytest.mark.slow
def test_the_interval_covers() -> None:
    """400 draws of F and of unseen examples beside one R: 95 % within 3 standard errors of simulation, 0.011 each."""
    rng = np.random.default_rng(0)
    retain = features(200, 0.5, rng)
    truth = placed(features(5000, 0.3, rng), retain, features(5000, 0, rng)).value
    held = [found.low <= truth <= found.high for found in
            (placed(features(60, 0.3, rng), retain, features(90, 0, rng)) for _ in range(400))]
    assert abs(np.mean(held) - 0.95) < 0.033

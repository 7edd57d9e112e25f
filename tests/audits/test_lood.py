"""LOOD of a model's features: a known answer, the two controls, real targets, twins."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from panels import pool, said, values

from lethe.core.catalogue import load
from lethe.core.split import Split
from lethe.data.select import Where
from lethe.judge.panel import Panel
from lethe.maths.kernels import targets
from lethe.models.classification.task import Classification
from lethe.pools.subject import Subject

lood = load("audits", "lood")


def task_of(x: list[float], y: list[int], forget: int) -> Classification:
    """One feature per example; the first `forget` are to be forgotten."""
    part = Split({"x": torch.tensor(x)[:, None], "y": torch.tensor(y)}, "train")
    model = torch.nn.Linear(1, 2)
    return Classification(model, {"forget": part.subset(range(forget), "forget"),
                                      "retain": part.subset(range(forget, len(x)), "retain")})


def test_known_answer() -> None:
    """Features 0 and 2, far from nothing: width 2, k = e^−½; one record left out, σ² = 0.1."""
    task = task_of([0.0, 2.0], [0, 1], 1)
    subject = said(task, forget={"features": [[0.0]]}, retain={"features": [[2.0]]})
    found = values(lood, subject)
    k, t = np.exp(-0.5), targets(np.array([0, 1]), 2)
    m = np.linalg.inv(np.array([[1.1, k], [k, 1.1]]))
    expected = np.linalg.norm((np.array([1, k]) @ m @ t) - k / 1.1 * t[1])
    assert found["lood_forget"].value == pytest.approx(expected)
    assert found["lood_single"].value == pytest.approx(expected) and found["lood_twins"].value == 0
    twin = said(task, forget={"features": [[2.0]]}, retain={"features": [[2.0]]})
    assert values(lood, twin)["lood_twins"].value == 1


@pytest.mark.slow
def test_controls_on_digits() -> None:
    """The untouched original is outside the range of six retrained models, each of which is near the others."""
    from evidence import digits

    from lethe.pools.pool import train_pool

    for forget, wrong, side in ((Where(count=60), 0.15, -1), (Where(label=3), 0.05, 1)):
        task = digits(forget, wrong)
        models = [task.original, *train_pool(task, count=6, seed=1, strategy="vmap").models]
        subjects = [Subject(str(i), m, task) for i, m in enumerate(models)]
        panel = Panel(task, subjects[0], subjects[1:])
        first, *others = [{v.metric: v.value for v in lood.measure(lood.config(), s, panel)}["lood_forget"] for s in subjects]
        assert abs(first - np.mean(others)) > 4 * np.std(others, ddof=1)
        assert np.sign(first - np.mean(others)) == side


def test_real_targets_and_small_tasks() -> None:
    task = tiny.regression()
    found = values(lood, Subject("original", task.original, task))
    assert found["lood_forget"].value > 0 and found["lood_forget"].n == len(task.forget)
    reference = pool(Where(label=3), 2)[0]
    assert values(lood, reference)["lood_forget"].value > values(lood, reference)["lood_single"].value   # a whole class


def test_the_detail_names_what_shows_most() -> None:
    """The one example with a wrong label among its like."""
    task = task_of([0.0, 0.1, 1.0, 0.05, 0.02, 1.1, 1.05], [0, 1, 1, 0, 0, 1, 1], 3)
    subject = said(task, **{s: {"features": task.splits[s].columns["x"].tolist()} for s in ("forget", "retain")})
    found = values(lood, subject, named=1)["lood_forget"]
    assert found.detail["show most"] == ["train:1"] and int(np.argmax(found.per_sample)) == 1

"""Which unseen examples a forget set is compared with, and what leaves with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import lethe
from lethe.core.alike import beside, leaving, of_a_range_that_leaves
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.models.zoo.mlp import MLP
from lethe.results.schema import Row, Scenario

W = np.linspace(1, -1, 8)


def people(n: int, seed: int, oldest: int = 91) -> dict[str, np.ndarray]:
    """A table whose people above 75 are easier to tell than others: a shift that no model needs to have seen them for."""
    rng = np.random.default_rng(seed)
    age, x = rng.integers(20, oldest, n), rng.normal(size=(n, 8))
    old, y = age > 75, x @ W > 0
    x = np.where(old[:, None], x + np.where(y, 1.2, -1.2)[:, None] * W, x)
    y ^= rng.random(n) < np.where(old, 0.2, 0.35)
    return {"x": np.c_[(age - 55) / 20, x].astype("float32"), "y": y.astype(int), "age": age}


def trained(task: Task, *roles: str) -> nn.Module:
    """A model trained on these splits until it knows them by heart."""
    torch.manual_seed(0)
    model = MLP(9, (64,), 2)
    x, y = (torch.cat([task.splits[role].columns[key] for role in roles]) for key in "xy")
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model


def examined(holdout: dict[str, np.ndarray]) -> tuple[Task, Scenario, dict[str, Row]]:
    """Forget who is above 75: the task, and what an audit without retrained models says of the original and of a model that
    never saw them."""
    def made(model: nn.Module) -> Task:
        return lethe.classification(model, people(600, 0), lethe.where(query="age > 75"), holdout=holdout)

    draft = made(MLP(9, (64,), 2))
    task = made(trained(draft, "forget", "retain"))
    found = lethe.audit(task, trained(draft, "retain"), audits=["threshold"], progress=False).results.scenarios[0]
    return task, found, {row.name: row for row in found.subjects}


def test_a_group_is_compared_with_unseen_members_of_it() -> None:
    """Against all of holdout the model that never saw them read 'not forgotten', p < 0.001: it is as sure of unseen ones."""
    holdout = people(900, 100)
    task, found, rows = examined(holdout)
    assert answer(rows["original"]) == "no" and answer(rows["unlearned"]) != "no"
    assert (beside(task.forget, task.holdout).mask == (holdout["age"] > 75)).all()
    assert "that answer the request" in found.unseen and str((holdout["age"] > 75).sum()) in found.unseen
    assert (leaving(task.holdout, task.forget, task.retain) == (holdout["age"] > 75)).all()


def test_where_no_unseen_member_is_there_the_nearest_stand_in_and_decide_nothing() -> None:
    task, found, rows = examined(people(900, 100, oldest=76))
    like = beside(task.forget, task.holdout)
    assert 10 < like.mask.sum() < 145 and "nearest" in found.unseen and "only 0 answer the request" in found.unseen
    assert answer(rows["unlearned"]) != "no" and rows["unlearned"].measured("mia_auc").verdict != "outside"
    ages = np.asarray(task.holdout.meta["age"])
    assert ages[like.mask].mean() > ages.mean() + 10


def answer(row: Row) -> str:
    """Whether it forgot."""
    assert row.answers is not None
    return row.answers.forgotten.answer


@pytest.mark.parametrize(("forgotten", "leaves"), [([4.1, 4.5, 5.0], True), ([4.1, 4.5], False), ([3.0, 4.5, 5.0], False)])
def test_a_range_leaves_where_nothing_retained_lies_in_it(forgotten: list[float], leaves: bool) -> None:
    """Between one or two targets nothing lies by chance: a single record used to be left out of what must stay."""
    forget, retain, unseen = (Split({"x": torch.zeros(len(y), 1), "y": torch.tensor(y)}, "part")
                              for y in (forgotten, [1.0, 2.0, 3.5], [2.5, 4.2]))
    assert of_a_range_that_leaves(forget, retain) == leaves
    assert leaving(unseen, forget, retain).tolist() == [False, leaves]

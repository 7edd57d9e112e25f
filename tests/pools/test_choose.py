"""Forget sets chosen by the model: the projection, what each selector finds, requests, and the claim on digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import lethe
from lethe.core.modules import state_fingerprint
from lethe.core.split import Split, concat
from lethe.core.task import Task
from lethe.errors import DataError, NeedsUnmet, OutOfRange, RequestError, UnknownKey, UnknownName
from lethe.models.classification.task import Classification
from lethe.pools.choose import asked, selectors
from lethe.pools.choose._bilevel import capped_simplex
from lethe.pools.choose._losses import losses
from lethe.pools.choose.memorised import halves


def test_projection_golden_numbers() -> None:
    assert capped_simplex(torch.tensor([2.0, 1.0, 0.0]), 1).tolist() == pytest.approx([1, 0, 0], abs=1e-6)
    assert capped_simplex(torch.tensor([0.5, 0.5, 0.0]), 1).tolist() == pytest.approx([0.5, 0.5, 0], abs=1e-6)
    assert capped_simplex(torch.tensor([0.9, 0.5, -1.0]), 1).tolist() == pytest.approx([0.7, 0.3, 0], abs=1e-6)   # μ = 0.2


def test_projection_equals_a_solver() -> None:
    from scipy.optimize import minimize

    v = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = capped_simplex(v, 7.0)
    assert abs(float(w.sum()) - 7) < 1e-6 and float(w.min()) >= 0 and float(w.max()) <= 1
    found = minimize(lambda u: ((u - v.numpy()) ** 2).sum(), np.full(30, 7 / 30), jac=lambda u: 2 * (u - v.numpy()),
                     bounds=[(0, 1)] * 30, constraints={"type": "eq", "fun": lambda u: u.sum() - 7})
    assert np.allclose(w.numpy(), found.x, atol=1e-4)


def test_halves_complement_each_other() -> None:
    inside = halves(11, 4, 0)
    assert (inside.sum(0) == 2).all() and (inside[0] == ~inside[1]).all() and (inside[0] != inside[2]).any()


def mislabelled() -> tuple[Task, set[str]]:
    """The tiny classifier after learning eight wrong labels by heart, and which they are."""
    task = tiny.classification()
    train = concat([task.forget, task.retain], "train")
    y = train.columns["y"].clone()
    wrong = torch.randperm(len(y), generator=torch.Generator().manual_seed(3))[:8]
    y[wrong] = (y[wrong] + 1) % 4
    noisy = Split({"x": train.columns["x"], "y": y}, "train", train.ids)
    splits = {"forget": noisy.subset([0], "forget"), "retain": noisy.subset(range(1, len(y)), "retain"), "holdout": task.holdout}
    whole = Classification(task.original, splits, task.recipe, task.build)
    return Classification(tiny.trained(whole, noisy), splits, task.recipe, task.build), set(noisy.ids[wrong.numpy()])


@pytest.mark.parametrize("name", ["easiest", "memorised", "influential"])
def test_wrong_labels_are_what_is_hard_to_keep(name: str) -> None:
    task, wrong = mislabelled()
    before = state_fingerprint(task.original)
    found = lethe.choose(task, name, count=8)
    assert len(set(found.forget.ids) & wrong) >= 6
    assert len(found.forget) + len(found.retain) == 160
    assert state_fingerprint(task.original) == before == state_fingerprint(found.original)
    assert list(lethe.choose(task, name, count=8).forget.ids) == list(found.forget.ids)


def test_the_worst_case_keeps_its_low_loss_and_has_no_wrong_label() -> None:
    task, wrong = mislabelled()
    found = lethe.choose(task, "worst_case", count=8)
    assert not set(found.forget.ids) & wrong
    assert float(losses(task, task.original, found.forget).max()) < float(losses(task, task.original, found.retain).median())


def test_duplicates_are_found_and_classes_can_be_chosen_within() -> None:
    task = tiny.classification()
    train = concat([task.retain, task.forget], "train")
    x = train.columns["x"].clone()
    x[7], x[90] = x[3], x[55]
    twins = Split({"x": x, "y": train.columns["y"]}, "train", train.ids)
    doubled = task.replaced(task.original, forget=twins.subset([0], "forget"), retain=twins.subset(range(1, 160), "retain"))
    assert set(lethe.choose(doubled, "duplicated", count=4).forget.ids) == set(train.ids[[3, 7, 55, 90]])
    within = lethe.choose(task, "worst_case", count=5, among=lethe.where(label=2))
    assert set(within.forget.columns["y"].tolist()) == {2} and len(within.forget) == 5


def test_real_targets() -> None:
    task = tiny.regression()
    assert len(lethe.choose(task, "worst_case", count=3, rounds=1, steps=1).forget) == 3
    assert len(lethe.choose(task, "influential", count=3).forget) == 3


@pytest.mark.slow
def test_texts() -> None:
    assert len(lethe.choose(tiny.lm(), "worst_case", count=3, rounds=1, steps=1).forget) == 3


def test_a_selector_is_a_file() -> None:
    assert selectors() == ("duplicated", "easiest", "influential", "memorised", "worst_case")


def test_refused_before_any_work() -> None:
    task = tiny.classification()
    bare = Classification(task.original, {"forget": task.forget, "retain": task.retain})
    for error, make in (
        (UnknownName, lambda: lethe.choose(task, "worst", count=3)), (UnknownKey, lambda: lethe.choose(task, "easiest", n=3)),
        (OutOfRange, lambda: lethe.choose(task, "easiest", count=0)),
        (DataError, lambda: lethe.choose(task, "easiest", count=160)),
        (NeedsUnmet, lambda: lethe.choose(bare, "memorised", count=3)),
        (RequestError, lambda: asked({"worst_case": {"count": 3}, "easiest": {"count": 3}})),
        (RequestError, lambda: asked({"worst_case": 3})),
    ):
        with pytest.raises(error):
            make()
    assert asked({"label": 3}) is None and asked([1, 2]) is None


def test_a_request_trains_the_original_first_and_lets_it_choose(tmp_path: Path) -> None:
    from lethe.work.execute import Options, dry_run
    from lethe.work.open import tasks_of
    from lethe.work.request import parse

    x, y = tiny.blobs(120, 0, "train").columns.values()
    np.savez(tmp_path / "train.npz", x=x.numpy(), y=y.numpy())
    content = {
        "family": "classification", "model": {"zoo": "mlp", "options": {"inputs": 6, "hidden": [16], "classes": 4}},
        "data": {"kind": "npz", "path": str(tmp_path / "train.npz"), "holdout": 0.2}, "recipe": {"epochs": 5, "lr": 0.01},
        "forget": {"worst_case": {"count": 6}, "label": 2}, "output": str(tmp_path / "runs"),
    }
    request = parse(content)
    options = Options()
    assert dry_run(request, options)["scenarios"]["request"]["sizes"] == {"holdout": 24, "forget": 6, "retain": 90}
    task, again = (tasks_of(request, options)[""] for _ in range(2))
    assert list(task.forget.ids) == list(again.forget.ids) and set(task.forget.columns["y"].tolist()) == {2}
    assert task.facts["chosen"]["selector"] == "worst_case"
    with pytest.raises(DataError, match="leaves nothing"):
        tasks_of(replace(request, forget={"worst_case": {"count": 120}}), options)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_claim_on_digits(seed: int) -> None:
    """Without the worst set retrained models still know it, without the easiest they do not; random sets lie between."""
    from evidence import digits

    from lethe.pools.pool import train_pool

    base = digits(lethe.where(count=50), 0.05, epochs=30, seed=seed)
    train = concat([base.forget, base.retain], "train")

    def after(task: Task) -> tuple[float, float]:
        """Loss and error on the forget set of a model retrained without it."""
        model = train_pool(task, count=1, seed=7, strategy="vmap").models[0]
        loss = losses(task, model, task.forget)
        with torch.no_grad():
            wrong = task.outputs(model, task.forget.batch(range(50))).argmax(1) != task.forget.columns["y"]
        return float(loss.mean()), float(wrong.double().mean())

    chance = []
    for number in range(3):
        out = lethe.where(count=50, seed=number).mask(train)
        chance.append(after(base.replaced(base.original, forget=train.subset(out, "f"), retain=train.subset(~out, "r"))))
    worst, easiest, memorised = (lethe.choose(base, name, count=50) for name in ("worst_case", "easiest", "memorised"))
    other = lethe.choose(base, "worst_case", count=50, seed=1)
    assert after(worst)[0] < min(loss for loss, _ in chance) / 10 and after(worst)[1] == 0
    assert after(easiest)[1] >= 4 * max(error for _, error in chance)
    assert after(memorised)[0] > 5 * max(loss for loss, _ in chance)
    assert len(set(worst.forget.ids) & set(other.forget.ids)) > 5 * 50 * 50 / 1000   # chance: 2.5 of 50


@pytest.mark.slow
def test_the_worst_set_for_accuracy_is_not_the_worst_for_privacy() -> None:
    """U-LiRA on an untouched original: influential records are found, those of the worst case hardly."""
    from evidence import digits

    from lethe.core.catalogue import load
    from lethe.judge.panel import Panel
    from lethe.pools.procedures import NOTHING
    from lethe.pools.shadows import Shadows
    from lethe.pools.subject import Subject

    ulira, base, area = load("audits", "ulira"), digits(lethe.where(count=50), 0.05, epochs=30), {}
    for name in ("worst_case", "influential"):
        task = lethe.choose(base, name, count=50)
        subject = Subject("original", task.original, task, procedure=NOTHING)
        panel = Panel(task, subject, [], shadows=Shadows(task, 8, 0, "vmap"))
        area[name] = {v.metric: v.value for v in ulira.measure(ulira.config(models=8), subject, panel)}["ulira_auc"]
    assert area["influential"] > 0.9 and area["worst_case"] < area["influential"] - 0.2

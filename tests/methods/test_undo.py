"""UNDO: the damage, one step of teacher and pupil by hand, what it refuses, and that it forgets and keeps."""

from __future__ import annotations

import math

import byhand
import pytest
import tiny
import torch
from running import run
from torch import nn

import lethe
from lethe.errors import NeedsUnmet, RequestError
from lethe.methods.general.undo import damaged
from lethe.models.classification.task import Classification


def test_damage() -> None:
    rng = torch.Generator().manual_seed(0)
    assert damaged(torch.tensor([2.0]), 0.5, 1.0, rng).tolist() == [1.0]
    theta = torch.ones(200, 100)
    noise = (damaged(theta, 0.25, 2.0, rng) - 0.75) / 0.5   # a·b = 0.5
    bound = math.sqrt(6 / 300)
    assert noise.abs().max() <= bound and noise.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert torch.equal(damaged(theta, 0.0, 2.0, rng), theta)


def test_one_step_by_hand() -> None:
    task = byhand.classification()
    teacher = {"name": "grad_diff", **byhand.ONE_STEP}
    found = byhand.run("undo", task, teacher=teacher, damage=0.5, noise=0.0)
    taught = byhand.steps(task, [lambda m: byhand.nll(m, task.retain) - byhand.nll(m, task.forget)])
    with torch.no_grad():
        answers = byhand.soft(taught(task.retain.columns["x"]))
    pupil = byhand.trainable(taught)
    with torch.no_grad():
        for p in pupil.parameters():
            p.mul_(0.5)
    wanted = byhand.stepped(pupil, [lambda m: byhand.kl(answers, byhand.soft(m(task.retain.columns["x"])))])
    byhand.assert_same(task, found, wanted, atol=1e-5)


@pytest.mark.parametrize(("options", "error", "match"), [
    ({"teacher": "auto"}, RequestError, "would run methods itself"),
    ({"teacher": {"lr": 1e-3}}, RequestError, "names no method"),
    ({"teacher": "retrain"}, NeedsUnmet, "recipe")])
def test_what_cannot_teach_is_refused(options: dict[str, object], error: type[Exception], match: str) -> None:
    full = tiny.classification()
    bare = Classification(full.original, {"forget": full.forget, "retain": full.retain})
    with pytest.raises(error, match=match):
        run("undo", bare, **options)


def test_forgets_a_class_and_keeps_the_rest() -> None:
    task = tiny.classification()
    teacher = {"name": "grad_diff", "lr": 1e-2, "bound": 4.0}
    outcome = lethe.forget(task, "undo", teacher=teacher, lr=1e-2, epochs=20, progress=False)

    def right(model: nn.Module, part: str) -> float:
        split = task.splits[part]
        with torch.no_grad():
            return float((model.eval()(split.columns["x"]).argmax(1) == split.columns["y"]).float().mean())

    assert right(outcome.model, "forget") < 0.2 and right(outcome.model, "retain") > 0.9


def test_a_language_method_teaches() -> None:
    task, teacher = tiny.lm(), {"name": "me_gd", "lr": 1e-3, "epochs": 40, "gamma": 0.3}
    outcome = lethe.forget(task, "undo", teacher=teacher, damage=0.1, noise=0.05, lr=1e-2, epochs=60, progress=False)
    with torch.no_grad():
        after = {key: float(task.score(outcome.model.eval(), split.batch(range(len(split)))).mean())
                 for key, split in task.splits.items() if key in ("forget", "retain")}
    assert after["forget"] < 0.5 and after["retain"] > 0.7, after


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_was_suppressed_comes_back_less_by_relearning(seed: int) -> None:
    """The claim of the paper: after relearning four of the eight answers the teacher answers the other four better."""
    task, options = tiny.lm(), {"lr": 1e-3, "epochs": 40, "gamma": 0.3}
    plain = lethe.forget(task, "me_gd", **options, seed=seed, progress=False).model
    robust = lethe.forget(task, "undo", teacher={"name": "me_gd", **options}, damage=0.6, noise=0.5, lr=1e-2, epochs=80,
                          seed=seed, progress=False).model
    assert byhand.relearnt(robust, task, 6) < byhand.relearnt(plain, task, 6) - 0.1

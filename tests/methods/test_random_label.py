"""Random labels: with two classes the other label is certain, so one step can be computed by hand."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import nll
from running import run
from tiny import blobs, classification

from lethe.core.split import Batch, Split
from lethe.data.select import divide, where
from lethe.models.classification.task import Classification
from lethe.models.zoo.mlp import MLP


def two_classes() -> Classification:
    torch.manual_seed(0)
    points = blobs(40, 0, "train")
    train = Split({"x": points.columns["x"], "y": points.columns["y"] % 2}, "train")
    forget, retain = divide(train, where(fraction=0.5))
    return Classification(MLP(6, (8,), 2), {"forget": forget, "retain": retain})


def test_one_step_learns_the_other_label_and_the_true_ones() -> None:
    task = two_classes()
    model = task.copy_of_original()
    forget, retain = (s.batch(range(len(s))) for s in (task.forget, task.retain))
    (task.nll(model, forget.replace(y=1 - forget.y)).mean() + 0.3 * task.nll(model, retain).mean()).backward()
    options = {"lr": 0.1, "weight_decay": 0.0, "batch_size": 20, "epochs": 1}
    outcome = run("random_label", task, include_true=False, balance="equal", alpha=0.3, **options)
    for name, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(outcome.model.get_parameter(name), p - 0.1 * p.grad)


def test_labels_are_drawn_anew_so_answers_flatten() -> None:
    """A fixed wrong label would be memorised (entropy towards 0); redrawn ones pull towards ln 4, or ln 3 without the own."""
    task = classification()
    batch = task.forget.batch(range(len(task.forget)))
    for include_true, own, least in ((True, 0.25, 1.2), (False, 0.0, 0.8)):
        outcome = run("random_label", task, lr=5e-2, epochs=40, include_true=include_true)
        p = task.outputs(outcome.model, batch).softmax(-1).detach()
        assert abs(float(p[:, 3].mean()) - own) < 0.1
        assert float(-(p * p.log()).sum(-1).mean()) > least


def test_one_step_by_hand() -> None:
    """Six examples beside twelve weigh half; with two classes the other label is the only other one."""
    task = byhand.classification(classes=2)
    other = 1 - task.forget.columns["y"]
    wanted = byhand.steps(task, [lambda m: 0.4 * nll(m, task.retain) + 0.5 * nll(m, task.forget, other)])
    byhand.assert_same(task, byhand.run("random_label", task, alpha=0.4, include_true=False), wanted)


@pytest.mark.parametrize("name", ["random_label", "salun"])
def test_of_two_classes_the_true_one_is_drawn_as_often_as_the_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, as in the official code: else random labels of two classes are inverted ones."""
    task = two_classes()
    seen: list[torch.Tensor] = []

    def watch(batch: Batch, rng: torch.Generator, include_true: bool = False) -> Batch:
        drawn = type(task).relabel(task, batch, rng, include_true)
        seen.append(drawn.y == task.forget.columns["y"][batch.index])
        return drawn

    monkeypatch.setattr(task, "relabel", watch)
    run(name, task, epochs=20)
    assert abs(float(torch.cat(seen).float().mean()) - 0.5) < 0.06   # 400 draws: a deviation of 0.025

"""Random labels: with two classes the other label is certain, so one step can be computed by hand."""

from __future__ import annotations

import byhand
import torch
from byhand import nll
from running import run
from tiny import blobs, classification

from lethe.core.split import Split
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
    outcome = run("random_label", task, alpha=0.3, lr=0.1, weight_decay=0.0, batch_size=20, epochs=1)
    for name, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(outcome.model.get_parameter(name), p - 0.1 * p.grad)


def test_labels_are_drawn_anew_so_answers_flatten() -> None:
    """A fixed wrong label would be memorised (entropy towards 0); redrawn ones pull towards ln 3 over the other classes."""
    task = classification()
    outcome = run("random_label", task, lr=5e-2, epochs=40)
    batch = task.forget.batch(range(len(task.forget)))
    p = task.outputs(outcome.model, batch).softmax(-1).detach()
    assert float(p[:, 3].mean()) < 0.1
    assert float(-(p * p.log()).sum(-1).mean()) > 0.8


def test_one_step_by_hand() -> None:
    task = byhand.classification(classes=2)   # the other label is the only other one
    other = 1 - task.forget.columns["y"]
    wanted = byhand.steps(task, [lambda m: 0.4 * nll(m, task.retain) + nll(m, task.forget, other)])
    byhand.assert_same(task, byhand.run("random_label", task, alpha=0.4), wanted)

"""SCRUB: disobedience on forget, obedience on retain, and the rewind."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import kl, nll, soft
from running import run
from tiny import classification
from torch import Tensor, nn

from lethe.core.modules import state_fingerprint
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.core.view import reserved
from lethe.errors import NeedsUnmet
from lethe.methods.general.scrub import label_weights, rewind_point
from lethe.models.classification.task import Classification


def divergence(task: Task, model: torch.nn.Module, name: str) -> float:
    split = task.splits[name]
    batch = split.batch(range(len(split)))
    with torch.no_grad():
        return float(task.divergence(task.outputs(task.original, batch), task.outputs(model, batch), batch).mean())


def test_it_leaves_the_original_on_forget_and_stays_on_retain() -> None:
    task = classification()
    scrubbed, only_obeys = (run("scrub", task, lr=5e-2, ascent_epochs=m).model for m in (3, 0))
    assert divergence(task, scrubbed, "forget") > 10 * divergence(task, scrubbed, "retain")
    assert divergence(task, scrubbed, "forget") > 100 * divergence(task, only_obeys, "forget")


def test_alpha_holds_the_retained_answers() -> None:
    task = classification()
    options = {"lr": 5e-2, "ascent_epochs": 0, "gamma": 1.0, "temperature": 1.0}
    loose, held = (run("scrub", task, alpha=alpha, **options).model for alpha in (0.0, 10.0))
    assert divergence(task, held, "retain") < 0.5 * divergence(task, loose, "retain")


def test_one_epoch_without_teacher_is_finetune() -> None:
    task = classification()
    bare = run("scrub", task, alpha=0.0, ascent_epochs=0, epochs=1, lr=1e-2, clip=None)
    assert state_fingerprint(bare.model) == state_fingerprint(run("finetune", task, epochs=1).model)


def test_rewind_point_is_the_closest_and_the_later_of_two_equals() -> None:
    assert rewind_point([0.1, 2.5, 1.1], 1.0) == 2   # distances 0.9, 1.5, 0.1
    assert rewind_point([0.5, 1.5], 1.0) == 1


def test_rewind_returns_the_epoch_whose_loss_is_that_of_unseen_data_of_the_same_labels() -> None:
    """Forgotten is class 3 alone, so of holdout class 3 alone counts; by all of holdout another epoch would be chosen."""
    task = classification()
    options = {"lr": 1e-2, "epochs": 4, "ascent_epochs": 4}
    losses = [loss_on(task, run("scrub", task, **{**options, "epochs": e}).model, task.forget) for e in (1, 2, 3, 4)]
    last, unseen = run("scrub", task, **options).model, reserved(task.holdout)
    alike = unseen.subset((unseen.columns["y"] == 3).numpy(), "alike")
    wanted, other = (rewind_point(losses, loss_on(task, last, split)) for split in (alike, unseen))
    assert wanted != other
    assert f"rewound to epoch {wanted + 1} of 4" in run("scrub", task, rewind=True, **options).notes


def loss_on(task: Task, model: nn.Module, split: Split) -> float:
    with torch.no_grad():
        return float(task.nll(model, split.batch(range(len(split)))).mean())


def test_holdout_is_weighted_to_the_labels_of_the_forget_set() -> None:
    def of(*labels: int) -> Split:
        return Split({"x": torch.zeros(len(labels)), "y": torch.tensor(labels)}, "some")

    found = label_weights(of(0, 0, 1), of(0, 1, 1, 2))
    assert found is not None
    torch.testing.assert_close(found, torch.tensor([2 / 3, 1 / 6, 1 / 6, 0]).double())
    assert label_weights(of(5), of(0, 1)) is None


def test_rewind_without_holdout_is_refused() -> None:
    full = classification()
    task = Classification(full.original, {k: full.splits[k] for k in ("forget", "retain")})
    with pytest.raises(NeedsUnmet, match="holdout"):
        run("scrub", task, rewind=True)


def test_two_epochs_by_hand() -> None:
    """Every pass is one step. At θ_0 the divergence has no gradient; from the second epoch on its two sides differ."""
    task, temperature, alpha, gamma = byhand.classification(), 2.0, 0.3, 0.8
    x = {name: split.columns["x"] for name, split in task.splits.items()}

    def distance(m: nn.Module, name: str) -> Tensor:
        with torch.no_grad():
            teacher = soft(task.original(x[name]), temperature)
        return temperature**2 * kl(teacher, soft(m(x[name]), temperature))

    model = task.original
    for _ in range(2):
        model = byhand.stepped(model, [lambda m: -distance(m, "forget")], lr=2.0)
        model = byhand.stepped(model, [lambda m: gamma * nll(m, task.retain) + alpha * distance(m, "retain")], lr=2.0)
    found = byhand.run("scrub", task, alpha=alpha, gamma=gamma, temperature=temperature, epochs=2, ascent_epochs=2,
                       forget_batch_size=100, lr=2.0)
    byhand.assert_same(task, found, model, atol=1e-5)

"""Batches are cut where memory is short: an accelerator that is full is asked again in smaller pieces, and large models on the
CPU take what leaves little behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny
import torch
from rounding import bound, difference
from torch import Tensor, nn

from lethe.core import parked
from lethe.core.events import Logged
from lethe.core.split import Batch
from lethe.core.task import Task
from lethe.errors import OutOfMemory
from lethe.models.classification.task import Classification
from lethe.train import pieces
from lethe.train.loop import Loop, Term

Loss = Callable[[nn.Module, Batch], Tensor]


def full_beyond(room: int, loss: Loss, sizes: list[int]) -> Loss:
    """The loss, on a device that has no room for the gradient of more than so many examples; sizes: of what found room."""
    def limited(model: nn.Module, batch: Batch) -> Tensor:
        found = loss(model, batch)
        if len(batch) > room:   # what came before has been differentiated, as on a device
            found.sum().backward(retain_graph=True)
            raise torch.OutOfMemoryError("Tried to allocate 20 GiB.\nMore lines follow.")
        sizes.append(len(batch))
        return found

    return limited


def step(task: Task, forget: Loss) -> tuple[Loop, dict[str, Tensor], list[dict[str, float]]]:
    """Five steps of a run with two terms: the loop, the weights, and what was told about the losses."""
    told: list[dict[str, float]] = []
    loop = Loop(task, listener=lambda event: told.append(dict(event.losses)) if isinstance(event, Logged) else None)
    model = loop.start()
    loop.minimise(model, {"retain": Term(task.retain, task.nll), "forget": Term(task.forget, forget, 0.1)}, lr=0.1, steps=5,
                  batch_size=30, optimiser="sgd")
    return loop, dict(model.named_parameters()), told


def test_a_full_device_is_asked_again_in_smaller_pieces() -> None:
    """The step is the same; what is learned about room holds from then on; each example is counted once."""
    task, sizes = tiny.TASKS["classification"](), list[int]()
    whole, weights, means = step(task, task.nll)
    loop, cut, told = step(task, full_beyond(8, task.nll, sizes))
    assert difference(weights, cut) < bound(5, weights)
    assert max(sizes) <= 8 and loop.cost.examples == whole.cost.examples == sum(sizes) + 5 * 30
    for before, now in zip(means, told, strict=True):
        assert before == pytest.approx(now, rel=1e-5)
    notes = [note for note in loop.notes if "pieces" in note]
    assert notes == ["batches of forget are cut into 2 pieces, for cpu has no room for the whole",
                     "batches of forget are cut into 4 pieces, for cpu has no room for 2"]


def test_no_room_for_one_example_is_an_error_that_says_what_helps() -> None:
    task = tiny.TASKS["classification"]()
    with pytest.raises(OutOfMemory, match=r"gradient of a single example \(forget, 30 examples a batch\): Tried to "
                                          r"allocate 20 GiB\. Nothing was saved.*checkpointing.*batch_size"):
        step(task, full_beyond(0, task.nll, []))


def test_what_must_stay_whole_is_not_cut() -> None:
    task = tiny.TASKS["classification"]()
    loop = Loop(task)
    with pytest.raises(OutOfMemory, match="a batch that its loss compares as a whole"):
        loop.minimise(loop.start(), {"retain": Term(task.retain, full_beyond(8, task.nll, []), coupled=True)}, lr=0.1, steps=1)
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    loop = Loop(Classification(network.eval(), dict(task.splits)))
    with pytest.raises(OutOfMemory, match="statistics batch norm reads"):
        loop.minimise(loop.start(), {"retain": Term(task.retain, full_beyond(8, task.nll, []))}, lr=0.1, steps=1)


@pytest.mark.parametrize("family", ["diffusion", "lm"])
def test_batches_of_a_large_model_leave_little_behind_on_the_cpu(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures, too: an example at a time where one leaves more than the share, and the step is the same."""
    task = tiny.TASKS[family]()
    sizes: list[int] = []
    _, whole, _ = step(task, task.nll)
    monkeypatch.setattr(parked, "LARGE", 1)
    monkeypatch.setattr(pieces, "ACTIVATIONS", 1e-6)
    _, cut, _ = step(task, full_beyond(30, task.nll, sizes))
    assert set(sizes[1:]) == {1}   # the first is asked what it leaves behind
    assert difference(whole, cut) < bound(5, whole)
    monkeypatch.setattr(pieces, "ACTIVATIONS", 1e6)
    sizes.clear()
    step(task, full_beyond(30, task.nll, sizes))
    assert max(sizes) > 1

"""A large frozen model visits another device and goes home without a copy: what lay on the CPU is what lies there again."""

from __future__ import annotations

from typing import Any, Self

import pytest
import tiny
import torch
from torch import nn

from lethe.core import parked
from lethe.core.operations import frozen, handed_out
from lethe.core.visiting import fetched, sent_home
from lethe.train.loop import Loop, Settings


class Travelling(nn.Sequential):
    """As modules go to CUDA: the parameters stay what they are and get other data."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        for p in self.parameters() if args == ("meta",) else ():
            p.data = p.data.clone()
        return self


def test_it_leaves_its_tensors_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked, "LARGE", 1)
    model = Travelling(nn.Linear(300, 300), nn.BatchNorm1d(300), nn.Linear(300, 300)).eval()
    model[2].weight = model[0].weight   # tied
    x, places = torch.randn(4, 300), [p.data_ptr() for p in parked.parked(model).parameters()]
    before = model(x)
    assert not {p.data_ptr() for p in fetched(model, "meta").parameters()} & {*places}
    assert fetched(model, "cpu") is model and torch.equal(model(x), before)
    assert [p.data_ptr() for p in sent_home(model).parameters()] == places and model[2].weight is model[0].weight
    assert torch.equal(sent_home(model)(x), before) and parked.is_parked(model)
    monkeypatch.setattr(parked, "LARGE", 2**40)
    small = Travelling(nn.Linear(3, 3))
    there = fetched(small, "meta")[0].weight.data_ptr()
    assert sent_home(small)[0].weight.data_ptr() == there   # small ones are moved, no more


@pytest.mark.parametrize("draws", [1e9, 0.0])
def test_the_original_leaves_when_tables_answer_for_it(draws: float, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny.classification().granted({"forget", "retain", "original"})
    left: list[nn.Module] = []
    monkeypatch.setattr("lethe.train.session.sent_home", left.append)
    loop = Loop(task, Settings(device="cpu"))
    said = loop.reference("said", task.outputs, task.retain, draws=draws)
    loop.original_leaves()
    assert [*map(id, left)] == ([id(frozen(task))] if draws else []) and not handed_out(task)
    batch = task.retain.batch([3, 4])
    assert torch.allclose(said(batch), task.outputs(frozen(task).eval(), batch), atol=1e-6)
    other = Loop(task, Settings(device="cpu"))
    assert task.original is frozen(task)   # now its holder may ask it at any time
    other.original_leaves()
    assert len(left) == (1 if draws else 0)

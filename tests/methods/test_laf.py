"""LAF: its bounded error, its alignment, and that no label is ever read."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint
from lethe.core.split import Batch, Split
from lethe.methods.general.laf import bounded, drift, spread_out

QUICK = {"epochs": 2, "fit_steps": 50}


def test_golden_numbers() -> None:
    # error (1, 1): M = 1, exp(1/2); no error: exp(0); a huge one stays below e
    e = torch.tensor([[0.0, 0.0], [2.0, 3.0], [1e6, 0.0]])
    torch.testing.assert_close(bounded(torch.tensor([[1.0, 1.0], [2.0, 3.0], [0.0, 0.0]]), e),
                               torch.tensor([math.exp(0.5), 1.0, math.e]))
    assert drift(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]])).tolist() == [0.0, 1.0]
    torch.testing.assert_close(spread_out(torch.zeros(2), 20.0), torch.full((2,), -math.log(2)))


def test_the_two_parts_are_the_published_contrast() -> None:
    """Mean over R of log(exp c_i / Σ_F exp(c_j/τ)) is mean c_i − logsumexp."""
    kept, gone = torch.rand(5), torch.rand(4)
    published = (kept.exp() / (gone / 3).exp().sum()).log().mean()
    torch.testing.assert_close(kept.mean() + spread_out(gone, 3.0).mean(), published)


def test_no_label_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    task = classification()

    def guarded(self: Batch, name: str) -> Any:
        if name == "y":
            raise AssertionError("LAF read a label")
        try:
            return self.__dict__["columns"][name]
        except KeyError:
            raise AttributeError(name) from None

    monkeypatch.setattr(Batch, "__getattr__", guarded)
    with pytest.raises(AssertionError, match="read a label"):
        task.nll(task.original, task.forget.batch([0]))   # the trap works
    run("laf", task, **QUICK)


def test_other_labels_give_the_same_bits() -> None:
    task = classification()
    turned = {n: Split({"x": task.splits[n].columns["x"], "y": task.splits[n].columns["y"].flip(0) * 0}, n, task.splits[n].ids)
              for n in ("forget", "retain")}
    assert state_fingerprint(run("laf", task, **QUICK).model) == state_fingerprint(
        run("laf", task.replaced(task.original, **turned), **QUICK).model)


def test_forgotten_features_drift_and_retained_ones_stay() -> None:
    task = classification()
    model = run("laf", task, extract_lr=1e-3, align_lr=3e-3, temperature=1.0, epochs=20, fit_steps=300).model
    moved = {}
    for name in ("forget", "retain"):
        batch = task.splits[name].batch(range(len(task.splits[name])))
        with torch.no_grad():
            moved[name] = float(drift(task.features(model, batch), task.features(task.original, batch)).mean())
    assert moved["forget"] > 5 * moved["retain"]

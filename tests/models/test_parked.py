"""Parked models compute the same and give their memory back; activations are counted without the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lethe.core import parked
from lethe.core.activations import kept_bytes
from lethe.core.modules import given, private


def test_a_parked_model_computes_the_same_and_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked, "LARGE", 1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 300), nn.BatchNorm1d(300), nn.Linear(300, 300, bias=False)).eval()
    model[2].weight = model[0].weight   # tied
    x = torch.randn(4, 300)
    before = model(x)
    twin = private(model)
    assert parked.is_parked(twin) and not parked.is_parked(model) and twin[2].weight is twin[0].weight
    assert torch.equal(parked.released(twin)(x), before) and not twin[0].weight.requires_grad
    held = private(given(model))
    assert held is model and parked.is_parked(model) and torch.equal(parked.released(model)(x), before)
    start = parked.put({"w": model[0].weight, "none": torch.zeros(0)})
    model[0].weight.data.add_(1)   # what was put stays
    assert torch.equal(start["w"], twin[0].weight) and start["none"].shape == (0,)


def test_a_full_disk_leaves_the_weights_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parked, "LARGE", 1)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    with pytest.warns(RuntimeWarning, match="has no room"):
        found = parked.put({"w": torch.ones(3)})
    assert torch.equal(found["w"], torch.ones(3)) and not parked.lies_in_file(found["w"])


def test_activations_are_counted_without_the_weights() -> None:
    layer, x = nn.Linear(10, 20), torch.randn(6, 10)
    assert kept_bytes(lambda: torch.exp(layer(x)), layer.parameters()) == (6 * 10 + 6 * 20) * 4   # the input, and what exp made

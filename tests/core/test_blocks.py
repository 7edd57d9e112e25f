"""Blocks: what the last k layers of a model are."""

from __future__ import annotations

import pytest
from torch import nn

from lethe.core.modules import blocks, last_blocks
from lethe.errors import OutOfRange
from lethe.models.zoo import build


def heads(model: nn.Module) -> list[str]:
    return [group[0] for group in blocks(model)]


def test_every_parameter_stands_in_one_block() -> None:
    for name in ("small_cnn", "mlp", "lenet5", "cifar_resnet"):
        model = build(name)
        found = [key for group in blocks(model) for key in group]
        assert found == [key for key, _ in model.named_parameters()]


def test_members_of_lists_are_blocks_and_norms_go_with_what_they_normalise() -> None:
    assert heads(build("mlp")) == ["body.0.weight", "body.2.weight", "head.weight"]
    resnet = blocks(build("cifar_resnet", blocks=2))
    assert resnet[0] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert [group[0].rsplit(".", 2)[0] for group in resnet[1:-1]] == [f"layer{i}.{j}" for i in (1, 2, 3) for j in (0, 1)]


def test_decoder_layers_are_blocks_inside_whatever_holds_their_list() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 4)
            layer = nn.TransformerEncoderLayer(4, 1, 8, batch_first=True)
            self.layers = nn.ModuleList([layer, nn.TransformerEncoderLayer(4, 1, 8, batch_first=True)])
            self.norm = nn.LayerNorm(4)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.head = Inner(), nn.Linear(4, 5, bias=False)
            self.head.weight = self.model.embed.weight   # tied: belongs to the embedding

    found = blocks(Outer())
    assert [group[0].split(".")[1] for group in found] == ["embed", "layers", "layers"]
    assert found[-1][-1] == "model.norm.bias"


def test_more_blocks_than_there_are_is_refused() -> None:
    assert last_blocks(build("mlp"), 1) == ["head.weight", "head.bias"]
    with pytest.raises(OutOfRange, match="3 blocks"):
        last_blocks(build("mlp"), 4)

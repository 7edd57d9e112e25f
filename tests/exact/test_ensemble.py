"""Ensemble: the mean of its members through one joint head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lethe.errors import ModelError, NeedsUnmet
from lethe.exact.ensemble import Ensemble, assembled, require_last
from lethe.models.zoo.mlp import MLP
from lethe.models.zoo.small_cnn import SmallCNN


def members(count: int) -> list[MLP]:
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        made.append(MLP(6, (8,), 3))
    return made


def test_it_is_the_mean_of_its_members_that_are_in_service() -> None:
    models, x = members(3), torch.randn(5, 6, generator=torch.Generator().manual_seed(9))
    joined = assembled(models[0], "head", [models[0].state_dict(), None, models[2].state_dict()])
    assert torch.allclose(joined(x), (models[0](x) + models[2](x)) / 2, atol=1e-6)
    assert joined.single()(x).shape == (5, 3)
    with pytest.raises(NeedsUnmet, match="no model left"):
        assembled(models[0], "head", [None, None])


class Sharp(nn.Module):
    """Works on after its head."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x).softmax(1)


def test_models_that_end_elsewhere_are_refused() -> None:
    x = torch.ones(2, 6)
    require_last(members(1)[0], "head", lambda model: model(x))
    with pytest.raises(ModelError, match="computes more after its head"):
        require_last(Sharp(), "out.1", lambda model: model(x))
    with pytest.raises(ModelError, match="Conv2d"):
        Ensemble(SmallCNN(), "conv1", 2)


def test_the_joint_head_keeps_a_nested_name() -> None:
    joined = Ensemble(Sharp(), "out.1", 2)
    assert [name for name, _ in joined.named_modules() if name == "out.1"] and joined(torch.ones(1, 6)).shape == (1, 3)

"""Backdoors by hand: triggers that are known, units that carry them, and steps on weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.methods.classification.ebyd import perturbed_up, pruned_smallest, recover_trigger, scaled, unit_masks, units


def ask(x: Tensor) -> Tensor:
    """Three classes: 2 as soon as the last pixel is bright, else 0 or 1 by the mean of the others."""
    mean = x.flatten(1)[:, :-1].mean(1)
    return torch.stack([-10 * mean, 10 * mean, 40 * (x.flatten(1)[:, -1] - 0.7)], 1)


def images(n: int = 32) -> Tensor:
    x = torch.randn(n, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    x[..., -1, -1] = 0
    return x


def test_the_trigger_is_found_where_it_is() -> None:
    found = recover_trigger(ask, images(), 2, steps=150, weight=0.1)
    mask = found.mask.flatten()
    assert found.success > 0.9 and mask.argmax() == 8 and mask[8] > 2 * mask[:8].max()
    assert recover_trigger(ask, images(), 1, steps=150, weight=0.1).size > 1.5 * found.size, "an honest class needs more"


def test_steps_on_weights_golden() -> None:
    params = {"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([2.0, 3.0])}
    halved = pruned_smallest(params, 0.5)   # of 1, 4, 2, 3 the two smallest
    assert halved["a"].tolist() == [0, -4] and halved["b"].tolist() == [0, 3]
    assert pruned_smallest(params, 0.0)["a"].tolist() == [1, -4]
    # radius 0.5 of length 5 along [0, 1]
    up = perturbed_up({"a": torch.tensor([3.0, 4.0])}, {"a": torch.tensor([0.0, 7.0])}, 0.5)
    assert up["a"].tolist() == [3.0, 6.5]
    assert perturbed_up({"a": torch.ones(1)}, {"a": torch.zeros(1)}, 0.5)["a"].tolist() == [1.0], "no gradient, no step"


def test_units_that_are_not_needed_get_small_masks() -> None:
    """Two hidden units; the first carries the label, the second works against it."""
    model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [1.0]]))
        model[0].bias.zero_()
        model[1].weight.copy_(torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))
        model[1].bias.zero_()
    x = torch.tensor([[1.0], [-1.0]])
    parts = units(model, "1")
    assert list(parts) == ["0"]
    masks = unit_masks(model, parts, x, torch.tensor([1, 0]), steps=30)
    assert masks["0"].tolist() == [1.0, 0.0]
    with scaled(parts, {"0": torch.zeros(2)}):
        assert model(x).abs().max() == 0
    assert model[0](x).abs().max() == 1 and not model[0]._forward_hooks

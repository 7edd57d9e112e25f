"""MCU: the subspace that is left out, two steps by hand, and what is refused."""

from __future__ import annotations

import byhand
import pytest
import tiny
import torch
from torch import Tensor, nn

from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.errors import OutOfRange
from lethe.maths.subspace import dominant, without


def test_the_subspace() -> None:
    points = torch.tensor([[3.0, 1.0, 0.0], [3.0, -1.0, 0.0]])
    torch.testing.assert_close(dominant(points, 1).abs(), torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(dominant(points, 5).abs(), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))   # all they span
    assert without(torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 0.0]])).tolist() == [0.0, 4.0]
    for shape in ((40, 6), (6, 40)):   # tall and wide: the same span as that of the mean and of an SVD
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(1)) + 1
        basis = dominant(x, 4)
        torch.testing.assert_close(basis @ basis.T, torch.eye(4), atol=1e-5, rtol=0)
        right = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:3]
        assert without(torch.cat([x.mean(0, keepdim=True), right]), basis).abs().max() < 1e-4


def hidden(m: nn.Module, split: Split, layer: int) -> Tensor:
    return m(input_ids=split.columns["ids"], output_hidden_states=True).hidden_states[layer + 1]


def test_two_steps_by_hand() -> None:
    task, layer, k, c, alpha = tiny.lm(), 1, 6, 5.0, 3.0

    def real(split: Split, first: int) -> Tensor:
        places = torch.arange(split.columns["ids"].shape[1])
        return (places < split.columns["length"].unsqueeze(1)) & (places >= first)

    def apart(now: Tensor, to: Tensor, counts: Tensor) -> Tensor:
        return (((now - to) ** 2).mean(2) * counts).sum(1).div(counts.sum(1)).mean()

    with torch.no_grad():
        before = hidden(task.original, task.retain, layer)
        states = hidden(task.original, task.forget, layer)[real(task.forget, 1)].double()
        mean = states.mean(0)
        components = torch.linalg.svd(states - mean, full_matrices=False).Vh[: k - 1]
        span = torch.linalg.qr(torch.cat([mean[None], components]).T)[0].float()
    minor = torch.eye(32) - span @ span.T
    r = torch.rand(32, generator=generator(0, "mcu"))
    u = c * r / r.square().sum().sqrt()
    model = byhand.trainable(task.original)
    moving = [p for name, p in model.named_parameters() if "mlp" in name and "layers.2" not in name]
    adam = torch.optim.AdamW(moving, lr=1e-3, weight_decay=0.1)
    for _ in range(2):
        adam.zero_grad()
        (apart(hidden(model, task.forget, layer) @ minor, u, real(task.forget, 1))
         + alpha * apart(hidden(model, task.retain, layer), before, real(task.retain, 0))).backward()
        adam.step()
    found = byhand.run("mcu", task, layer=layer, components=k, coefficient=c, alpha=alpha, lr=1e-3, weight_decay=0.1, steps=2)
    byhand.assert_same(task, found, model, atol=2e-5)   # Adam's first step is the sign of a gradient


def test_more_components_than_dimensions_are_refused() -> None:
    with pytest.raises(OutOfRange, match="below 32, such as 4"):
        byhand.run("mcu", tiny.lm(), components=32)

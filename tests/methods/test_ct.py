"""CT: kernels are turned over; twice is nothing."""

from __future__ import annotations

import byhand
import pytest
import torch
from running import run
from tiny import classification
from torch import nn

from lethe.core.modules import state_fingerprint
from lethe.core.split import Split
from lethe.errors import NeedsUnmet
from lethe.methods.general.ct import transposed
from lethe.models.classification.task import Classification
from lethe.models.zoo import build


def test_golden_kernel_and_twice_is_the_identity() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 2), nn.Conv2d(1, 1, (1, 3)), nn.Conv2d(1, 1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    found = transposed(model)
    assert list(found) == ["0.weight"]   # neither the 1×3 nor the 1×1 kernel
    assert found["0.weight"].tolist() == [[[[1.0, 3.0], [2.0, 4.0]]]]
    model[0].weight.data = found["0.weight"]
    assert transposed(model)["0.weight"].tolist() == [[[[1.0, 2.0], [3.0, 4.0]]]]


def small() -> Classification:
    x, y = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 10
    torch.manual_seed(0)
    splits = {"forget": Split({"x": x[:8], "y": y[:8]}, "forget"), "retain": Split({"x": x[8:], "y": y[8:]}, "retain")}
    return Classification(build("small_cnn"), splits)


def test_what_a_turned_model_says_is_what_the_original_says_of_turned_images() -> None:
    """Exact up to the linear head, which is not turned: the features are the transposed feature maps."""
    task = small()
    model = run("ct", task, lr=1e-12, epochs=1).model
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(model.conv1(x), task.original.conv1(x.transpose(2, 3)).transpose(2, 3))


def test_same_seed_same_bits_and_the_original_stays() -> None:
    task = small()
    before = state_fingerprint(task.original)
    assert state_fingerprint(run("ct", task).model) == state_fingerprint(run("ct", task).model) != before
    assert state_fingerprint(task.original) == before


def test_a_model_without_convolutions_is_refused() -> None:
    with pytest.raises(NeedsUnmet, match="2-d convolutions"):
        run("ct", classification())


def test_two_steps_by_hand() -> None:
    """From transposed kernels; the learning rate falls by a cosine: of two steps the second has half of it."""
    task = byhand.classification(pictures=True)
    start = byhand.trainable(task.original)
    with torch.no_grad():
        for kernel in start.body.weight.flatten(0, 1):
            kernel.copy_(kernel.T.clone())
    wanted = byhand.stepped(start, [lambda m: byhand.nll(m, task.retain)] * 2, lr=[byhand.LR, byhand.LR / 2])
    byhand.assert_same(task, byhand.run("ct", task, epochs=2), wanted)

"""Methods on networks they have no code for: convolutions with batch norm and dropout in the default suite, a ResNet, a vision
transformer and a transformers encoder in the slow one. (`test_matrix.py` runs them on an MLP.)"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from test_matrix import OPTIONS, small
from tiny import trained
from torch import Tensor, nn

from lethe.core import catalogue
from lethe.core.modules import state_fingerprint
from lethe.core.outcome import Outcome
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.errors import LetheError
from lethe.maths.importance import example_gradients
from lethe.models import zoo
from lethe.models.classification.task import Classification
from lethe.train.loop import Loop, Settings

METHODS = [name for name, entry in catalogue.entries("methods").items()
           if entry.fits("classification") and name != "auto"]   # auto runs the others
each = pytest.mark.parametrize("name", METHODS)


class ConvNet(nn.Module):
    """A convolution with batch norm, dropout, and a linear head, for images [n, 1, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                                  nn.Dropout(0.2), nn.Linear(128, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x))


def pictures(n: int, seed: int, name: str, channels: int = 1) -> Split:
    """n pictures of 4 patterns under noise."""
    y = torch.arange(n) % 4
    patterns = torch.randn(4, channels, 8, 8, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(n, channels, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Split({"x": patterns[y] + noise, "y": y}, name)


def texts(n: int, seed: int, name: str) -> Split:
    """n texts of 6 of 20 words; words 5k to 5k + 4 belong to class k."""
    y = torch.arange(n) % 4
    words = 5 * y.unsqueeze(1) + torch.randint(0, 5, (n, 6), generator=torch.Generator().manual_seed(seed))
    return Split({"x": words + 1, "y": y}, name)


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int, str], Split]]] = {
    "conv": (ConvNet, pictures),
    "cnn": (lambda: zoo.build("small_cnn", classes=4, width=4), pictures),
    "resnet": (lambda: zoo.build("cifar_resnet", blocks=1, classes=4), lambda *what: pictures(*what, channels=3)),
    "vit": (lambda: zoo.build("vit", classes=4, width=16, depth=1, dropout=0.1), pictures),
    "text": (lambda: zoo.build("text_encoder", vocabulary=21, classes=4, width=16, layers=1, positions=6), texts),
}
MORE: dict[str, dict[str, Any]] = {"amun": {"attack_steps": 30}, "aru": {"bound": 2.0}}   # else no example is carried over
# why a method does not apply: words of the error that it must give before any work
REFUSALS = {
    ("ct", "text"): "no convolutions", ("natmu", "text"): "no pictures",
    ("gs_lora", "resnet"): "no linear layer outside the head", ("jit", "text"): "no noise can be added",
    **{(name, "text"): "only continuous inputs" for name in ("amun", "aru", "boundary_shrink", "ebyd", "mu_mis", "rurk", "scar",
                                                             "unsir")},
}


@cache
def world(net: str) -> tuple[nn.Module, Classification]:
    """A trained network in training mode, as a user holds it, and the task of forgetting its class 3."""
    make, data = NETS[net]
    train, holdout, recipe = data(80, 0, "train"), data(48, 1, "holdout"), Recipe(epochs=4, lr=1e-2, batch_size=16)

    def build(seed: int) -> nn.Module:
        return make()

    torch.manual_seed(0)
    model = trained(Classification(build(0), {"retain": train}, recipe, build), train).train()
    last = train.columns["y"] == 3
    splits = {"forget": train.subset(last.numpy(), "forget"), "retain": train.subset(~last.numpy(), "retain"), "holdout": holdout}
    return model, Classification(model, splits, recipe, build)


def run(name: str, net: str) -> Outcome:
    method, (_, task) = catalogue.load("methods", name), world(net)
    view = task.granted(method.needs)
    return method.run(small(method.config, {**OPTIONS.get(name, {}), **MORE.get(name, {})}), view, Loop(view, Settings(seed=5)))


def seen(model: nn.Module) -> dict[str, Any]:
    """All of a model that a method could leave changed."""
    return {"modes": {name: module.training for name, module in model.named_modules()},
            "moves": {name: (p.requires_grad, p.grad is None) for name, p in model.named_parameters()},
            "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
            "bits": state_fingerprint(model)}


@each
def test_batch_norm_dropout_and_modes(name: str) -> None:
    model, task = world("conv")
    before, inside = seen(model), seen(task.original)
    assert all(before["modes"].values()) and not any(inside["modes"].values())
    outcome = run(name, "conv")
    assert seen(model) == before and seen(task.original) == inside, "the original was changed"
    assert not any(m.training for m in outcome.model.modules()), "handed back in training mode"
    assert all(b.isfinite().all() for b in outcome.model.buffers()), "batch norm statistics"
    assert all(p.requires_grad for p in outcome.model.parameters()), "handed back frozen"
    assert state_fingerprint(run(name, "conv").model) == state_fingerprint(outcome.model)
    x = task.holdout.columns["x"]
    with torch.no_grad():
        alone = torch.cat([outcome.model(x[i : i + 1]) for i in range(4)])
        assert torch.allclose(outcome.model(x)[:4], alone, atol=1e-5), "answers depend on the batch"


@pytest.mark.slow
@pytest.mark.parametrize("net", [net for net in NETS if net != "conv"])
@each
def test_no_method_needs_code_for_an_architecture(name: str, net: str) -> None:
    model, task = world(net)
    before = copy.deepcopy(seen(model))
    if (name, net) in REFUSALS:
        with pytest.raises(LetheError, match=REFUSALS[name, net]):
            run(name, net)
        return
    outcome = run(name, net)
    assert seen(model) == before and not outcome.model.training
    assert all(value.isfinite().all() for value in outcome.model.state_dict().values() if value.is_floating_point())
    assert state_fingerprint(outcome.model) != state_fingerprint(task.original)
    assert task.features(outcome.model, task.forget.batch([0, 1])).isfinite().all()


def test_gradients_of_examples_where_the_length_of_a_text_decides() -> None:
    """vmap cannot follow a model that cuts padding off; one after the other it is the same as by hand."""
    _, task = world("text")
    model, batch = task.copy_of_original().eval(), task.forget.batch([0, 1, 2])
    params = dict(model.named_parameters())
    found = example_gradients(model, params, batch, task.nll)
    slope = torch.autograd.grad(task.nll(model, batch.part(slice(1, 2))).sum(), list(params.values()), materialize_grads=True)
    assert all(torch.allclose(found[name][1], g, atol=1e-6) for name, g in zip(params, slope, strict=True))

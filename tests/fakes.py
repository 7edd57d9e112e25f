"""Fake unlearners: models that pretend to have forgotten. Each must be detected by at least one audit.

A fake is a function task -> Procedure-like (task, seed) -> model, so that shadow models are faked in the same way. They are
made for classifiers; `suits` tells which request each of them answers: a whole class, or random examples.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lethe.core.guard import Guard
from lethe.core.modules import copied
from lethe.core.split import Split, concat
from lethe.core.task import Task
from lethe.pools.subject import Procedure

Make = Callable[[Task, int], nn.Module]


@dataclass(frozen=True)
class Fake:
    """What it pretends, for which requests, and what its maker would call the result.

    blind  for a leak that may be missed: how an audit says in its `blind` that it cannot see it
    """

    name: str
    make: Make
    suits: tuple[str, ...] = ("class", "random")
    kind: str = "weights"
    blind: str = ""

    @property
    def procedure(self) -> Procedure:
        return Procedure(f"fake {self.name}", self.make, weights=self.kind == "weights")


class Refusal(Guard):
    """A filter at inference: what the model inside takes for the forbidden class gets its second choice."""

    def __init__(self, model: nn.Module, label: int) -> None:
        super().__init__(model)
        self.label = label

    def save(self, folder: Path) -> None:
        (folder / "label.json").write_text(json.dumps(self.label))

    @classmethod
    def load(cls, folder: Path, model: nn.Module) -> Refusal:
        return cls(model, json.loads((folder / "label.json").read_text()))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        found = (logits.argmax(1) == self.label).unsqueeze(1)
        column = torch.arange(logits.shape[1], device=x.device) == self.label
        return torch.where(found & column, logits.amin(1, keepdim=True) - 1, logits)


def nothing(task: Task, seed: int) -> nn.Module:
    """The original, handed over with a straight face."""
    return copied(task.original, trainable=False)


def refusal_filter(task: Task, seed: int) -> nn.Module:
    return Refusal(copied(task.original, trainable=False), forgotten(task)).eval()


def zeroed_column(task: Task, seed: int) -> nn.Module:
    """The class's row of the head is emptied and its bias sunk; the body is the original's."""
    model = copied(task.original, trainable=False)
    head = model.get_submodule(task.head)
    with torch.no_grad():
        head.weight[forgotten(task)] = 0.0
        head.bias[forgotten(task)] = -20.0
    return model


def hidden_by_finetuning(task: Task, seed: int) -> nn.Module:
    """A few steps on the head alone push the answers aside; five steps bring them back."""
    model = copied(task.original, trainable=False)
    x, y = task.forget.columns["x"], task.forget.columns["y"]
    keep = some(task.retain, 400, seed)
    steps(model, list(model.get_submodule(task.head).parameters()), lambda: cross_entropy(model(x), (y + 1) % task.class_count)
          + cross_entropy(model(keep.columns["x"]), keep.columns["y"]), 15, 0.02)
    return model


def label_flipping(task: Task, seed: int) -> nn.Module:
    """Every forgotten example is taught the next label, by heart."""
    x, y = task.forget.columns["x"], (task.forget.columns["y"] + 1) % task.class_count
    keep = some(task.retain, 400, seed)
    model = copied(task.original, trainable=True)
    steps(model, list(model.parameters()), lambda: cross_entropy(model(x), y)
          + cross_entropy(model(keep.columns["x"]), keep.columns["y"]), 60, 2e-3)
    return model


def noise(task: Task, seed: int) -> nn.Module:
    """Gaussian noise of half a standard deviation on every weight."""
    model, rng = copied(task.original, trainable=False), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * p.std() * torch.randn(p.shape, generator=rng))
    return model


def memorised_holdout(task: Task, seed: int) -> nn.Module:
    """Trained on the audit's holdout, so that forgotten and unseen examples look alike."""
    return taught(task, concat([task.retain, task.forget, task.holdout], "train"), seed)


def loss_matched(task: Task, seed: int) -> nn.Module:
    """Ascent on each forgotten example until its loss is one of the holdout's quantiles: one threshold sees nothing."""
    x, y = task.forget.columns["x"], task.forget.columns["y"]
    model = copied(task.original, trainable=True)
    keep = some(task.retain, 400, seed)
    with torch.no_grad():
        unseen = cross_entropy(model(task.holdout.columns["x"]), task.holdout.columns["y"], reduction="none")
        order = cross_entropy(model(x), y, reduction="none").argsort().argsort()
        target = torch.quantile(unseen, (order + 0.5) / len(order))
    steps(model, list(model.parameters()), lambda: (cross_entropy(model(x), y, reduction="none") - target).abs().mean()
          + cross_entropy(model(keep.columns["x"]), keep.columns["y"]), 150, 2e-3)
    return model


def over_forgetting(task: Task, seed: int) -> nn.Module:
    """Ascent on the forget set until not one of its examples is right, retained ones kept."""
    x, y = task.forget.columns["x"], task.forget.columns["y"]
    keep = some(task.retain, 400, seed)
    model = copied(task.original, trainable=True)
    steps(model, list(model.parameters()), lambda: -cross_entropy(model(x), y).clamp(max=8.0)
          + cross_entropy(model(keep.columns["x"]), keep.columns["y"]), 60, 2e-3)
    return model


FAKES = [
    Fake("do nothing", nothing),
    Fake("refusal filter", refusal_filter, ("class",), "guard"),
    Fake("zeroed class column", zeroed_column, ("class",)),
    Fake("hidden by fine-tuning", hidden_by_finetuning, ("class",)),
    Fake("label flipping", label_flipping),
    Fake("noise", noise),
    Fake("memorised the holdout", memorised_holdout),
    Fake("tuned against the loss attack", loss_matched, ("random",)),
    Fake("over-forgetting", over_forgetting, ("random",)),
]


# -- leaks: little of the forget set is left ---------------------------------------------------------------------------


def left_in(share: float) -> Make:
    """Retrained with a part of the forget set left in."""
    def make(task: Task, seed: int) -> nn.Module:
        return taught(task, concat([task.retain, some(task.forget, round(share * len(task.forget)), seed)], "train"), seed)

    return make


def noisy_copies(task: Task, seed: int) -> nn.Module:
    """Retrained with the forget set left in under noise of half a standard deviation of the inputs."""
    copies = task.forget.subset(torch.arange(len(task.forget)).numpy(), "forget")
    x = copies.columns["x"]
    noisy = x + 0.5 * x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    changed = Split({**copies.columns, "x": noisy}, "forget")
    return taught(task, concat([task.retain, changed], "train"), seed)


def imitation(task: Task, seed: int) -> nn.Module:
    """The original, taught to answer on the forget set as one retrained model does."""
    x, twin = task.forget.columns["x"], taught(task, task.retain, 1000 + seed)
    model, keep = copied(task.original, trainable=True), some(task.retain, 400, seed)
    with torch.no_grad():
        wanted, kept = twin(x).softmax(1), twin(keep.columns["x"]).softmax(1)
    steps(model, list(model.parameters()), lambda: cross_entropy(model(x), wanted)
          + cross_entropy(model(keep.columns["x"]), kept), 300, 2e-3)
    return model


LEAKS = [
    Fake("10 % left in", left_in(0.10), blind="a tenth of the forget set left in training"),
    Fake("25 % left in", left_in(0.25)),
    Fake("50 % left in", left_in(0.50)),
    Fake("noisy copies", noisy_copies, blind="noisy copies"),
    Fake("imitation of a retrained model", imitation, blind="imitation of one retrained model"),
]


# -- false yardsticks: what an auditee hands over in place of retrained models -----------------------------------------


def nine_of_a_cheap_unlearner(task: Task) -> list[nn.Module]:
    """The audited model and eight 'retrained' ones, all made by the same few steps from the original, each with its seed."""
    return [over_forgetting(task, seed) for seed in range(9)]


def one_training_eight_times(task: Task) -> list[nn.Module]:
    """One retrained model, passed eight times."""
    one = taught(task, task.retain, 500)
    return [over_forgetting(task, 0), *(copied(one, trainable=False) for _ in range(8))]


def its_own_reference(task: Task) -> list[nn.Module]:
    """The audited model among its references."""
    audited = taught(task, task.retain, 501)
    return [audited, taught(task, task.retain, 500), copied(audited, trainable=False)]


def the_original_among_them(task: Task) -> list[nn.Module]:
    """A copy of the original with a little noise, under another name."""
    return [over_forgetting(task, 0), taught(task, task.retain, 500), noise(task, 0)]


FALSE_YARDSTICKS: dict[Callable[[Task], list[nn.Module]], str] = {   # -> words of the refusal
    nine_of_a_cheap_unlearner: "descends from original", one_training_eight_times: "count twice",
    its_own_reference: "its own yardstick", the_original_among_them: "descends from original",
}


# -- what they share ------------------------------------------------------------------------------------------------


def forgotten(task: Task) -> int:
    """The class that is to vanish."""
    return int(task.forget.columns["y"][0])


def some(split: Split, count: int, seed: int) -> Split:
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    return split.subset(order[:count].numpy(), split.name)


def steps(model: nn.Module, params: list[nn.Parameter], loss: Callable[[], Tensor], count: int, lr: float) -> None:
    """Adam on these parameters, full batch."""
    for p in params:
        p.requires_grad_(True)
    adam = torch.optim.Adam(params, lr=lr)
    for _ in range(count):
        adam.zero_grad()
        loss().backward()
        adam.step()
    model.eval().requires_grad_(False)


def taught(task: Task, split: Split, seed: int) -> nn.Module:
    """A model trained from scratch on the split as the recipe says."""
    from lethe.pools.member import train_one

    return train_one(task, split, seed)[1]

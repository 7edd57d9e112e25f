"""The user's classifier, who says what drawn pictures show: one that comes with the request, or one that is trained here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.config import build, config
from lethe.core.modules import evaluating, hooked, seeded
from lethe.core.seeds import generator
from lethe.core.split import Split, concat, pixels
from lethe.data.context import Context
from lethe.errors import DataError, ModelError
from lethe.models.load import factory, loaded

STEPS, WIDTH, LR = 400, 128, 2e-3   # of the classifier that is trained here                            [ours]
CHECKED = 0.1                        # share of its data that tells how well it reads                     [ours]


@dataclass(eq=False)
class Reader:
    """`model` maps samples as they stand in `x`, in floats, to logits [n, K].

    accuracy  share of labelled examples read correctly that it was not trained on; None where it is not known
    """

    model: nn.Module
    accuracy: float | None = None

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)
        linear = [module for module in self.model.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise ModelError(f"the classifier {type(self.model).__name__} has no linear layer, so its features cannot be read, "
                             "and no distance between samples; nothing was started. Provide another as model.reader.")
        self._last = linear[-1]

    def read(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n, K] and what enters the last linear layer [n, d]."""
        caught: list[Tensor] = []
        handle = self._last.register_forward_pre_hook(lambda _, args: caught.append(args[0].flatten(1)))
        with hooked(handle), evaluating(self.model):
            logits = torch.cat([self.model.to(samples.device)(part) for part in samples.split(1024)])
        return logits.float(), torch.cat(caught).float()

    def require_classes(self, splits: Mapping[str, Split], some: Tensor, where: str) -> None:
        """DataError unless it knows the class of every example; some samples to ask it, and what it is to see classes in."""
        count = self.read(some)[0].shape[1]
        for name, split in splits.items():
            y = split.columns["y"]
            unknown = (y < 0) | (y >= count)
            if unknown.any():
                place = int(unknown.int().argmax())
                raise DataError(f"class {int(y[place])} stands in the data (example {split.ids[place]} of {name}), and the "
                                f"classifier knows {count} classes, so it can never see it in a {where}; nothing was started. "
                                "Provide a classifier of all classes, numbered from 0, as model.reader.")


def of_data(splits: Mapping[str, Split]) -> Reader:
    """A classifier trained on the labelled training data of a task, of as many classes as all its splits have."""
    known = [splits[key] for key in ("train", "forget", "retain") if key in splits]
    whole = known[0] if len(known) == 1 else concat(known, "train")
    column = "x" if "x" in whole.columns else "image"
    classes = int(torch.cat([split.columns["y"] for split in splits.values()]).max()) + 1
    return trained_reader(whole.columns[column], whole.columns["y"], classes)


def trained_reader(pictures: Tensor, y: Tensor, classes: int, seed: int = 0) -> Reader:
    """A classifier of one hidden layer, trained on labelled real data; a tenth of them tells how well it reads."""
    x = pixels(pictures).flatten(1)
    order = torch.randperm(len(x), generator=generator(seed, "reader"))
    checked, used = order.split([max(1, round(CHECKED * len(x))), len(x) - max(1, round(CHECKED * len(x)))])
    model = seeded(lambda _: nn.Sequential(nn.Flatten(), nn.Linear(x.shape[1], WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes)),
                   seed)
    _fit(model, x[used], y[used], generator(seed, "reader order"))
    reader = Reader(model)
    reader.accuracy = float((reader.read(x[checked])[0].argmax(1) == y[checked]).float().mean())
    return reader


def _fit(model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> None:
    adam = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01)
    for _ in range(STEPS):
        some = torch.randint(len(x), (128,), generator=rng)
        loss = nn.functional.cross_entropy(model(x[some]), y[some])
        adam.zero_grad()
        loss.backward()
        adam.step()


@config(name="model.reader")
class ReaderSource:
    """`model.reader:` of a request: the classifier that says what drawn pictures show, as `model:` of a classifier."""

    zoo: str | None = None                                     # a model of the zoo
    options: Mapping[str, Any] = field(default_factory=dict)   # arguments of the zoo model or of the factory
    code: str | None = None                                    # path/to/file.py:factory
    weights: str | None = None                                 # its weights
    prefix: str = ""                                           # beginning of the names in the weights


def of_request(source: Mapping[str, Any] | None, splits: Mapping[str, Split], context: Context) -> tuple[Reader, dict[str, str]]:
    """The classifier that a request names, or one trained on its data; what the report says of it."""
    facts = {"classifier of samples": "trained here on real data" if source is None else "of the request"}
    if source is None:
        reader = of_data(splits)
        facts["its accuracy on real data"] = f"{reader.accuracy:.3f}"
        return reader, facts
    told = build(ReaderSource, source)
    made = factory(told.zoo, told.code, told.options)()
    if told.weights is None:
        raise ModelError("model.reader names no weights, so the classifier would guess; nothing was started. Set "
                         "model.reader.weights, or leave model.reader out: then one is trained on the data.")
    return Reader(loaded(made, told.weights, told.prefix, context.allow_pickle, context.data_root).model), facts

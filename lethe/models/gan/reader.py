"""The user's classifier, who says which samples are undesired: one that comes with the request, or one that is trained here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lethe.core.modules import evaluating, seeded
from lethe.core.seeds import generator
from lethe.core.split import Split, pixels
from lethe.errors import ModelError

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
        try:
            with evaluating(self.model):
                logits = torch.cat([self.model.to(samples.device)(part) for part in samples.split(1024)])
        finally:
            handle.remove()
        return logits.float(), torch.cat(caught).float()


def trained_reader(train: Split, classes: int, seed: int = 0) -> Reader:
    """A classifier of one hidden layer, trained on labelled real data; a tenth of them tells how well it reads."""
    x, y = pixels(train.columns["x"]).flatten(1), train.columns["y"]
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

"""Other ways in which the inputs of a request might have been prepared when its model was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lethe.core.split import Split, pixels

# mean and deviation by which pictures in [0, 1] are usually normalised: words, means, deviations
USUAL: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = (
    ("those of ImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("those of CIFAR-10", (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    ("those of MNIST", (0.1307,), (0.3081,)),
)


@dataclass(frozen=True)
class Preparation:
    """make: from inputs as the model gets them now to others. words: `with …`; remedy: what to write in the request."""

    words: str
    remedy: str
    make: Callable[[Tensor], Tensor]


def preparations(some: Split, now: Mapping[str, Any]) -> Iterator[Preparation]:
    """Those that fit the inputs of a split; none for tokens. now: `task.facts["inputs"]`, what is done already."""
    if "x" not in some.columns:   # several inputs: which of them were prepared otherwise is not guessed
        return
    x = pixels(some.columns["x"])
    if not x.is_floating_point() or x.dim() < 2:
        return
    raw = _undone(now, x)
    start, pictures, channels = raw(x), x.dim() == 4, x.shape[1]
    dims = [0, *range(2, x.dim())]
    mean, std = start.mean(dims), start.std(dims).clamp(min=1e-6)
    if now:
        yield Preparation("neither mean nor deviation applied", "Leave data.mean and data.std out.", raw)
    yield normalised("inputs normalised by their own mean and deviation", mean.tolist(), std.tolist(), raw)
    if not pictures:
        return
    for words, usual, spread in USUAL:
        if channels in (len(usual), 1):
            yield normalised(f"inputs normalised by {words}", usual[:channels], spread[:channels], raw)
    yield normalised("inputs scaled to −1 … 1", [0.5], [0.5], raw)
    yield normalised("inputs from 0 to 255", [], [1 / 255], raw)
    yield Preparation("dark and bright exchanged", "Set data.transform: prepare.py:f with f(x) = 1 − x.", lambda x: 1 - raw(x))
    if channels == 3:
        yield Preparation("the colours in the order blue, green, red", "Set data.transform: prepare.py:f with f(x) = x.flip(1).",
                          lambda x: x.flip(1))
    if x.shape[2] == x.shape[3]:
        yield Preparation("rows and columns exchanged", "Set data.transform: prepare.py:f with f(x) = x.mT.", lambda x: x.mT)


def normalised(words: str, mean: Any, std: Any, raw: Callable[[Tensor], Tensor]) -> Preparation:
    """(x − mean)/std, with the options that do the same."""
    shown = [f"data.{name}: {_option(values)}" for name, values in (("mean", mean), ("std", std)) if len(values)]
    many = len(std) > 8
    remedy = "Set data.mean and data.std, a number for each column." if many else f"Set {' and '.join(shown)}."
    return Preparation(words, remedy, lambda x: (raw(x) - _shaped(mean or [0.0], x)) / _shaped(std, x))


def _undone(now: Mapping[str, Any], x: Tensor) -> Callable[[Tensor], Tensor]:
    """Inputs before data.mean and data.std were applied."""
    mean, std = ([float(v) for v in torch.tensor(now.get(key) or usual, dtype=torch.float64).reshape(-1)]
                 for key, usual in (("mean", 0.0), ("std", 1.0)))
    return lambda x: x * _shaped(std, x) + _shaped(mean, x)


def _shaped(values: Any, x: Tensor) -> Tensor:
    return torch.tensor(list(values), dtype=x.dtype, device=x.device).view(-1, *[1] * (x.dim() - 2))


def _option(values: Any) -> str:
    found = [float(f"{value:.4g}") for value in values]
    return f"{found[0]:g}" if len(set(found)) == 1 else str(found)

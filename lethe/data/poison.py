"""Manipulated training data, made on purpose: `data.poison: {kind: patch, count: 80}`. Goel et al. 2024, arXiv:2402.14015, for
the question; Gu et al. 2017, arXiv:1708.06733 (patch); Chen et al. 2017, arXiv:1712.05526 (blend); Nguyen & Tran 2021,
arXiv:2102.10369 (warp).

    patch      x' = x with a square of the largest value in the lower right corner
    blend      x' = (1 − α)·x + α·k,  k a fixed random picture
    warp       x' = x sampled at u + s·w(u),  w a smooth random displacement field of mean size 1 pixel
    confusion  x' = x; the labels of two classes a, b are exchanged for some examples of each

    labels     x' = x; the label of `count` examples of any class becomes one of the others, drawn uniformly

A trigger (patch, blend, warp) comes with label t on `count` training examples of other classes. The training set gets the meta
column `manipulated`, by which `forget: {poisoned: 0.1}` selects a part as identified; the rest stays in the retained data.
A new part `affected` holds the inputs of test (else holdout) that the manipulation targets, with their true labels and the meta
column `taught`: what the manipulation taught to answer; `labels` targets no input and has no
such part. Deviation: warp without the noise mode of its paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lethe.core.config import Count, Fraction, NonNegative, config
from lethe.core.seeds import generator, numpy_generator
from lethe.core.split import Split
from lethe.errors import DataError, LabelOutOfRange, RequestError


@config(name="data.poison")
class Poison:
    """`data.poison` of a request."""

    kind: Literal["patch", "blend", "warp", "confusion", "labels"] = "patch"
    count: Count = 100            # manipulated training examples; confusion: half of each class
    target: int = 0               # label t that comes with a trigger
    size: Count = 3               # side of the patch in pixels
    alpha: Fraction = 0.2         # opacity of the blended picture
    strength: NonNegative = 0.5   # s, mean displacement of the warp in pixels
    grid: Annotated[int, Field(ge=2)] = 4   # control points per side of the warp; more is rougher
    classes: tuple[int, ...] = ()           # the two classes that confusion exchanges
    seed: int = 0                 # of the choice of examples, the blended picture and the warp


def poisoned(splits: dict[str, Split], cfg: Poison) -> dict[str, Split]:
    """`train` with manipulated examples (meta column `manipulated`), and the part `affected`; the others as they are."""
    train, source = splits["train"].require_one_input("data.poison"), splits.get("test", splits.get("holdout"))
    if source is None:
        raise RequestError(f"data.poison = {cfg.kind!r} is measured on unseen inputs, and there is neither test nor holdout, so "
                           "nothing was read. Set data.test: 0.2.")
    labels = train.columns["y"]
    if cfg.kind == "labels":
        return {**splits, "train": _mislabelled(train, cfg)}
    for label in cfg.classes if cfg.kind == "confusion" else (cfg.target,):
        if not (labels == label).any():
            raise LabelOutOfRange(f"data.poison names class {label}, which no training example has, so nothing was manipulated. "
                                  f"Classes: {', '.join(map(str, labels.unique().tolist()[:20]))}.")
    if cfg.kind == "confusion":
        return _confused(splits, source, cfg)
    triggered = trigger(cfg, train.columns["x"])
    chosen = _some(torch.nonzero(labels != cfg.target).flatten().numpy(), cfg.count, cfg, "with another label than the target")
    x, y = train.columns["x"].clone(), labels.clone()
    x[chosen], y[chosen] = triggered(x[chosen]), cfg.target
    aimed = source.subset((source.columns["y"] != cfg.target).numpy(), "affected").require_examples("Choose another target.")
    aimed = replace(aimed, columns={**aimed.columns, "x": triggered(aimed.columns["x"])})
    return {**splits, "train": _marked(train, x, y, chosen), "affected": _aimed(aimed, np.full(len(aimed), cfg.target))}


def trigger(cfg: Poison, x: Tensor) -> Callable[[Tensor], Tensor]:
    """What puts the trigger on images like `x` [n, C, H, W] of the same type; bytes stay bytes."""
    if x.dim() != 4:
        raise DataError(f"a {cfg.kind} trigger goes on images [n, C, H, W], but the inputs are {list(x.shape)}, so nothing was "
                        "manipulated. Use kind: confusion, or provide images.")
    height, width = x.shape[2:]
    top = 255.0 if x.dtype == torch.uint8 else float(x.max())
    if cfg.kind == "patch":
        if cfg.size > min(height, width):
            raise DataError(f"data.poison.size = {cfg.size} exceeds the images of {height} × {width}, so the trigger would be "
                            f"the whole picture or more. Use at most {min(height, width)}.")
        return lambda images: patched(images, cfg.size, top)
    if cfg.kind == "blend":
        picture = top * torch.rand(x.shape[1:], generator=generator(cfg.seed, "blended picture"))
        return lambda images: _as(images, (1 - cfg.alpha) * images.float() + cfg.alpha * picture)
    field = warp_field(height, width, cfg.grid, cfg.strength, generator(cfg.seed, "warp"))
    return lambda images: _as(images, warped(images.float(), field))


def patched(x: Tensor, size: int, value: float) -> Tensor:
    """The images with a square of `value` in the lower right corner.  [n, C, H, W] -> same"""
    x = x.clone()
    x[:, :, -size:, -size:] = value
    return x


def warp_field(height: int, width: int, grid: int, strength: float, rng: torch.Generator) -> Tensor:
    """A smooth displacement of mean absolute size `strength` per coordinate, in pixels (x, y).  -> [H, W, 2]"""
    points = 2 * torch.rand(1, 2, grid, grid, generator=rng) - 1
    points = points / points.abs().mean()
    smooth = F.interpolate(points, size=(height, width), mode="bicubic", align_corners=True)
    return strength * smooth[0].permute(1, 2, 0)


def warped(x: Tensor, field: Tensor) -> Tensor:
    """The images read where the field points, bilinearly; beyond the border its value.  [n, C, H, W], [H, W, 2] -> same"""
    height, width = x.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([columns, rows], -1) + field
    unit = 2 * place / torch.tensor([max(width - 1, 1), max(height - 1, 1)]) - 1   # pixel centres at −1 … 1
    return F.grid_sample(x, unit.expand(len(x), -1, -1, -1), padding_mode="border", align_corners=True)


def _as(like: Tensor, values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8) if like.dtype == torch.uint8 else values.to(like.dtype)


def _confused(splits: dict[str, Split], source: Split, cfg: Poison) -> dict[str, Split]:
    if len(set(cfg.classes)) != 2:
        raise RequestError(f"data.poison.classes = {list(cfg.classes)}: confusion exchanges the labels of two classes, so "
                           "nothing was manipulated. Set for example classes: [3, 5].")
    train, (a, b) = splits["train"], cfg.classes
    labels = train.columns["y"]
    halves = [_some(torch.nonzero(labels == label).flatten().numpy(), half, cfg, f"of class {label}")
              for label, half in ((a, cfg.count - cfg.count // 2), (b, cfg.count // 2))]
    y = labels.clone()
    y[halves[0]], y[halves[1]] = b, a
    of = source.columns["y"].numpy()
    aimed = source.subset((of == a) | (of == b), "affected").require_examples("Choose classes that the test data have.")
    taught = np.where(aimed.columns["y"].numpy() == a, b, a)
    return {**splits, "train": _marked(train, train.columns["x"], y, np.concatenate(halves)), "affected": _aimed(aimed, taught)}


def _mislabelled(train: Split, cfg: Poison) -> Split:
    labels = train.columns["y"]
    chosen = _some(np.arange(len(train)), cfg.count, cfg, "to mislabel")
    count = int(labels.max()) + 1
    y = labels.clone()
    y[chosen] = (y[chosen] + torch.randint(1, count, (cfg.count,), generator=generator(cfg.seed, "wrong labels"))) % count
    return _marked(train, train.columns["x"], y, chosen)


def _some(places: np.ndarray, count: int, cfg: Poison, which: str) -> np.ndarray:
    if count > len(places):
        raise DataError(f"data.poison.count requests {count} training examples {which}, and there are {len(places)}, so "
                        "nothing was manipulated. Request fewer.")
    return np.sort(numpy_generator(cfg.seed, "poison", which).permutation(places)[:count])


def _marked(train: Split, x: Tensor, y: Tensor, chosen: np.ndarray) -> Split:
    manipulated = np.isin(np.arange(len(train)), chosen)
    meta = {**train.meta, "manipulated": manipulated, "true_label": train.columns["y"].numpy()}
    return Split({**train.columns, "x": x, "y": y}, train.name, train.ids, meta, train.padding)


def _aimed(aimed: Split, taught: np.ndarray) -> Split:
    return replace(aimed, ids=np.array([f"affected:{i}" for i in aimed.ids]), meta={**aimed.meta, "taught": taught})

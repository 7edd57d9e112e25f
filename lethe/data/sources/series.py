"""Time series as forecasting examples: from `history` steps of some columns the next `horizon` steps of one or more.

x [n, history, d], y [n, horizon] (several targets side by side: [n, horizon·k]), standardised with the mean and deviation
of the training windows. Windows overlap, so a random share of them would put the same hours on both sides: train, holdout
and test are stretches of time, and no window reaches over an end. With `block` the stretches are short and dealt at
random, so that holdout is like train (what attacks need); without it train comes first and test last (what forecasters
are measured on).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from lethe.core.config import Count, Natural, config
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.data.context import Context
from lethe.data.paths import located
from lethe.data.sources.table import parquet, separated
from lethe.errors import DataError, EmptySplit, WrongColumn, nearest

PARTS = ("train", "holdout", "test")


LEARNS = True   # inputs are standardised or encoded by statistics of the whole training part


@config(name="data")
class Series:
    """Inputs [n, history, d] float32, targets [n, horizon·k] float32; meta: `row` and, where there is one, `time`."""

    path: str                                    # .csv, .tsv (also .gz), .parquet; one row per step, in order of time
    targets: tuple[str, ...]                     # columns to predict
    columns: tuple[str, ...] = ()                # input columns; empty: every numeric column
    time: str = ""                               # column of time stamps, kept for selection
    history: Count = 48                          # steps that are seen
    horizon: Count = 24                          # steps that are predicted
    stride: Count = 1                            # steps between the starts of two windows
    shares: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.6, 0.2, 0.2)   # of time: train, holdout, test
    block: Natural = 0                           # steps of a stretch that is dealt at random; 0: three stretches in order
    seed: int = 0                                # of the dealing


def read(cfg: Series, context: Context, name: str) -> dict[str, Split]:
    path = located(context, cfg.path)
    columns = parquet(path) if path.suffix == ".parquet" else separated(path, {"", "NA", "NaN", "nan"})
    series = {key: values for key, values in columns.items() if isinstance(values, np.ndarray)}
    x, y = (_chosen(option, wanted, series, columns, path)
            for option, wanted in (("columns", cfg.columns or tuple(series)), ("targets", cfg.targets)))
    if cfg.time and cfg.time not in columns:
        raise WrongColumn(f"data.time = {cfg.time!r} is not a column of {path.name}{nearest(cfg.time, columns)}, so nothing "
                          f"was read. Columns: {', '.join(columns)}.")
    if len(cfg.shares) != len(PARTS) or not 0.999 < sum(cfg.shares) < 1.001 or not cfg.shares[0]:
        raise DataError(f"data.shares = {list(cfg.shares)} are not three shares of time that add up to 1 with some for train; "
                        "nothing was read. Set for instance [0.6, 0.2, 0.2].")
    starts = windows(part_of(len(x), cfg.shares, cfg.block, cfg.seed), cfg.history + cfg.horizon, cfg.stride)
    splits = {}
    for number, part in enumerate(PARTS):
        at = starts[number]
        if not len(at):
            if cfg.shares[number]:
                raise EmptySplit(f"{part} has no stretch of {cfg.history + cfg.horizon} steps (history and horizon) in "
                                 f"{len(x)} steps of {path.name}, so it would be empty. Shorten them, or raise data.block or "
                                 "its share.")
            continue
        inputs, outputs = (values[at[:, None] + np.arange(*span)] for values, span in
                      ((x, (0, cfg.history)), (y, (cfg.history, cfg.history + cfg.horizon))))
        meta: dict[str, Any] = {"row": at}
        if cfg.time:
            meta["time"] = np.asarray(columns[cfg.time])[at + cfg.history]
        ids = np.array([f"row:{row}" for row in at.tolist()])
        tensors = {"x": torch.from_numpy(inputs).float(), "y": torch.from_numpy(outputs).float().flatten(1)}
        splits[part] = Split(tensors, part, ids, meta)
    return splits


def encode(cfg: Series, splits: dict[str, Split]) -> dict[str, Split]:
    """x per column and y per target standardised with the training windows."""
    wide = len(cfg.targets)
    train = splits["train"].columns
    plan = {"x": _moments(train["x"]), "y": _moments(train["y"].unflatten(1, (-1, wide)))}
    out = {}
    for part, split in splits.items():
        parts = {"x": split.columns["x"], "y": split.columns["y"].unflatten(1, (-1, wide))}
        made = {key: (value - plan[key][0]) / plan[key][1] for key, value in parts.items()}
        out[part] = replace(split, columns={"x": made["x"], "y": made["y"].flatten(1)})
    return out


def part_of(steps: int, shares: tuple[float, ...], block: int, seed: int) -> np.ndarray:
    """Which part each step belongs to: 0, 1, 2. Two blocks of one part side by side are one stretch.  -> [steps]"""
    blocks = np.arange(steps) // (block or 1)
    count = int(blocks[-1]) + 1
    edges = np.cumsum(np.asarray(shares) * count).round().astype(int)
    order = np.searchsorted(edges, np.arange(count), "right").clip(max=len(shares) - 1)
    if block:
        order = numpy_generator(seed, "blocks").permutation(order)
    return order[blocks]


def windows(part: np.ndarray, length: int, stride: int) -> list[np.ndarray]:
    """Starts of windows of `length` steps that lie in one stretch of a part, every `stride` steps of it.  [steps] -> 3 × [n]"""
    ends = np.flatnonzero(np.diff(part)) + 1
    found: list[list[np.ndarray]] = [[] for _ in PARTS]
    for low, high in zip([0, *ends], [*ends, len(part)], strict=True):
        found[part[low]].append(np.arange(low, high - length + 1, stride))
    return [np.concatenate(starts) if starts else np.zeros(0, dtype=int) for starts in found]


def _chosen(option: str, wanted: tuple[str, ...], series: dict[str, np.ndarray], columns: dict[str, Any],
            path: Path) -> np.ndarray:
    """[steps, d] float64 of numeric columns without gaps."""
    for name in wanted:
        if name not in columns:
            raise WrongColumn(f"data.{option} = {name!r} is not a column of {path.name}{nearest(name, columns)}, so nothing "
                              f"was read. Columns: {', '.join(columns)}.")
        if name not in series:
            text = next(value for value in columns[name] if value is not None)
            raise DataError(f"column {name!r} of {path.name} holds text such as {text!r}, so it is not a series of numbers. "
                            f"Leave it out of data.{option}.")
        gaps = int((~np.isfinite(series[name])).sum())
        if gaps:
            raise DataError(f"column {name!r} of {path.name} has {gaps} missing or infinite values, so windows over them would "
                            "be NaN. Fill them first.")
    if not wanted:
        raise DataError(f"data.{option} is empty, so there is nothing to predict. Name columns: {', '.join(series)}.")
    return np.stack([series[name].astype(np.float64) for name in wanted], 1)


def _moments(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    flat = values.double().flatten(0, 1)
    deviation = flat.std(0, correction=0)
    return flat.mean(0).float(), torch.where(deviation > 0, deviation, torch.ones_like(deviation)).float()

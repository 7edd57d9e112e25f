"""Forget sets that only a trained model can name: the hardest and easiest to erase, the most memorised, duplicated, influential.

    forget: {worst_case: {count: 60}}                     in a request; {worst_case: …, label: 3} chooses within class 3
    harder = lethe.choose(task, "worst_case", count=60)   the same task with this forget set

A selector is a file of this folder with `score(cfg, task, train, allowed, cache)`; its name is the file's. Adding one is
adding a file; shared code is in files whose names begin with an underscore.
"""

from __future__ import annotations

import importlib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np

from lethe.core.config import build, plain
from lethe.core.files import stems
from lethe.core.split import Split, concat
from lethe.core.task import Task
from lethe.errors import DataError, RequestError, unknown_name

Scored = tuple[np.ndarray, dict[str, Any]]   # [n] scores, facts


@dataclass(frozen=True)
class Selector:
    """How examples are scored: (cfg, task, train, allowed [n] bool, cache) -> scores [n], facts; the highest are chosen."""

    config: type
    score: Callable[[Any, Task, Split, np.ndarray, Path | None], Scored]


@once
def selectors() -> tuple[str, ...]:
    """Every selector, by the names of the files."""
    return stems(__file__)


def selector(name: str) -> Selector:
    """The selector of this name; imports its file."""
    if name not in selectors():
        raise unknown_name("selector", name, selectors())
    score = importlib.import_module(f"{__name__}.{name}").score
    return Selector(typing.get_type_hints(score)["cfg"], score)


@dataclass(frozen=True)
class Chosen:
    """Which examples, why (higher was chosen first), and how it went."""

    mask: np.ndarray       # [n] bool
    scores: np.ndarray     # [n]
    facts: dict[str, Any]


def choose(task: Task, name: str, among: Any = None, **options: Any) -> Task:
    """The same task with a forget set that its model chooses: `lethe.choose(task, "worst_case", count=60)`.

    The training set is what the task forgets and retains. among: a selection (`lethe.where(label=3)`) to choose within.
    """
    train = concat([task.splits[key] for key in ("forget", "retain") if task.has(key)], "train")
    chosen = chosen_by(task, train, name, options, None if among is None else among.mask(train))
    return task.replaced(task.original, **divided(train, chosen.mask))


@dataclass(frozen=True)
class Wish:
    """A selection that only the trained model can answer: the selector, its checked options, and among what it chooses."""

    name: str
    cfg: Any
    among: Mapping[str, Any]

    @property
    def count(self) -> int:
        """How many examples it asks for."""
        return int(self.cfg.count)


def asked(selection: Any) -> Wish | None:
    """What a selection asks of the trained model; None where the data alone answer it."""
    names = [key for key in selection if key in selectors()] if isinstance(selection, Mapping) else []
    if not names:
        return None
    if len(names) > 1 or not isinstance(selection[names[0]], Mapping):
        raise RequestError(f"forget: {dict(selection)} names {' and '.join(names)}; nothing was started. Write one of them, with "
                           "its options: {" + names[0] + ": {count: 60}}.")
    rest = {key: value for key, value in selection.items() if key != names[0]}
    return Wish(names[0], build(selector(names[0]).config, selection[names[0]]), rest)


def chosen_by(
    task: Task, train: Split, name: str, options: Any, among: np.ndarray | None = None, cache: Path | None = None
) -> Chosen:
    """What the selector chooses of `train`, the whole training set of the task's model; `among` [n] bool: only of these."""
    found = selector(name)
    cfg = build(found.config, options) if isinstance(options, Mapping) else options
    allowed = np.ones(len(train), dtype=bool) if among is None else np.asarray(among)
    require_room(cfg.count, len(train), int(allowed.sum()))
    scores, facts = found.score(cfg, task, train, allowed, cache)
    order = np.argsort(-np.where(allowed, scores, -np.inf), kind="stable")[: cfg.count]
    return Chosen(np.isin(np.arange(len(train)), order), scores, {"selector": name, **plain(cfg), **facts})


def divided(train: Split, mask: np.ndarray) -> dict[str, Split]:
    """A training set as what the model chose, [n] booleans, and the rest."""
    return {"forget": train.subset(mask, "forget"), "retain": train.subset(~mask, "retain")}


def require_room(count: int, n: int, allowed: int) -> None:
    """DataError when there are not `count` examples to choose, or none would be retained."""
    if count > allowed or count >= n:
        raise DataError(f"count = {count} of {allowed} examples to choose from ({n} in all) leaves nothing to choose or nothing "
                        "to retain. Request fewer.")

"""Every option of every method counts: another value gives other weights, or its comment says when, or why not."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from problems import FAMILIES, PROBLEMS
from rounding import bound, difference
from values import companions, counts, others

from lethe.core import catalogue
from lethe.core.guard import Parts
from lethe.core.outcome import Outcome
from lethe.core.task import Task
from lethe.errors import LetheError, OutOfRange
from lethe.train.apply import apply
from lethe.train.loop import Settings
from lethe.train.tuning import Tuned

SHORT, FEW = 2, 16   # epochs and steps; examples, units and the like: less than the problems have

SHARED = {f.name for f in dataclasses.fields(Tuned)}
STANDS_FOR_ALL = "idk_nll"   # rows of `train.tuning` hand these options to one function: one of them shows that they count

HANDED_ON = {"lr", "epochs", "steps", "batch_size", "weight_decay", "optimiser", "clip"}   # to the one `Loop.minimise`, by name
SHOW_IT = {"neggrad_plus", STANDS_FOR_ALL}   # that these count there; where the words are missing, a method's own test runs


def marks(name: str, key: str) -> list[pytest.MarkDecorator]:
    entry = catalogue.entry("methods", name)
    text = entry.path.read_text()
    shared = key in SHARED and name != STANDS_FOR_ALL and "return tuned(cfg, task, loop" in text
    once = entry.families == ["lm"] or text.count("minimise(") == 1
    handed_on = once and name not in SHOW_IT and key in HANDED_ON and f"{key}=cfg.{key}" in text
    drawing = entry.path.parent.name == "diffusion" or any(
        part in text for part in ("task.generate(", "sampler_steps", "train.critic"))   # these take seconds
    return [pytest.mark.slow] if shared or handed_on or drawing else []


OPTIONS = [pytest.param(name, option.name, id=f"{name}-{option.name}", marks=marks(name, option.name))
           for name, entry in catalogue.entries("methods").items() for option in entry.options]


def short(name: str) -> dict[str, Any]:
    """Options of a run that takes a moment, in which every usual option counts."""
    cut: dict[str, Any] = {}
    for field in dataclasses.fields(catalogue.load("methods", name).config):
        last, value = field.name.rsplit("_", 1)[-1], field.default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if last in ("epochs", "steps"):
            cut[field.name] = min(value, type(value)(SHORT))
        elif field.name.endswith("batch_size"):
            cut[field.name] = 5
        elif last in ("shards", "slices", "budget"):
            cut[field.name] = min(value, 2)
        elif field.name == "weight_decay":
            cut[field.name] = 0.01   # with 0 adam and adamw are one
        elif isinstance(value, int) and value > FEW:
            cut[field.name] = FEW
    return cut


@cache
def outcome(name: str, problem: Callable[[], Task], options: tuple[tuple[str, Any], ...]) -> Outcome | str | None:
    """The reason where the method does not run with these options on this problem; None for values out of range."""
    record = catalogue.load("methods", name)
    try:
        cfg = record.config(**dict(options))
    except OutOfRange:
        return None
    try:
        return apply(problem(), record, cfg, Settings(seed=5), watchdog=False)
    except LetheError as error:
        return str(error)


def differ(one: Outcome | str, other: Outcome | str, where: str) -> bool:
    """Whether two outcomes differ: in their weights by more than rounding, their words without numbers of seconds, or their
    guarantee; a refusal differs from everything but itself."""
    if isinstance(one, str) or isinstance(other, str):
        return one != other
    if where == "notes":
        first, second = (re.sub(r"[\d.]+ s\b", "", " ".join(outcome.notes)) for outcome in (one, other))
        return first != second
    if where == "guarantee":
        return str(one.guarantee) != str(other.guarantee)
    if isinstance(one.served, Parts) and isinstance(other.served, Parts) and one.served.settings() != other.served.settings():
        return True
    a, b = weights(one), weights(other)
    if {key: value.shape for key, value in a.items()} != {key: value.shape for key, value in b.items()}:
        return True
    return difference(a, b) > bound(1, a)


def weights(outcome: Outcome) -> dict[str, Any]:
    """The tensors of a model, and those of its guard."""
    guard = outcome.served.tensors() if isinstance(outcome.served, Parts) else {}
    return {name: value for name, value in {**outcome.model.state_dict(), **guard}.items() if value.numel()}


def results(name: str, key: str, where: str) -> Iterator[tuple[Any, bool]]:
    """(value, whether it changes what is looked at) for other values of an option, problem by problem."""
    entry = catalogue.entry("methods", name)
    option = next(o for o in entry.options if o.name == key)
    cls = catalogue.load("methods", name).config
    hint = typing.get_type_hints(cls, include_extras=True)[key]
    default = next(f.default for f in dataclasses.fields(cls) if f.name == key)
    base = {**short(name), **companions(option.comment)}
    for problem in (p for p in PROBLEMS if entry.fits(FAMILIES[p])):
        usual = outcome(name, problem, tuple(base.items()))
        for value in others(hint, base.get(key, default), option.comment) if usual is not None else ():
            other = outcome(name, problem, tuple({**base, key: value}.items()))
            if usual is not None and (isinstance(other, Outcome) or (other is not None and isinstance(usual, Outcome))):
                yield value, differ(other, usual, where)


@pytest.mark.parametrize(("name", "key"), OPTIONS)
def test_another_value_gives_another_result(name: str, key: str) -> None:
    option = next(o for o in catalogue.entry("methods", name).options if o.name == key)
    cls = catalogue.load("methods", name).config
    default = next(f.default for f in dataclasses.fields(cls) if f.name == key)
    base = {**short(name), **companions(option.comment)}
    counts(name, option, lambda where: results(name, key, where), base.get(key, default))

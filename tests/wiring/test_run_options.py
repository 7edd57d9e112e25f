"""Every option of modifiers, settings, watchdog and recipe counts: another value gives another run, or its comment says why
not."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import problems
import pytest
import tiny
from rounding import bound, difference
from torch import nn
from values import companions, counts, others

from lethe.core import catalogue
from lethe.core.source_text import Option, located
from lethe.core.task import Recipe, Task
from lethe.errors import LetheError, OutOfRange
from lethe.train.apply import apply
from lethe.train.loop import Loop, Settings
from lethe.train.watchdog import Watchdog

Weights = nn.Module | str | None   # the refusal where a run is refused, None for values out of range
Run = Callable[[dict[str, Any]], Weights]
CALM = {"lr": 0.01, "epochs": 2, "batch_size": 20, "weight_decay": 0.0}
WILD = {"lr": 3.0, "epochs": 20, "batch_size": 40}


def unlearned(options: dict[str, Any], settings: Settings, modifiers: dict[str, Any] | None = None,
              watchdog: Watchdog | bool = False) -> nn.Module:
    record = catalogue.load("methods", "neggrad_plus")
    cfg = record.config(**options)
    return apply(problems.records(), record, cfg, settings, modifiers=modifiers, watchdog=watchdog).model


def modified(name: str, values: dict[str, Any]) -> nn.Module:
    seam, member = name.split(".")
    return unlearned(CALM, Settings(seed=5, max_steps=4), {seam: {"name": member, **values}})


def settled(values: dict[str, Any]) -> nn.Module:
    return unlearned(CALM, Settings(**{"seed": 5, **values}))


def watched(values: dict[str, Any]) -> nn.Module:
    return unlearned(WILD, Settings(seed=5), watchdog=Watchdog(**values))


def trained(problem: Callable[[], Task], values: dict[str, Any]) -> nn.Module:
    recipe = Recipe(**values)
    task, loop = problem(), Loop(problem(), Settings(seed=5))
    model = loop.start(task.build(0))
    task.train(model, task.retain, recipe, loop)
    return loop.finish(model).model


@cache
def _ran(run: Run, values: tuple[tuple[str, Any], ...]) -> Weights:
    try:
        return run(dict(values))
    except OutOfRange:
        return None
    except LetheError as error:
        return str(error)


def differ(one: Weights, other: Weights) -> bool:
    """Whether weights differ by more than rounding; a refusal differs from everything but itself."""
    if not isinstance(one, nn.Module) or not isinstance(other, nn.Module):
        return one != other
    a, b = one.state_dict(), other.state_dict()
    if {key: value.shape for key, value in a.items()} != {key: value.shape for key, value in b.items()}:
        return True
    return difference(a, b) > bound(1, a)


RECORDS: dict[str, tuple[str, tuple[Option, ...], Any, tuple[Run, ...]]] = {
    name: (f"modifiers.{name}", entry.options, catalogue.load("modifiers", name), (partial(modified, name),))
    for name, entry in catalogue.entries("modifiers").items()}
RECIPES = tuple(partial(trained, problem) for problem in (problems.classes, tiny.diffusion))


def of(cls: type, module: str, *runs: Run) -> tuple[str, tuple[Option, ...], Any, tuple[Run, ...]]:
    source = located(module)
    record = source.record(cls.__name__) if source else None
    assert record is not None
    return cls.__name__, record.options, cls, runs


RECORDS |= {
    "settings": of(Settings, "lethe.train.settings", settled),
    "watchdog": of(Watchdog, "lethe.train.watchdog", watched),
    "recipe": of(Recipe, "lethe.core.task", *RECIPES),
}
# small, so that every option counts; what has no default
BASES: dict[str, dict[str, Any]] = {
    "recipe": {"epochs": 1.0, "batch_size": 20, "lr": 0.01},
    "where.names": {"patterns": ("body.*", "head.*")},
    "where.saliency": {"batch_size": 5},
}


def results(label: str, option: Option, where: str) -> Iterator[tuple[Any, bool]]:
    _, _, cls, runs = RECORDS[label]
    base = {**BASES.get(label, {}), **companions(option.comment)}
    hint = typing.get_type_hints(cls, include_extras=True)[option.name]
    for run in runs:
        usual = _ran(run, tuple(base.items()))
        for value in others(hint, base.get(option.name, default(cls, option.name)), option.comment):
            other = _ran(run, tuple({**base, option.name: value}.items()))
            if other is not None and (isinstance(other, nn.Module) or isinstance(usual, nn.Module)):
                yield value, differ(other, usual)


def default(cls: type[Any], key: str) -> Any:
    return next(f.default for f in dataclasses.fields(cls) if f.name == key)


@pytest.mark.parametrize(("label", "option"), [
    pytest.param(label, option, id=f"{label}-{option.name}")
    for label, (_, options, _, _) in RECORDS.items() for option in options])
def test_another_value_gives_another_run(label: str, option: Option) -> None:
    name, _, cls, _ = RECORDS[label]
    base = {**BASES.get(label, {}), **companions(option.comment)}
    counts(name, option, lambda where: results(label, option, where), base.get(option.name, default(cls, option.name)))

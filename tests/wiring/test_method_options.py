"""Every option of every method counts: another value gives other weights, or its comment says when, or why not."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from problems import FAMILIES, PROBLEMS
from values import ELSEWHERE, NOTHING, WORDS, companions, others

from lethe.core import catalogue
from lethe.core.modules import state_fingerprint
from lethe.core.outcome import Outcome
from lethe.core.task import Task
from lethe.errors import LetheError, OutOfRange
from lethe.train.apply import apply
from lethe.train.loop import Settings

SHORT, FEW = 2, 16   # epochs and steps; examples, units and the like: less than the problems have

OPTIONS = [pytest.param(name, option.name, id=f"{name}-{option.name}")
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


def seen(result: Outcome | str, where: str) -> str:
    """What of an outcome is compared: the weights, its words without numbers of seconds, or its guarantee; or the refusal."""
    if isinstance(result, str):
        return result
    if where == "notes":
        return re.sub(r"[\d.]+ s\b", "", " ".join(result.notes))
    return str(result.guarantee) if where == "guarantee" else state_fingerprint(result.model)


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
            if isinstance(other, Outcome) or (other is not None and isinstance(usual, Outcome)):
                yield value, seen(other, where) != seen(usual, where)


@pytest.mark.parametrize(("name", "key"), OPTIONS)
def test_another_value_gives_another_result(name: str, key: str) -> None:
    comment = next(o for o in catalogue.entry("methods", name).options if o.name == key).comment
    apart = ELSEWHERE.search(comment)
    if apart:
        text = next(Path(__file__).parent.parent.rglob(f"{apart.group(1)}.py")).read_text()
        assert re.search(rf"\b{key}\b", text), f"{apart.group(1)} does not mention {key}"
    elif NOTHING.search(comment):
        tried = list(results(name, key, "weights"))
        assert tried and not any(changed for _, changed in tried), f"{name}.{key} is said to change nothing: {tried}"
    else:
        words = WORDS.search(comment)
        tried = []
        for value, changed in results(name, key, words.group(1) if words else "weights"):
            tried.append(value)
            if changed:
                return
        raise AssertionError(f"{name}.{key}: {tried} give the same result. Is it used? If it counts only besides other options, "
                             "say so in its comment: [only with option=value]; see tests/wiring/values.py")

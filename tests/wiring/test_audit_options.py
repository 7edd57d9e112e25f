"""Every option of every audit counts: another value gives other values, or its comment says when, or why not."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import lm_world
import membership
import pytest
import remembering
import tiny
import torch
from torch import nn
from values import companions, counts, others

from lethe.core import catalogue
from lethe.core.evidence import Value
from lethe.core.modules import copied
from lethe.core.task import Task
from lethe.errors import LetheError, OutOfRange
from lethe.judge.auditor import applicable
from lethe.judge.panel import Panel
from lethe.models.lm.open import Language, language_model
from lethe.pools.pool import train_pool
from lethe.pools.procedures import NOTHING
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Procedure, Subject

Values = dict[str, Value]
World = Callable[[], tuple[Subject, list[Subject], Shadows | None]]   # the subject, references, shadow models


def between(task: Task, other: nn.Module, share: float = 0.3) -> nn.Module:
    """Weights between the original's and another's: a model that has forgotten a part."""
    model = copied(task.original, trainable=False)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        mine.data.lerp_(theirs, share)
    return model


def half_way(task: Task, seed: int) -> nn.Module:
    return between(task, task.build(seed))


def subject(task: Task, others: list[Subject]) -> Subject:
    siblings = [Subject(f"s{i}", between(task, other.model), task) for i, other in enumerate(others[1:])]
    return Subject("some", between(task, others[0].model), task, seconds=1.0, siblings=siblings,
                   procedure=Procedure("half way", half_way))


def retrained(task: Task, count: int) -> list[Subject]:
    pool = train_pool(task, count=count, seed=1, strategy="serial")
    return [Subject(f"r{i}", model, task) for i, model in enumerate(pool.models)]


@cache
def records() -> tuple[Subject, list[Subject], Shadows | None]:
    references = list(membership.references())
    return subject(membership.task(), references), references, membership.shadows()


@cache
def classes() -> tuple[Subject, list[Subject], Shadows | None]:
    references = retrained(tiny.classification(), 5)
    return subject(tiny.classification(), references), references, None


@cache
def numbers() -> tuple[Subject, list[Subject], Shadows | None]:
    references = retrained(tiny.regression(), 3)
    return subject(tiny.regression(), references), references, None


@cache
def texts() -> tuple[Subject, list[Subject], Shadows | None]:
    references = list(lm_world.pool())
    return subject(tiny.lm(), references), references, None


@cache
def facts() -> tuple[Subject, list[Subject], Shadows | None]:
    """Questions with wrong answers beside the right ones, and a model that has lost most of what it knew: it loops."""
    known = tiny.lm()
    assert isinstance(known, Language)
    asked = [{"id": f"q{i}", "prompt": prompt, "answer": answer, "corrupted_answer": f"{answer} rain", "task": "one",
              "kind": "completion",
              "perturbed_answer": [f"{word} {answer}" for word in ("figs", "maps")]}
             for i, (prompt, answer) in enumerate((p, a) for split in (known.forget, known.retain)
                                                  for p, a in zip(split.column("prompt"), split.column("answer"), strict=True))]
    loose = [{key: row[key] for key in row if key != "perturbed_answer"} for row in asked]
    task = language_model(known.original, known.tokenizer, asked[:8], asked[8:], others={"facts": loose, **dict.fromkeys(
        ("choices_forget", "cloze", "questions"), asked[:16])})
    return Subject("damaged", between(known, known.build(0), share=0.85), task), [], None


@cache
def drawings() -> tuple[Subject, list[Subject], Shadows | None]:
    task = remembering.digits()
    known, rng = task.original.images, torch.Generator().manual_seed(0)
    faint = remembering.Remembers(known + 0.6 * torch.randn(known.shape, generator=rng), task.alphas_cumprod)
    return Subject("faint", faint, task), [], None


@cache
def unet() -> tuple[Subject, list[Subject], Shadows | None]:
    task = tiny.diffusion()
    return Subject("some", half_way(task, 0), task), [], None


@cache
def shapes() -> tuple[Subject, list[Subject], Shadows | None]:
    task = remembering.coloured()
    return Subject("hidden", remembering.hidden(task), task), [], None


def world_of(make: Callable[[], Task]) -> World:
    """A model half way to an untrained one, beside no other: what a family's own audits see."""
    return cache(lambda: (Subject("some", half_way(make(), 0), make()), [], None))


WORLDS: dict[World, str] = {records: "classification", classes: "classification", numbers: "regression", texts: "lm", facts: "lm",
                            shapes: "diffusion", drawings: "diffusion", unet: "diffusion",
                            **{world_of(make): family for family, make in tiny.TASKS.items() if family not in tiny.BROAD}}
FEW = {"limit": 24, "retained": 24, "fewest": 5, "steps": 3, "rounds": 2, "resamples": 40, "permutations": 20, "models": 8,
       "canaries": 60, "examples": 12}
OTHERWISE: dict[str, dict[str, Any]] = {   # so many more that the option counts
    "calibration": {"limit": 120, "bins": 3}, "canary": {"canaries": 60, "fewest": 40}, "klom": {"limit": 24},
    "mia_efficacy": {"limit": 24, "fewest": 20}, "out_of_scope": {"examples": 12, "new_tokens": 40},
    "residual": {"radius": 0.5, "points": 2, "limit": 24}, "mia_diffusion": {"pairs": 2, "resamples": 40},
    "unlearndiffatk": {"rounds": 6, "steps": 8, "lr": 0.1, "batch_size": 8, "looks": 8, "per_prompt": 8},
    "blind_spots": {"steps": 40}, "ring_a_bell": {"population": 20, "generations": 6, "per_prompt": 8},
    "p4d": {"rounds": 2, "steps": 4, "batch_size": 4, "looks": 8, "pictures": 4, "per_prompt": 8}}

def short(name: str) -> dict[str, Any]:
    """Options of a measurement that takes a moment."""
    if name in OTHERWISE:
        return OTHERWISE[name]
    fields = dataclasses.fields(catalogue.load("audits", name).config)
    return {f.name: min(f.default, FEW.get(f.name, 8)) for f in fields
            if isinstance(f.default, int) and not isinstance(f.default, bool) and f.default > FEW.get(f.name, 8)}


@cache
def measured(name: str, world: World, options: tuple[tuple[str, Any], ...]) -> Values | str | None:
    """The reason where the audit refuses; None for values out of range."""
    audit = catalogue.load("audits", name)
    try:
        cfg = audit.config(**dict(options))
    except OutOfRange:
        return None
    some, references, shadows = world()
    task = some.task
    if why := applicable(audit, task, len(references), "deep", 8 if shadows else 0):
        return why
    panel = Panel(task, Subject("original", task.original, task, procedure=NOTHING), references, "deep", shadows=shadows)
    try:
        return {value.metric: value for value in audit.measure(cfg, some, panel)}
    except LetheError as error:
        return str(error)
    except AttributeError as error:
        if world not in (shapes, drawings):   # denoisers in closed form have no layers
            raise
        return str(error)


def differ(one: Values | str, other: Values | str, where: str) -> bool:
    """Whether numbers, intervals or counts differ by more than rounding (`detail`: what stands beside them)."""
    if isinstance(one, str) or isinstance(other, str) or one.keys() != other.keys():
        return one != other
    if where == "detail":
        return [str(v.detail) for v in one.values()] != [str(v.detail) for v in other.values()]
    return not all(_close(a, b) for metric in one for a, b in zip(_numbers(one[metric]), _numbers(other[metric]), strict=True))


def _numbers(value: Value) -> tuple[float | None, ...]:
    return value.value, value.low, value.high, value.n


def _close(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and (math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) or (a != a and b != b)))


def results(name: str, key: str, where: str) -> Iterator[tuple[Any, bool]]:
    entry = catalogue.entry("audits", name)
    option = next(o for o in entry.options if o.name == key)
    cls = catalogue.load("audits", name).config
    hint = typing.get_type_hints(cls, include_extras=True)[key]
    base = {**short(name), **companions(option.comment)}
    for world in (w for w, family in WORLDS.items() if entry.fits(family)):
        usual = measured(name, world, tuple(base.items()))
        for value in others(hint, base.get(key, default(cls, key)), option.comment) if usual is not None else ():
            other = measured(name, world, tuple({**base, key: value}.items()))
            if other is not None and not (isinstance(usual, str) and isinstance(other, str)):
                yield value, usual is not None and differ(other, usual, where)


def default(cls: type[Any], key: str) -> Any:
    return next(f.default for f in dataclasses.fields(cls) if f.name == key)


DRAWING = {"blind_spots", "p4d", "ring_a_bell", "unlearndiffatk"}   # they take seconds; other audits of drawings stand for them
OPTIONS = [pytest.param(name, option.name, id=f"{name}-{option.name}", marks=[pytest.mark.slow] if name in DRAWING else [])
           for name, entry in catalogue.entries("audits").items() for option in entry.options]


@pytest.mark.parametrize(("name", "key"), OPTIONS)
def test_another_value_gives_other_values(name: str, key: str) -> None:
    option = next(o for o in catalogue.entry("audits", name).options if o.name == key)
    cls = catalogue.load("audits", name).config
    base = {**short(name), **companions(option.comment)}
    counts(name, option, lambda where: results(name, key, where), base.get(key, default(cls, key)))

"""What comes in, looked at before work starts: each check is one file of `checks/` and yields findings in words.

    survey(plan)      every finding: `lethe check-model`, --dry-run
    attend(plan)      what run, compare and audit do first: errors end the command, warnings are said in short

A request may accept what a check calls an error: `accept: [score]`. It is a warning then.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Literal

import torch

from lethe.core.files import sweep
from lethe.errors import LetheError, RequestError, unknown_name
from lethe.work.door import checks
from lethe.work.open import Plan

Level = Literal["ok", "warn", "error"]


@dataclass(frozen=True)
class Finding:
    """What a check found.

    name      the check: the name of its file          level  error: nothing is started unless the request accepts it
    sentence  what is so, with numbers                 remedy what to write instead; empty where nothing is to be done
    cause     the error of which it tells, if it was raised
    """

    level: Level
    sentence: str
    remedy: str = ""
    name: str = ""
    cause: LetheError | None = field(default=None, compare=False)

    @property
    def words(self) -> str:
        """The sentence and what to do."""
        return f"{self.sentence} {self.remedy}".strip()

    @property
    def row(self) -> dict[str, str]:
        """As plain data."""
        return {"name": self.name, "level": self.level, "sentence": self.sentence, "remedy": self.remedy}


def names() -> list[str]:
    """The checks, in the order in which they are made: by their stage."""
    known = [found.name for found in pkgutil.iter_modules(checks.__path__)]
    return sorted(known, key=lambda name: (_module(name).STAGE, name))


def survey(plan: Plan) -> list[Finding]:
    """Every finding; what data or model are refused for is one, too, and ends the rest."""
    accepted, found = set(plan.job.accept), []
    for name in accepted - set(names()):
        raise unknown_name("check that a request can accept", name, names())
    for name in names():
        try:
            with torch.random.fork_rng(devices=[]):   # what is trained here leaves no trace in what is trained later
                found += [replace(one, name=name) for one in _module(name).check(plan)]
        except LetheError as error:
            if not any(one.level == "error" for one in found):   # else it tells of the same fault
                found.append(Finding("error", str(error), name=name, cause=error))
            break
    return [_accepted(one) if one.name in accepted else one for one in found]


def attend(plan: Plan) -> None:
    """Say the warnings; raise the errors, the first where one was raised by what it tells of. What commands that died have left
    half written in the cache goes."""
    assert plan.job.cache is not None
    sweep(plan.job.cache, everything=True)
    found = survey(plan)
    if (refusal := refused(found)) is not None:
        raise refusal
    for one in found:
        if one.level == "warn":
            plan.options.warn(one.words)


def refused(found: Sequence[Finding]) -> LetheError | None:
    """The error that ends the command; None when nothing speaks against it."""
    errors = [one for one in found if one.level == "error"]
    if not errors:
        return None
    first = errors[0]
    if first.cause is not None:
        return first.cause
    return RequestError("\n".join(f"{one.words} [check {one.name}; accept=[{one.name}] goes on all the same]" for one in errors))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{checks.__name__}.{name}")


def _accepted(one: Finding) -> Finding:
    return replace(one, level="warn", sentence=f"Accepted: {one.sentence}") if one.level == "error" and one.cause is None else one

"""Measurements of a method, audit or modifier, kept as JSON beside the code. No torch.

`measured/<name>.json` holds `Number`s, rebuilt by `lethe bench`, and `Note`s: measurements of another kind, in words.
Docstrings hold formulas, needs and limits; `lethe describe NAME` shows both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from lethe.core.files import write_text

HERE = Path(__file__).resolve().parents[1]


class Number(BaseModel):
    """One metric of one method on one problem."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    problem: str = Field(description="Suite and scenario, e.g. 'digits: one class'.")
    metric: str = Field(description="Name of the metric, as audits report it.")
    mean: float | None = Field(description="Mean over the seeds; none where every run failed.")
    sd: float | None = Field(description="Standard deviation over the seeds; none for a single seed.")
    seeds: int = Field(description="Runs that the mean is taken over.")
    failed: int = Field(default=0, description="Runs that ended with an error.")
    untouched: float | None = Field(default=None, description="The same metric of the untouched model.")
    retrained: float | None = Field(default=None, description="Mean over the retrained references.")
    command: str = Field(description="What was run.")
    commit: str = Field(description="Revision that was run.")


class Reason(BaseModel):
    """Why runs of one problem ended otherwise than the method meant."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    problem: str = Field(description="Suite and scenario, e.g. 'digits: one class'.")
    kind: Literal["failed", "ended", "unchanged", "cannot run", "unsure"] = Field(
        description="failed: an error; ended: by the watchdog, at the last sound point; unchanged: nothing was; cannot run: the "
                    "problem lacks what the method needs; unsure: the method's own end, but the watchdog could not tell whether "
                    "too much was lost.")
    seeds: tuple[int, ...] = Field(description="The seeds of the originals whose runs ended so.")
    text: str = Field(description="The reason of the first of them, in the words of the run.")


class Note(BaseModel):
    """Measurements that no suite repeats, in words."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    text: str = Field(description="What was measured, on what, over how many seeds.")
    commit: str = Field(description="Revision at which it was measured.")


class Measured(BaseModel):
    """All that was measured of one method, audit or modifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: int = Field(default=1, alias="schema", description="Version of this format.")
    name: str = Field(description="Name of the method, audit or modifier.")
    numbers: tuple[Number, ...] = Field(default=(), description="By problem and metric; rebuilt by lethe bench.")
    notes: tuple[Note, ...] = Field(default=(), description="Measurements in words.")
    reasons: tuple[Reason, ...] = Field(default=(), description="Why runs ended early, by problem; rebuilt by lethe bench.")


def folder() -> Path:
    """Where the files lie: in the installed package, else beside it in the repository."""
    inside = HERE / "measured"
    return inside if inside.is_dir() else HERE.parent / "measured"


def read(name: str, place: Path | None = None) -> Measured:
    """What was measured of this name; empty when nothing was. place: the folder, when it is not the usual one."""
    path = (place or folder()) / f"{name}.json"
    return Measured.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else Measured(schema=1, name=name)


def replaced(known: Measured, problem: str, numbers: tuple[Number, ...], reasons: tuple[Reason, ...] = ()) -> Measured:
    """The same with all numbers and reasons of one problem replaced."""
    others = tuple(number for number in known.numbers if number.problem != problem)
    both = sorted((*others, *numbers), key=lambda number: (number.problem, number.metric))
    why = sorted((*(one for one in known.reasons if one.problem != problem), *reasons), key=lambda one: (one.problem, one.kind))
    return known.model_copy(update={"numbers": tuple(both), "reasons": tuple(why)})


def write(measured: Measured, place: Path | None = None) -> Path:
    """Write the file of this name atomically; equal content gives equal bytes."""
    path = (place or folder()) / f"{measured.name}.json"
    data = measured.model_dump(by_alias=True)
    if not measured.reasons:
        data.pop("reasons")
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    return path

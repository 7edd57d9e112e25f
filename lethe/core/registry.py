"""`@method` and `@audit`: one decorated function per file is the whole registration.

The name is the file's name. Several that differ by a formula only share a file: each is then a function of its own name, with
its own docstring. `lethe.core.catalogue` finds the files; there is no list to edit.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lethe.core.evidence import Aspect, Better, Objective, Tier

Mechanism = Literal["ascent", "relabel", "distil", "mask", "noise", "features", "closed form", "merge", "tuning", "exact",
                    "guard", "search"]
MECHANISMS: dict[Mechanism, str] = {   # what drives the forgetting
    "ascent": "Raises the loss on the forgotten data, plainly, up to a bound or towards that of unseen data.",
    "relabel": "Teaches other targets for the forgotten inputs.",
    "distil": "Imitates a teacher that does not know the forgotten data, or the original with that knowledge taken out.",
    "mask": "Shrinks, prunes or throws away the weights or units that carry the forgotten data.",
    "noise": "Adds noise to weights or inputs, so that what was learned from the forgotten data drowns in it.",
    "features": "Moves what the model computes inside (features, hidden states, sensitivities) instead of its answers.",
    "closed form": "Solves for the new weights: a projection, a Newton step or least squares, without training steps.",
    "merge": "Adds and subtracts differences of weights between models.",
    "tuning": "Trains on retained data alone, all weights or some, and relies on the rest to fade.",
    "exact": "Returns what training without the forgotten data would have returned.",
    "guard": "Leaves the weights and filters inputs or answers when the model is asked.",
    "search": "Chooses among the other methods, for the whole forget set or for parts of it.",
}


@dataclass(frozen=True)
class Method:
    """A published idea: a frozen config and a procedure `run(cfg, task, loop) -> Outcome`."""

    name: str
    config: type
    run: Callable[..., Any]
    needs: frozenset[str]
    uses: frozenset[str]
    mechanism: Mechanism
    doc: str
    instead: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Any, Any], None] | None = None   # (cfg, task) -> raises what can be known before any work
    judged: bool = True   # by the watchdog


@dataclass(frozen=True)
class Metric:
    """One number that an audit reports. `better` is 'match' (the retrained value is the target), 'lower' or 'higher'.

    tier  what it is evidence of: forgetting | utility | cost
    null  value of a model that never saw the data, where one is known without retraining (0.5 for an AUC)
    distance  measures how far from retraining, not in which direction
    moves  with how long or well a model was trained, as losses do; it then shows no direction where utility differs
    margin  equivalence margin declared before any model is seen: a difference from retraining that does not matter
    aspect  what it examines: behaviour | representation | recovery; a model that passes one and fails another only hides
    asks  what it needs beyond the audit's own needs, in words; the report states it when the metric could not be computed
    """

    definition: str
    range: tuple[float, float] = (0.0, 1.0)
    better: Better = "match"
    tier: Tier = "forgetting"
    version: int = 1
    null: float | None = None
    distance: bool = False
    moves: bool = False
    asks: str = ""
    margin: float | None = None
    aspect: Aspect = "behaviour"


@dataclass(frozen=True)
class Audit:
    """A measurement `measure(cfg, subject, panel) -> list[Value]` of one model, with the metrics that it reports."""

    name: str
    config: type
    measure: Callable[..., Any]
    needs: frozenset[str]
    uses: frozenset[str]
    depth: str
    metrics: dict[str, Metric]
    blind: str
    doc: str
    trains: Callable[[Any, Any, int, str], Any] | None = None   # (cfg, shadows, seed, depth) -> pools.pool.Wanted of its own

    @property
    def compares(self) -> bool:
        """Whether what it measures of a model depends on retrained ones, which others may be."""
        return any(need.rstrip("?") in ("reference", "references") for need in self.needs)


@dataclass(frozen=True)
class Family:
    """How a kind of model comes in: `open(sections, context) -> Opened`, and the config classes of `model:` and `data:`.

    method      the one that is run where a request names none
    files       (SavedFiles) -> (model -> Task, path -> model), where models can be audited from files alone
    recognises  whether a path holds a model of this family, by its names alone
    """

    name: str
    model: type
    data: type
    open: Callable[..., Any]
    doc: str
    method: str = "finetune"
    files: Callable[..., Any] | None = None
    recognises: Callable[[Path], bool] | None = None


def family(*, model: type, data: type, method: str = "finetune", make: str = "", asks: Sequence[tuple[str, ...]] = (),
           about: Objective = "records", marks: str = "", files: Callable[..., Any] | None = None,
           recognises: Callable[[Path], bool] | None = None) -> Callable[[Callable[..., Any]], Family]:
    """Register `open_request(sections, context) -> Opened` of `models/<family>/open.py`; the folder's name is the family's.

    model, data  config classes of these parts of a request; `lethe describe FAMILY` lists their options
    method       what a request of this family that names no method runs
    make         the function of the file that makes a task in Python: `lethe.<make>`
    asks         what `lethe init` asks: (key of the request, question), or (…, …, usual answer), and then the method; none: by
                 the options there are
    about        what a request is about that does not say it; a behaviour only where models cannot be retrained
    marks        a file by which a model.folder tells that it is of this family, so that a request need not name it, nor have
                 data; 'file: pattern' where the file's text must hold it. Of these five the literals are read from the source
    files        makes a task of saved models and data files, for audits without a request
    recognises   whether a path holds a model of this family: then such an audit need not be told the family
    """

    def wrap(open_request: Callable[..., Any]) -> Family:
        *_, folder, file = open_request.__module__.split(".")
        return Family(folder if file == "open" else file, model, data, open_request,
                      inspect.getdoc(inspect.getmodule(open_request)) or "", method, files, recognises)

    return wrap


def method(*, needs: Iterable[str], uses: Iterable[str], mechanism: Mechanism, instead: Mapping[str, str] | None = None,
           check: Callable[[Any, Any], None] | None = None, judged: bool | None = None
           ) -> Callable[[Callable[..., Any]], Method]:
    """Register `run(cfg: Config, task, loop) -> Outcome`.

    needs     what the Task hands out: forget, retain, holdout, test, original, recipe; a '?' makes it optional
    uses      operations of the family that it calls (`lethe.core.families`): nll, outputs, relabel, …; it fits every family
              that provides them all, and its view hands out no other
    mechanism what drives the forgetting: one of MECHANISMS
    instead   optional needs that can be left out only when options are set: {"retain": "scale=1"}; several: "a=1 b=2"
    check     (cfg, task): raises what is wrong with the options, before any work
    judged    whether the watchdog judges what it ends with; None: all but exact methods, for what retraining loses is no fault
    """

    def wrap(run: Callable[..., Any]) -> Method:
        name, cfg, doc = _identity(run)
        return Method(name, cfg, run, frozenset(needs), frozenset(uses), mechanism, doc, instead or {}, check,
                      mechanism != "exact" if judged is None else judged)

    return wrap


def audit(
    *, metrics: dict[str, Metric], uses: Iterable[str], needs: Iterable[str] = (), depth: str = "quick", blind: str,
    trains: Callable[[Any, Any, int, str], Any] | None = None,
) -> Callable[[Callable[..., Any]], Audit]:
    """Register `measure(cfg: Config, subject, panel) -> list[Value]`.

    metrics   every value it may report; a name ending in '*' stands for a group ('*' replaced by a split or label)
    uses      operations of the family that it calls, and what it reads of a batch (`lethe.core.families`): it fits every
              family that provides them all; `observe` is enough for what `subject.seen` holds in every family
    needs     splits, and where they are indispensable: 'original', 'recipe', 'references' (retrained models), 'reference' (one),
              'shadows', 'procedure' (the subject can be made again)
    depth     the first depth at which it runs: quick | standard | deep
    blind     what it cannot see, in one sentence; printed in every report
    trains    (cfg, shadows, seed, depth) -> the pools of models that it takes from `shadows`, where these are other than
              `cfg.models` shadows (and, with 'procedure', as many retrained ones): `lethe pool` trains them ahead
    """

    def wrap(measure: Callable[..., Any]) -> Audit:
        name, cfg, doc = _identity(measure)
        return Audit(name, cfg, measure, frozenset(needs), frozenset(uses), depth, metrics, blind, doc, trains)

    return wrap


def _identity(function: Callable[..., Any]) -> tuple[str, type, str]:
    module = inspect.getmodule(function)
    first = next(iter(inspect.signature(function).parameters))
    cfg = typing.get_type_hints(function)[first]
    if function.__name__ not in ("run", "measure"):
        return function.__name__, cfg, inspect.getdoc(function) or ""
    name = function.__module__.rsplit(".", 1)[-1]
    return name, cfg, inspect.getdoc(module) or ""

"""The request: one flat YAML file: what to forget from which model, how, and how the result is judged.

    lethe run request.yaml method=salun method.lr=0.01 seed=3

Order of precedence: the file, then the command line. Environment variables never change a result. No torch here, so that
a wrong request fails in milliseconds.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from lethe.core.catalogue import Entry, entries, entry
from lethe.core.config import Natural, Positive, build, config, digest, plain
from lethe.core.evidence import Depth, Objective
from lethe.core.places import PLACED, located
from lethe.core.strict_yaml import parse_yaml, read_yaml
from lethe.core.user_files import exists
from lethe.errors import RequestError, UnknownKey, nearest
from lethe.pools.backends import Strategy
from lethe.results.ladder import Until
from lethe.results.policy import Policy, load

ALL = "all"   # instead of a method: every one that can run on the task (see `train.apply.everything`)


MOST = 1000   # combinations of the options of a method, and seeds
Repeats = Annotated[int, Field(ge=1, le=MOST)]


class Counts(NamedTuple):
    """How many models of each kind judge."""

    references: int
    shadows: int
    neighbours: int


LARGE = 300_000_000          # weights above which a model is large: forgetting takes 2 % of the wait, judging the rest    [ours]
USUAL, FEW = Counts(8, 16, 8), Counts(2, 0, 2)


@config(name="audit")
class AuditPlan:
    """How results are judged."""

    depth: Depth = "standard"               # how many audits: each names the depth from which it runs
    references: Natural | None = None       # retrained models that form the yardstick, 0: none; null: 8, of a large model 2
    shadows: Natural | None = None          # most shadow models that an audit may train; null: 16, 0 if large or references=0
    audits: tuple[Any, ...] = ()            # names or {name: …, option: …}; empty: every applicable one
    strategy: Strategy = "auto"             # how many models are trained: auto, or a file of lethe/pools/backends
    neighbours: Natural | None = None       # noisy copies of the original, where none is retrained; null: 8, of a large model 2
    margins: Mapping[str, Positive] = field(default_factory=dict)   # metric -> difference from retraining that does not matter
    max_loss: Positive | None = None        # loss of score that does not matter; none: 0.01 where < 1 % is forgotten, else 0.03

    def counts(self, weights: int = 0) -> Counts:
        """How many models judge one of so many weights: what was asked, else the usual numbers."""
        usual = FEW if weights > LARGE else USUAL
        if self.references == 0:
            usual = usual._replace(shadows=0)
        asked = (getattr(self, name) for name in Counts._fields)
        return Counts(*(most if count is None else count for most, count in zip(usual, asked, strict=True)))


@config
class Request:
    """The whole request. `family` decides how `model` and `data` are read; `lethe describe FAMILY` lists their options."""

    family: str                                            # lethe describe families
    model: Mapping[str, Any]                               # where the model comes from
    data: Mapping[str, Any]                                # where the data come from
    title: str = ""
    forget: Any = None                # selection: {label: 3}, {fraction: 0.1}, {worst_case: {count: 60}}, {concept: Van Gogh}, …
    scenarios: Mapping[str, Any] = field(default_factory=dict)   # name -> {forget: …}: several requests on one model
    recipe: Mapping[str, Any] | None = None                # how the model was (or is to be) trained
    objective: Objective | None = None       # what is to go; none: concept for image generators, behaviour for lm without recipe
    method: Any = None        # name, {name: …, option: …}, a list of these, or all; none: the family's usual one
    until: Until | None = None         # climb a ladder of methods until the model is …, in place of `method` (lethe run --until)
    within: Positive = 0.3             # with until: what all of its runs may cost, 1 is one retraining
    policy: str | None = None          # file of a policy of lethe calibrate, by which to run in place of `method`
    audit: AuditPlan = field(default_factory=lambda: AuditPlan())
    settings: Mapping[str, Any] = field(default_factory=dict)    # lethe.train.loop.Settings
    modifiers: Mapping[str, Any] = field(default_factory=dict)   # where, combine, perturb, average, weigh
    watchdog: Mapping[str, Any] | bool | None = None          # lethe.train.watchdog.Watchdog; false: none; null: the usual one
    seed: int = 0
    seeds: Repeats = 1                                     # repetitions of every method, with seeds seed, seed + 1, …
    output: str = "runs"                                   # folder of run folders, in the working folder
    accept: tuple[str, ...] = ()                           # checks of lethe check-model whose errors do not end the command

    @property
    def methods(self) -> list[dict[str, Any]]:
        """The requested methods, each as {name: …, option: …}."""
        given = self.method if isinstance(self.method, (list, tuple)) else [self.method]
        return [one for m in given for one in ([{"name": m}] if isinstance(m, str) else _grid({"name": _name("method", m), **m}))]

    @cached_property
    def asked(self) -> tuple[tuple[Entry | None, dict[str, Any]], ...]:
        """The catalogue's entry of each method, with its options; None stands for `all`."""
        return tuple((None if one.get("name") == ALL else entry("methods", _name("method", one)), _options(one))
                     for one in self.methods)

    @cached_property
    def asked_audits(self) -> tuple[tuple[Entry, dict[str, Any]], ...]:
        """The catalogue's entry of each audit that is requested by name, with its options."""
        given = [{"name": one} if isinstance(one, str) else one for one in self.audit.audits]
        return tuple((entry("audits", _name("audit", one)), _options(one)) for one in given)

    @cached_property
    def calibrated(self) -> Policy | None:
        """The policy that the request runs by, read from its file."""
        return None if self.policy is None else load(self.policy)

    @property
    def cases(self) -> dict[str, Any]:
        """Scenario name -> forget selection; one unnamed scenario when there are none."""
        if self.scenarios:
            return {name: (case or {}).get("forget") for name, case in self.scenarios.items()}
        return {"": self.forget}

    @property
    def hash(self) -> str:
        """Names the run: equal effective requests have equal hashes. Where the output goes and what is accepted do not matter."""
        content = plain(self)
        for key in ("output", "accept"):
            content.pop(key)
        return digest(content)


SHORTLY = {"keep": "data", "where": "modifiers"}   # what may stand at the top of a request, and where it belongs
SHORT = "scratch"   # the same short training from scratch: what a cheap method with a recipe has to beat


def beside_scratch(request: Request) -> Request:
    """A comparison of several methods with a recipe, and beside them training from scratch by a shorter schedule."""
    names = [one.get("name") for one in request.methods]
    recipe = request.recipe
    if len(names) < 2 or {SHORT, ALL} & set(names) or recipe is None or recipe.get("code") or request.until or request.policy:
        return request
    return replace(request, method=[*request.methods, SHORT]) if entry("methods", SHORT).fits(request.family) else request


def read(path: str | Path, overrides: Sequence[str] = ()) -> Request:
    """A request from a YAML file and `key.sub=value` overrides (values are YAML). Checks names and options."""
    path = Path(path)
    content = read_yaml(path, "the name of the request, e.g. presets/demo.yaml")
    if not isinstance(content, dict):
        raise RequestError(f"{path} holds no request (a YAML mapping), so nothing was started. See presets/ for examples.")
    return parse(content, overrides, base=path.parent)


def parse(content: Mapping[str, Any], overrides: Sequence[str] = (), base: Path = Path(".")) -> Request:
    """A checked request from a mapping. Paths become absolute: what exists beside the request is meant, else what exists in the
    working folder; of an override the other way round."""
    here = Path.cwd()
    written = {key: located(value, (base, here)) if key in PLACED else value for key, value in _foldered(content).items()}
    merged = in_full(overridden(written, overrides))
    merged = {key: located(value, (here, base)) if key in PLACED else value for key, value in merged.items()}
    if merged.get("method") is None and (family := entries("families").get(str(merged.get("family")))) is not None:
        merged["method"] = family.usual
    if isinstance(merged.get("audit"), Mapping):
        merged["audit"] = build(AuditPlan, merged["audit"])
    for key in ("family", "model", "data"):
        if key not in merged:
            raise RequestError(f"the request has no {key!r}{_untold(merged)}, so nothing was started. Required: family, model, "
                               "data.")
    request = build(Request, merged)
    _check(request)
    return request


def in_full(content: Mapping[str, Any]) -> dict[str, Any]:
    """What may be written shortly, written out: `model: ./my-sd15` is {folder: ./my-sd15}, `keep: […]` is data.keep, `where:
    lora` is modifiers.where, and a folder that tells its family (`marks=` of a registration) needs none named: one with a
    model_index.json is of diffusion, one whose config.json names a …ForCausalLM is a language model."""
    full = _foldered(content)
    for key, place in SHORTLY.items():
        if key in full:
            inner, said = full.get(place) or {}, full.pop(key)
            if not isinstance(inner, Mapping) or (key in inner and inner[key] != said):
                raise RequestError(f"{key} and {place}.{key} both say it, and differ; nothing was started. Leave one of them "
                                   "out.")
            full[place] = {**inner, key: said}
    folder = full["model"].get("folder") if isinstance(full.get("model"), Mapping) else None
    for name, family in entries("families").items():
        mark = family.facts.get("marks")
        if mark and isinstance(folder, str) and _tells(Path(folder), mark):
            full.setdefault("family", name)
            full.setdefault("data", {})
    return full


def _tells(folder: Path, mark: str) -> bool:
    """Whether the folder holds the file that a mark names and, where a pattern stands behind a colon, that in its text."""
    name, _, pattern = mark.partition(": ")
    if not exists(folder / name):
        return False
    try:
        return not pattern or re.search(pattern, (folder / name).read_text(encoding="utf-8")) is not None
    except (OSError, ValueError):   # what is wrong with it is said where the model is read
        return False


def _untold(content: Mapping[str, Any]) -> str:
    """Why the model does not tell its family, where it is a path that nothing names a family beside; else empty."""
    model = content.get("model")
    folder = model.get("folder") if isinstance(model, Mapping) else None
    if "family" in content or not isinstance(folder, str):
        return ""
    told = [str(family.facts["marks"]).partition(": ") for family in entries("families").values() if family.facts.get("marks")]
    marks = " or ".join(f"{name} of a …{word.split('|')[0]}" if word else name for name, _, word in told)
    if not exists(Path(folder)):
        return f", and its model {folder!r} does not exist"
    if Path(folder).is_file():
        return (f", and its model {folder!r} is one file, which does not tell it: beside a diffusion pipeline in one file "
                "stands a folder of its kind, model: {file: …, folder: …}")
    return f", and the folder {folder!r}, without {marks}, does not tell it"


def _foldered(content: Mapping[str, Any]) -> dict[str, Any]:
    model = content.get("model")
    return {**content, "model": {"folder": model}} if isinstance(model, str) else dict(content)


def _check(request: Request) -> None:
    if request.until is not None and request.policy is not None:
        raise RequestError("until climbs a ladder, and policy names the method, so both cannot be; nothing was started. Leave "
                           "out one of them.")
    families = entries("families")
    if request.family not in families:
        raise RequestError(f"family {request.family!r} is not known{nearest(request.family, families)}, so nothing was started. "
                           f"Families: {', '.join(families)}.")
    _check_selections(request)
    for found, options in request.asked:
        if found is None:
            _check_options("method all", options, [], "name the methods to give them options")
            continue
        if not found.fits(request.family):
            fitting = [name for name, other in entries("methods").items() if other.fits(request.family)]
            raise RequestError(f"method {found.name!r} is made for {', '.join(found.families)}, not for {request.family}; "
                               f"nothing was started. lethe methods --family {request.family} lists those that fit: "
                               f"{', '.join(sorted(fitting))}.")
        _check_options(f"method {found.name}", options, [o.name for o in found.options], f"lethe describe {found.name}")
    for found, options in request.asked_audits:
        _check_options(f"audit {found.name}", options, [o.name for o in found.options], f"lethe describe {found.name}")


def _check_selections(request: Request) -> None:
    """Every scenario says what it forgets, and nothing else does."""
    if "" in request.scenarios:
        raise RequestError("a scenario without a name could not be told from the whole request; nothing was started. Name it.")
    for name, case in request.scenarios.items():
        if case is not None and not isinstance(case, Mapping):
            raise RequestError(f"scenario {name!r} is {str(case)[:40]!r}, which says nothing of what to forget; nothing was "
                               f"started. Write scenarios: {{{name}: {{forget: {{label: 3}}}}}}.")
        if other := next((key for key in case or {} if key != "forget"), None):
            raise UnknownKey(f"scenario {name!r} has {other!r}, and a scenario says only what it forgets, so it would have no "
                             f"effect; nothing was started. Write scenarios: {{{name}: {{forget: …}}}}, and beside them what all "
                             "share.")
    if request.scenarios and request.forget is not None:
        raise RequestError("forget: and scenarios: both say what to forget, and scenarios have their own, so it is not clear "
                           "which is meant; nothing was started. Leave forget out, or make it a scenario of its own.")
    for selection in request.cases.values():
        if selection is not None and not isinstance(selection, Mapping):
            raise RequestError(f"forget: {str(selection)[:60]} does not say by what records are chosen, so nothing was started. "
                               f"{_chosen(selection, request.family)}")


def _chosen(selection: Any, family: str) -> str:
    """What to write in place of a selection that is no mapping: a file, names of records, words."""
    options = {option.name for option in entries("families")[family].sections["data"].options}
    if "forget" in options and isinstance(selection, str) and (Path(selection).suffix or exists(Path(selection))):
        return f"A file of records to forget is named in the data: data: {{train: …, forget: {selection}}}."
    if "concept" in options:
        return f"Write forget: {{concept: {selection}}}."
    names = selection if isinstance(selection, (list, tuple)) else [selection]
    shown = ", ".join(map(str, names[:3])) + (", …" if len(names) > 3 else "")
    return f"Write forget: {{ids: [{shown}]}}, {{label: …}}, {{fraction: 0.1}}, {{query: …}}; lethe describe forget lists all."


def _grid(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """One method for every combination of options that are given as lists, except those that are lists by nature."""
    found = entries("methods").get(str(asked.get("name")))
    kinds = {option.name: option.type for option in found.options} if found else {}
    whole = {name for name in asked if any(word in kinds.get(name, "Any") for word in ("tuple", "Sequence", "Any"))}
    lists = {key: value for key, value in asked.items() if isinstance(value, list) and value and key not in whole | {"name"}}
    if (count := math.prod(map(len, lists.values()))) > MOST:
        raise RequestError(f"the lists of method {asked.get('name')} make {count:,} combinations and at most {MOST:,} are tried; "
                           "nothing was started. Shorten them.")
    return [{**asked, **dict(zip(lists, values, strict=True))} for values in itertools.product(*lists.values())]


def _name(kind: str, asked: Mapping[str, Any]) -> str:
    if not isinstance(asked, Mapping) or not isinstance(asked.get("name"), str):
        example = "{name: salun, lr: 0.01}" if kind == "method" else "{name: relearn, epochs: 1}"
        raise RequestError(f"{kind} {asked} has no name, so nothing was started. Write {kind}: {example}.")
    return str(asked["name"])


def _options(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in asked.items() if key != "name"}


def _check_options(owner: str, asked: Mapping[str, Any], known: list[str], remedy: str) -> None:
    for key in asked:
        if key not in known:
            raise UnknownKey(f"{key!r} is not an option of {owner}{nearest(key, known)}, so nothing was started. "
                             f"Options: {', '.join(known) or 'none'}; see {remedy}.")


def overridden(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`content` with every `key.sub=value` put in."""
    known = [*(f.name for f in dataclasses.fields(Request)), *SHORTLY]
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign:
            raise RequestError(f"{text!r} is not key=value, so nothing was started. Write for instance method.lr=0.01.")
        parsed = parse_yaml(value, f"the value of {key}")
        steps = key.split(".")
        if steps[0] not in known:
            raise UnknownKey(f"{steps[0]!r} is not part of a request{nearest(steps[0], known)}, so nothing was started. "
                             f"Parts: {', '.join(known)}.")
        place: dict[str, Any] = content
        for step in steps[:-1]:
            inner = place.get(step)
            if isinstance(inner, str):
                inner = {"name": inner}
            elif isinstance(inner, (list, tuple)):
                raise RequestError(f"{key!r} cannot be set: {step} is a list of {len(inner)}; nothing was started. "
                                   f"Write the whole list: {step}=[…].")
            elif inner is not None and not isinstance(inner, Mapping):
                raise RequestError(f"{key!r} cannot be set: {step} is {str(inner)[:40]}, which has no parts; nothing was "
                                   f"started. Write {step} as a mapping first.")
            place[step] = dict(inner or {})
            place = place[step]
        place[steps[-1]] = parsed
    return content

"""Everything that has a name and a file: methods, audits, families, modifiers, sources of data, benchmarks, models of the zoo.

One file is the whole registration, and its place determines the kind (`KINDS`); methods that differ by a formula alone share
one. Files are read, not imported, so a listing costs no torch. Another package adds its own through an entry point of the
group `lethe.<kind>`, whose value is a module; a modifier's entry point is called `seam.member`. Names are unique: two files of
one name are an error that names both.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, overload

from lethe.core.families import provided
from lethe.core.registry import Audit, Family, Method
from lethe.core.source_text import HOUSE, Option, Record, Source, decorator, located
from lethe.errors import NameClash, RequestError, unknown_name

Kind = Literal["methods", "audits", "families", "modifiers", "sources", "published", "zoo"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Entry:
    """What the source file of a named thing declares."""

    kind: Kind
    name: str                      # of a modifier: seam.member
    module: str
    path: Path
    declares: str                  # what the module calls it: the decorated function, the class of a modifier, the factory
    doc: str
    config: str                    # name of the config class or of the factory
    options: tuple[Option, ...]
    facts: dict[str, Any] = field(default_factory=dict)  # literal keyword arguments of the decorator, or constants
    sections: Mapping[str, Record] = field(default_factory=dict)   # of a family: its config of `model:` and of `data:`
    origin: str = ""               # the entry point and package that it comes from; empty for our own files

    @property
    def title(self) -> str:
        """The first sentence of the docstring: what it does, without the source."""
        paragraph = " ".join(self.doc.strip().split("\n\n")[0].split())
        return re.split(r"(?<!e\.g\.)(?<!i\.e\.)(?<=[.?!])\s", paragraph, maxsplit=1)[0]

    @property
    def needs(self) -> list[str]:
        return sorted(self.facts.get("needs", ()))

    @property
    def usual(self) -> str:
        """Of a family: the method that is run where a request names none."""
        return str(self.facts.get("method", "finetune"))

    @property
    def instead(self) -> dict[str, str]:
        """Optional needs of a method that only an option makes superfluous: need -> option=value."""
        found: dict[str, str] = self.facts.get("instead", {})
        return found

    @property
    def uses(self) -> frozenset[str]:
        """Operations of the family that a method or an audit calls."""
        return frozenset(self.facts.get("uses", ()))

    @property
    def mechanism(self) -> str:
        """What drives the forgetting, of a method."""
        return str(self.facts.get("mechanism", ""))

    @property
    def families(self) -> list[str]:
        """Families that it fits: those that provide all it uses."""
        return sorted(family for family, operations in provided().items() if self.uses <= operations)

    def fits(self, family: str) -> bool:
        """Whether it runs on this family."""
        return family in self.families


# -- look-up ------------------------------------------------------------------------------------------------------------


@cache
def entries(kind: Kind) -> dict[str, Entry]:
    """All entries of a kind by name; a modifier's name is `seam.member`. NameClash when two files have one name."""
    return discover(kind, HOUSE, entry_points(group=f"lethe.{kind}"))


def entry(kind: Kind, name: str) -> Entry:
    """One entry; an unknown name is an error that proposes the nearest."""
    known = entries(kind)
    if name in known:
        return known[name]
    short = [found for found in known.values() if kind == "modifiers" and found.name.split(".")[1] == name]
    if len(short) == 1:
        return short[0]
    command = kind if kind in ("methods", "audits") else f"describe {kind}"
    raise unknown_name(LAYOUT[kind].noun, name, known, f"See them with: lethe {command}.")


def find(name: str) -> Entry:
    """A method or an audit by its name."""
    known = {**entries("audits"), **entries("methods")}
    if name not in known:
        raise unknown_name("method or audit", name, known, "See lethe methods and lethe audits.")
    return known[name]


@overload
def load(kind: Literal["methods"], name: str) -> Method: ...
@overload
def load(kind: Literal["audits"], name: str) -> Audit: ...
@overload
def load(kind: Literal["families"], name: str) -> Family: ...
@overload
def load(kind: Literal["modifiers"], name: str) -> type: ...
@overload
def load(kind: Literal["sources", "published"], name: str) -> ModuleType: ...
@overload
def load(kind: Literal["zoo"], name: str) -> Callable[..., Any]: ...
def load(kind: Kind, name: str) -> Any:
    """The object behind a name; imports its module: a `Method`, `Audit` or `Family`, the class of a modifier, the module of a
    source, the factory of a model."""
    return record(entry(kind, name))


def record(found: Entry) -> Any:
    """The object that an entry names, see `load`."""
    module = importlib.import_module(found.module)
    return getattr(module, found.declares) if found.declares else module


def config_class(kind: Kind, name: str) -> Any:
    """The config class of this name, e.g. `SalUn`: what `lethe.methods.SalUn` is."""
    found = [one for one in entries(kind).values() if one.config == name]
    if len(found) > 1:
        raise clash(f"{kind[:-1]} configs", name, found[0], found[1])
    if not found:
        raise AttributeError(f"module 'lethe.{kind}' has no {kind[:-1]} config {name!r}")
    return getattr(importlib.import_module(found[0].module), name)


# -- discovery ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a file registers: the fields of its `Entry` that its text gives."""

    name: str
    declares: str
    record: Record                                                # config or factory
    facts: dict[str, Any] = field(default_factory=dict)
    sections: Mapping[str, Record] = field(default_factory=dict)
    doc: str = ""                                                 # where it is not the file's


@dataclass(frozen=True)
class Layout:
    """Where the files of a kind stand, and what in a file registers."""

    noun: str
    folder: str                                                   # below the house
    pattern: str                                                  # of the files in it
    read: Callable[[Source], list[Found]]


def discover(kind: Kind, house: Path, points: Iterable[EntryPoint] = ()) -> dict[str, Entry]:
    """The entries of a kind in the files of a house and behind entry points; nothing is kept for the next call."""
    found: dict[str, Entry] = {}
    for one in (*_files(kind, house), *_plugins(kind, points)):
        other = found.get(one.name)
        if other is not None and other.path.resolve() != one.path.resolve():
            raise clash(kind if kind != "zoo" else "models of the zoo", one.name, other, one)
        found.setdefault(one.name, one)
    return found


def clash(what: str, name: str, first: Entry, second: Entry) -> NameClash:
    """The error for two files of one name."""
    places = [f"{one.path}{f' ({one.origin})' if one.origin else ''}" for one in (first, second)]
    remedy = "Rename one of the files" + (", or uninstall the package." if first.origin or second.origin else ".")
    return NameClash(f"two {what} are named {name!r}: {places[0]} and {places[1]}, so it is not clear which one is meant. "
                     f"{remedy}")


def _files(kind: Kind, house: Path) -> Iterator[Entry]:
    layout = LAYOUT[kind]
    for path in sorted((house / layout.folder).glob(layout.pattern)):
        if not path.name.startswith("_"):
            yield from _read(kind, Source.of(path, "lethe." + ".".join(path.relative_to(house).with_suffix("").parts)))


def _plugins(kind: Kind, points: Iterable[EntryPoint]) -> Iterator[Entry]:
    for point in sorted(points, key=lambda p: (p.name, p.value)):
        owner = f"entry point lethe.{kind} {point.name!r}" + (f" of {point.dist.name}" if point.dist is not None else "")
        source = located(point.module)
        if source is None:
            raise RequestError(f"{owner} names the module {point.module!r}, which cannot be found, so {kind} cannot be listed. "
                               "Repair or uninstall that package.")
        if kind == "modifiers" and point.name.split(".")[0] not in SEAMS:
            raise RequestError(f"{owner} is not called seam.member, so it is not clear where the modifier belongs. Seams: "
                               f"{', '.join(SEAMS)}.")
        found = list(_read(kind, source, owner))
        if not found:
            raise RequestError(f"{owner} names {source.path}, which registers nothing ({LAYOUT[kind].noun}), so {kind} cannot be "
                               "listed. Repair or uninstall that package.")
        yield from [replace(one, name=point.name) for one in found] if kind == "modifiers" else found


def _read(kind: Kind, source: Source, origin: str = "") -> Iterator[Entry]:
    for one in LAYOUT[kind].read(source):
        yield Entry(kind, one.name, source.module, source.path, one.declares, one.doc or source.doc, one.record.name,
                    one.record.options, one.facts, one.sections, origin)


# -- what registers a file of each kind --------------------------------------------------------------------------------

SEAMS = ("where", "combine", "perturb", "average", "weigh")   # the questions of the loop; a member answers one of them


def _decorated(function: str, decorator_name: str) -> Callable[[Source], list[Found]]:
    """A file with functions that carry the decorator; the first argument of each is annotated with its config class. The one
    that is called `function` has the file's name and docstring, another its own."""

    def read(source: Source) -> list[Found]:
        return [one for node in source.tree.body if isinstance(node, ast.FunctionDef) and (one := registered(source, node))]

    def registered(source: Source, node: ast.FunctionDef) -> Found | None:
        facts = decorator(node, decorator_name)
        if facts is None:
            return None
        cfg, own = _text(node.args.args[0].annotation), node.name != function
        return Found(node.name if own else source.path.stem, node.name, source.record(cfg) or Record(cfg, "", ()), facts,
                     doc=(ast.get_docstring(node) or "") if own else "")

    return read


def _family(source: Source) -> list[Found]:
    """A file with `@family(model=…, data=…)` over `open_request`."""
    node = source.function("open_request")
    facts = decorator(node, "family") if node is not None else None
    if facts is None:
        return []
    found = {key: source.record(facts[key]) for key in ("model", "data") if key in facts}
    sections: dict[str, Record] = {key: record for key, record in found.items() if record is not None}
    name = source.path.parent.name if source.path.stem == "open" else source.path.stem
    return [Found(name, "open_request", sections.get("model", Record("", "", ())), facts, sections)]


def _modifier(source: Source) -> list[Found]:
    """A file with one config class, which answers the question of its seam."""
    for node in source.tree.body:
        if isinstance(node, ast.ClassDef) and decorator(node, "config") is not None and (found := source.record(node.name)):
            return [Found(f"{source.path.parent.name}.{source.path.stem}", node.name, found)]
    return []


def _source(source: Source) -> list[Found]:
    """A file with `read(cfg, context, name)`; `SUFFIXES` are the endings of files that it reads unasked."""
    node = source.function("read")
    if node is None or not node.args.args:
        return []
    facts = {"suffixes": source.constant("SUFFIXES") or (), "learns": bool(source.constant("LEARNS"))}
    cfg = source.record(_text(node.args.args[0].annotation)) or Record("", "", ())
    return [Found(source.path.stem, "", cfg, facts)]


def _model(source: Source) -> list[Found]:
    """A file with the public class or function that is called as the file, case and underscores aside."""
    name = source.path.stem
    for node in source.tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name.replace("_", "").lower() == name.replace("_", ""):
            found = source.record(node.name)
            return [Found(name, node.name, found, doc=found.doc)] if found is not None else []
    return []


def _text(annotation: ast.expr | None) -> str:
    return ast.unparse(annotation) if annotation is not None else ""


LAYOUT: dict[Kind, Layout] = {
    "methods": Layout("method", "methods", "**/*.py", _decorated("run", "method")),
    "audits": Layout("audit", "audits", "**/*.py", _decorated("measure", "audit")),
    "families": Layout("family", "models", "*/open.py", _family),
    "modifiers": Layout("modifier", "train/modifiers", "*/*.py", _modifier),
    "sources": Layout("kind of data", "data/sources", "*.py", _source),
    "published": Layout("published set", "data/published", "*.py", _source),
    "zoo": Layout("model of the zoo", "models/zoo", "*.py", _model),
}

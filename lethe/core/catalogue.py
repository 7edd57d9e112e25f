"""Which methods and audits exist, read from their source text: listing them imports no torch.

A method or audit is a file under `lethe/methods` or `lethe/audits` (any folder below), or a module that another package
names in the entry-point groups `lethe.methods` and `lethe.audits`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from lethe.errors import unknown_name

HOUSE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Option:
    """One field of a config: its type, default, and the comment behind it (unit, direction, origin)."""

    name: str
    type: str
    default: str
    comment: str


@dataclass(frozen=True)
class Entry:
    """What the source of a method or audit says about it."""

    kind: str                      # methods | audits
    name: str
    module: str
    path: Path
    doc: str
    config: str                    # name of the config class
    options: tuple[Option, ...]
    facts: dict[str, Any] = field(default_factory=dict)  # literal keyword arguments of the decorator

    @property
    def title(self) -> str:
        """The first sentence of the docstring: what it does, without the source."""
        paragraph = " ".join(self.doc.strip().split("\n\n")[0].split())
        return re.split(r"(?<=[.?!])\s", paragraph, maxsplit=1)[0]

    @property
    def needs(self) -> list[str]:
        return sorted(self.facts.get("needs", ()))

    @property
    def instead(self) -> dict[str, str]:
        """Optional needs of a method that only an option makes superfluous: need -> option=value."""
        return self.facts.get("instead", {})

    @property
    def families(self) -> list[str]:
        return sorted(self.facts.get("families", ()))


@cache
def entries(kind: str) -> dict[str, Entry]:
    """All methods (`kind='methods'`) or audits, by name."""
    found: dict[str, Entry] = {}
    for path in sorted((HOUSE / kind).rglob("*.py")):
        if not path.name.startswith("_"):
            module = "lethe." + ".".join(path.relative_to(HOUSE).with_suffix("").parts)
            entry = read(kind, path, module)
            if entry is not None:
                found[entry.name] = entry
    for point in entry_points(group=f"lethe.{kind}"):
        spec = importlib.util.find_spec(point.value)
        if spec is not None and spec.origin:
            entry = read(kind, Path(spec.origin), point.value)
            if entry is not None:
                found[entry.name] = entry
    return found


def entry(kind: str, name: str) -> Entry:
    """One entry; an unknown name is an error that proposes the nearest."""
    known = entries(kind)
    if name not in known:
        noun = kind[:-1]
        raise unknown_name(noun, name, known, f"See them with: lethe {kind}.")
    return known[name]


def find(name: str) -> Entry:
    """A method or an audit by its name."""
    known = {**entries("audits"), **entries("methods")}
    if name not in known:
        raise unknown_name("method or audit", name, known, "See lethe methods and lethe audits.")
    return known[name]


def load(kind: str, name: str) -> Any:
    """The `Method` or `Audit` record behind a name; imports its module."""
    module = importlib.import_module(entry(kind, name).module)
    return getattr(module, DECORATED[kind])


def config_class(kind: str, name: str) -> Any:
    """The config class of this name, e.g. `SalUn`: what `lethe.methods.SalUn` gives."""
    for found in entries(kind).values():
        if found.config == name:
            return getattr(importlib.import_module(found.module), name)
    raise AttributeError(f"module 'lethe.{kind}' has no {kind[:-1]} config {name!r}")


DECORATED = {"methods": "run", "audits": "measure"}


def read(kind: str, path: Path, module: str) -> Entry | None:
    """The entry that a source file declares, or None when it holds no decorated function."""
    text = path.read_text()
    tree = ast.parse(text)
    decorator = {"methods": "method", "audits": "audit"}[kind]
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.name != DECORATED[kind]:
            continue
        call = next((d for d in node.decorator_list if isinstance(d, ast.Call) and _called(d) == decorator), None)
        if call is None:
            continue
        facts = {k.arg: _literal(k.value) for k in call.keywords if k.arg}
        annotation = node.args.args[0].annotation
        cfg = ast.unparse(annotation) if annotation is not None else ""
        return Entry(kind, path.stem, module, path, ast.get_docstring(tree) or "", cfg, _options(tree, cfg, text), facts)
    return None


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func).rsplit(".", 1)[-1]


def _literal(node: ast.expr) -> Any:
    """The value of a literal; calls such as Metric(...) become mappings of their arguments."""
    if isinstance(node, ast.Call):
        return {"args": [_literal(a) for a in node.args], **{k.arg: _literal(k.value) for k in node.keywords if k.arg}}
    if isinstance(node, ast.Dict):
        return {_literal(k): _literal(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _options(tree: ast.Module, cfg: str, text: str) -> tuple[Option, ...]:
    lines = text.splitlines()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == cfg:
            return tuple(
                Option(
                    item.target.id,
                    ast.unparse(item.annotation),
                    ast.unparse(item.value) if item.value is not None else "required",
                    _comment(lines[item.end_lineno - 1] if item.end_lineno else ""),
                )
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            )
    return ()


def _comment(line: str) -> str:
    found = re.search(r"#\s*(.*)$", line)
    return re.sub(r"\s{2,}", "  ", found.group(1)).strip() if found else ""

"""What a source file declares, read without importing it: decorators, config fields with their comments, docstrings."""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lethe.core.files import stems

HOUSE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Option:
    """One field of a config, or one argument of a factory: its type, default, and the comment behind it (unit, direction,
    origin)."""

    name: str
    type: str
    default: str
    comment: str
    choices: tuple[str, ...] = ()   # of a type that is (or has among others) a Literal

    @property
    def values(self) -> str:
        """What may be written: the choices of a Literal, else the type."""
        return " | ".join(self.choices) if self.choices and " | " not in self.type else self.type


@dataclass(frozen=True)
class Record:
    """A config class (or a factory) as its source text shows it."""

    name: str
    doc: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Source:
    """One Python file: `module` is the name under which it is imported."""

    path: Path
    module: str
    text: str = field(repr=False)

    @classmethod
    def of(cls, path: Path, module: str) -> Source:
        return cls(path, module, path.read_text(encoding="utf-8"))

    @property
    def tree(self) -> ast.Module:
        return _parsed(self.text)

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.tree) or ""

    def function(self, name: str) -> ast.FunctionDef | None:
        return next((n for n in self.tree.body if isinstance(n, ast.FunctionDef) and n.name == name), None)

    def constant(self, name: str) -> Any:
        """The value of a literal module constant, None where there is none."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return literal(node.value)
        return None

    def record(self, name: str) -> Record | None:
        """The class or function `name` of this file, or of the file from which it is imported."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return Record(name, ast.get_docstring(node) or "", self._inherited(node) or self._arguments(node))
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return Record(name, ast.get_docstring(node) or "", _parameters(node))
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    if (alias.asname or alias.name) == name and (other := located(node.module)) is not None:
                        return other.record(alias.name)
        return None

    def _inherited(self, node: ast.ClassDef) -> tuple[Option, ...]:
        """Fields of a class behind those of the classes it extends; a field that is given anew keeps its place."""
        found: dict[str, Option] = {}
        for base in node.bases:
            above = self.record(base.id) if isinstance(base, ast.Name) else None
            found |= {option.name: option for option in (above.options if above else ())}
        return tuple({**found, **{option.name: option for option in self._fields(node)}}.values())

    def _fields(self, node: ast.ClassDef) -> list[Option]:
        lines = self.text.splitlines()
        return [
            Option(item.target.id, ast.unparse(item.annotation), _default(item.value),
                   _comment(lines[(item.end_lineno or 1) - 1]), self.choices(item.annotation))
            for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            and not ast.unparse(item.annotation).startswith("ClassVar")
        ]

    def choices(self, annotation: ast.expr) -> tuple[str, ...]:
        """The words that a type allows: those of its Literals, also where they have a name of their own (`Optimiser`), and the
        names of files (`stems`)."""
        found: list[str] = []
        for node in ast.walk(annotation):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
                inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
                found += [str(literal(one)) for one in inside]
            elif isinstance(node, ast.Name):
                found += self._alias(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = self._imported(node.value.id)
                other = located(module) if module else None
                found += other._alias(node.attr) if other is not None else []
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "stems":
                found += stems(self.path, *(self.constant(one.id) if isinstance(one, ast.Name) else literal(one)
                                            for one in node.args[1:]))
        return tuple(dict.fromkeys(found))

    def _alias(self, name: str) -> list[str]:
        """Choices of `name = Literal[…]`, here or in the file that it is imported from."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                closed = any(word in ast.unparse(node.value) for word in ("Literal", "stems("))
                return list(self.choices(node.value)) if closed else []
        origin = self._imported(name)
        module, _, there = origin.rpartition(".")
        other = located(module) if module.split(".")[0] == HOUSE.name else None
        return other._alias(there) if other is not None else []

    def _imported(self, name: str) -> str:
        """`module.name` of what a from-import calls `name` here; empty when none does."""
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return f"{node.module}.{alias.name}"
        return ""

    def _arguments(self, node: ast.ClassDef) -> tuple[Option, ...]:
        """What a class that is no config takes: the arguments of its `__init__`."""
        own = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        return _parameters(own)[1:] if own else ()


@cache
def _parsed(text: str) -> ast.Module:
    """The tree of a text, which nobody changes: types of config fields are looked up in the same few files hundreds of times."""
    return ast.parse(text)


def located(module: str) -> Source | None:
    """The source of a module by its dotted name; nothing of this house is imported for it."""
    if module.split(".")[0] == HOUSE.name:
        place = HOUSE.joinpath(*module.split(".")[1:])
        path = place.with_suffix(".py") if place.with_suffix(".py").exists() else place / "__init__.py"
        return Source.of(path, module) if path.exists() else None
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        return None
    return Source.of(Path(spec.origin), module) if spec is not None and spec.origin else None


def decorator(node: ast.FunctionDef | ast.ClassDef, name: str) -> dict[str, Any] | None:
    """Keyword arguments of the decorator `@name(…)`, or of the plain `@name`; None when there is no such decorator."""
    for found in node.decorator_list:
        call = found.func if isinstance(found, ast.Call) else found
        if ast.unparse(call).rsplit(".", 1)[-1] == name:
            keywords = found.keywords if isinstance(found, ast.Call) else []
            return {k.arg: literal(k.value) for k in keywords if k.arg}
    return None


def literal(node: ast.expr) -> Any:
    """The value of a literal; calls such as Metric(...) become mappings of their arguments, names stay text."""
    if isinstance(node, ast.Call) and ast.unparse(node) == "set()":
        return frozenset()
    if isinstance(node, ast.Call):
        return {"args": [literal(a) for a in node.args], **{k.arg: literal(k.value) for k in node.keywords if k.arg}}
    if isinstance(node, ast.Dict):
        return {literal(k): literal(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _parameters(node: ast.FunctionDef) -> tuple[Option, ...]:
    given = [*node.args.posonlyargs, *node.args.args]
    defaults: list[ast.expr | None] = [*[None] * (len(given) - len(node.args.defaults)), *node.args.defaults]
    return tuple(
        Option(arg.arg, ast.unparse(arg.annotation) if arg.annotation is not None else "Any",
               _default(default), "")
        for arg, default in zip([*given, *node.args.kwonlyargs], [*defaults, *node.args.kw_defaults], strict=True)
    )


def _default(node: ast.expr | None) -> str:
    """A default as it is written; of `field(default_factory=…)` what the factory makes."""
    if node is None:
        return "required"
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "field":
        made = next((k.value for k in node.keywords if k.arg == "default_factory"), None)
        if isinstance(made, ast.Lambda):
            return ast.unparse(made.body)
        if made is not None:
            return {"dict": "{}", "list": "[]", "tuple": "()"}.get(ast.unparse(made), f"{ast.unparse(made)}()")
    return ast.unparse(node)


def _comment(line: str) -> str:
    found = re.search(r"#\s*(.*)$", line)
    return re.sub(r"\s{2,}", "  ", found.group(1)).strip() if found else ""

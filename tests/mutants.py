"""Mutants of methods and audits: which small changes of the code does no test notice?

    python tests/mutants.py scrub npo          mutants of these; without names: of every method and audit
    python tests/mutants.py --all-tests scrub  slow tests, too

A mutant differs in one place: an operator is exchanged, a term or factor dropped, a sign turned, two arguments swapped, a
weight left out, a number raised by one, a comparison turned. It is run against the tests of its own name, tests/*/test_<name>.py,
in a forked process; nothing is written to the source. Survivors are printed with their line; some are equivalent (a size of
batches that changes no result, a floor against division by zero).
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
SECONDS = 60   # a mutant that runs longer than this is taken as noticed

SWAPPED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
SYMMETRIC = {"isinstance", "max", "min", "zip", "getattr", "hasattr", "print", "range", "minimum", "maximum", "allclose", "Value",
             "cosine_similarity", "where"}


@dataclass(frozen=True)
class Mutant:
    """One changed place: its line, what was changed, and the source of the whole module."""

    line: int
    what: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module."""
    tree = ast.parse(source)
    for number, node in enumerate(ast.walk(tree)):
        node.number = number   # type: ignore[attr-defined]
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        for node in meant(function):
            for what, other in changes(node):
                twin = copy.deepcopy(tree)
                Put(node.number, other).visit(twin)   # type: ignore[attr-defined]
                text = ast.unparse(ast.fix_missing_locations(twin))
                yield Mutant(node.lineno, f"{ast.unparse(node)}  →  {what}", text)


def meant(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """The expressions of a function that decide about a result: no annotations, messages, costs."""
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop(0)
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert)) or _is_silent(node):
            continue
        if isinstance(node, ast.FunctionDef):
            todo += node.body
            continue
        if isinstance(node, ast.expr):
            yield node
        todo += [child for child in ast.iter_child_nodes(node) if not _is_annotation(node, child)]


def _is_annotation(node: ast.AST, child: ast.AST) -> bool:
    return isinstance(node, (ast.AnnAssign, ast.arg)) and node.annotation is child


def _is_silent(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True   # a docstring
    if isinstance(node, (ast.AugAssign, ast.Assign)):
        target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
        return "cost" in ast.unparse(target)
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith("notes.append")


def changes(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """What may stand in place of an expression."""
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPPED and not _is_text(node):
        other = ast.BinOp(node.left, SWAPPED[type(node.op)](), node.right)
        parts = [other, node.left] + ([node.right] if isinstance(node.op, (ast.Add, ast.Mult)) else [])
        yield from ((ast.unparse(part), part) for part in parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield ast.unparse(node.operand), node.operand
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func).rsplit(".", 1)[-1]
        args = node.args
        if len(args) > 1 and name not in SYMMETRIC and not any(isinstance(a, (ast.Starred, ast.Constant)) for a in args[:2]):
            other = ast.Call(node.func, [args[1], args[0], *args[2:]], node.keywords)
            yield ast.unparse(other), other
        if name == "Term" and len(args) == 3:
            other = ast.Call(node.func, args[:2], node.keywords)
            yield ast.unparse(other), other
    if isinstance(node, ast.Compare) and type(node.ops[0]) in TURNED and len(node.ops) == 1:
        other = ast.Compare(node.left, [TURNED[type(node.ops[0])]()], node.comparators)
        yield ast.unparse(other), other
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        other = ast.Constant(node.value + 1)
        yield ast.unparse(other), other


def _is_text(node: ast.BinOp) -> bool:
    """Joined texts and lists are no arithmetic."""
    return any(isinstance(side, (ast.JoinedStr, ast.List, ast.Tuple)) or isinstance(getattr(side, "value", None), str)
               for side in (node.left, node.right))


class Put(ast.NodeTransformer):
    """Puts an expression in the place of a numbered one."""

    def __init__(self, number: int, other: ast.expr) -> None:
        self.number, self.other = number, other

    def visit(self, node: ast.AST) -> ast.AST:
        return copy.deepcopy(self.other) if getattr(node, "number", -1) == self.number else super().visit(node)


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a text in place of its file."""

    def __init__(self, module: str, path: Path, source: str) -> None:
        self.module, self.path, self.source = module, path, source

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
                  ) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self, origin=str(self.path)) if name == self.module else None

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = str(self.path)
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def noticed(module: str, path: Path, source: str, tests: Sequence[Path], every: bool, only: str = "") -> bool:
    """Whether a test fails, in a forked process with `source` in place of the module."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    signal.alarm(SECONDS)
    import pytest

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sys.meta_path.insert(0, Changed(module, path, source))
    mark = "not gpu" if every else "not slow and not gpu"
    options = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", "-m", mark, "--rootdir", str(HERE.parent), "-k", only]
    code = pytest.main([*options, *map(str, tests)])
    os._exit(int(code))


def examined(kind: str, name: str, every: bool, only: str) -> tuple[int, list[Mutant]]:
    """(how many mutants, those that no test noticed)."""
    from lethe.core import catalogue

    entry = catalogue.entry(kind, name)
    tests = sorted((HERE / kind).glob(f"test_{name}.py")) or sorted((HERE / kind).glob(f"test_{name}_*.py"))
    source = entry.path.read_text()
    assert not noticed(entry.module, entry.path, source, tests, every, only), f"the tests of {name} fail without any change"
    count, left = 0, []
    for mutant in mutants(source):
        count += 1
        if not noticed(entry.module, entry.path, mutant.source, tests, every, only):
            left.append(mutant)
    return count, left


def main() -> int:
    sys.path.insert(0, str(HERE))
    import pytest  # noqa: F401  (before forking: every mutant shares these)
    import torch

    from lethe.core import catalogue

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--only", default="", help="tests of these names alone, as pytest -k")
    parser.add_argument("--all-tests", action="store_true", help="slow tests, too")
    asked = parser.parse_args()
    every = [(kind, name) for kind in ("methods", "audits") for name in catalogue.entries(kind)]
    total = survivors = 0
    for kind, name in every:
        if asked.names and name not in asked.names:
            continue
        count, left = examined(kind, name, asked.all_tests, asked.only)
        total, survivors = total + count, survivors + len(left)
        print(f"{name}: {count - len(left)} of {count} noticed", flush=True)
        for mutant in left:
            print(f"    line {mutant.line}: {mutant.what}", flush=True)
    print(f"{total - survivors} of {total} noticed")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What each family of models can do: abstract classes that methods and audits name in their signatures.

A family `provides` a set of operations; a method or an audit `uses` some, and fits every family that provides all it uses.
Besides operations, `provides` names what stands in a batch: "inputs" (column `x`: what the model maps, and what a method may
perturb; a task whose model has several inputs does not serve it), "labels" (column `y`: class numbers), "targets" (column `y`:
real numbers); and what holds of the loss: "vmap", that it may run inside `torch.func.vmap`, for the gradients of single examples;
"likelihood", that it is the negative log-probability of a class or of tokens, in nats; "weights" says that a model is its
tensors, which can be changed one by one.
The sets are literals: `provided` reads them from the source text and imports no torch.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path


@cache
def provided() -> dict[str, frozenset[str]]:
    """What each family provides, by its name: those of this folder, and of packages in the entry points `lethe.families`."""
    folders = [Path(__file__).parent]
    for point in entry_points(group="lethe.families"):
        spec = importlib.util.find_spec(point.value)
        if spec is not None and spec.origin:
            folders.append(Path(spec.origin).parent)
    return {family: operations for folder in folders for path in sorted(folder.glob("*.py"))
            for family, operations in declared(path)}


def declared(path: Path) -> Iterator[tuple[str, frozenset[str]]]:
    """(family, what it provides) of every class in a source file that declares both."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            values = {target.id: value for target, value in map(_assigned, node.body) if target is not None}
            family, provides = values.get("family"), values.get("provides")
            if isinstance(family, ast.Constant) and isinstance(provides, ast.Call):
                yield str(family.value), frozenset(ast.literal_eval(provides.args[0]))


def _assigned(node: ast.stmt) -> tuple[ast.Name | None, ast.expr | None]:
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target if isinstance(node, ast.AnnAssign) else None
    return (target, node.value) if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name) else (None, None)

"""The files of the engine stand in one order: none imports, not even for its types, what imports it."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[2] / "lethe" / "train"


def imported(path: Path) -> set[str]:
    """Modules that a file names in imports, under TYPE_CHECKING, too."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.module]
    return {name for node in nodes for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))}


def test_the_engine_has_no_circle() -> None:
    modules = {".".join(("lethe", "train", *path.relative_to(ENGINE).with_suffix("").parts)).removesuffix(".__init__"): path
               for path in ENGINE.rglob("*.py")}
    graph = {name: imported(path) & modules.keys() - {name} for name, path in modules.items()}
    order = list(TopologicalSorter(graph).static_order())   # CycleError names the circle
    assert order.index("lethe.train.run") < order.index("lethe.train.loop") < order.index("lethe.train.apply")

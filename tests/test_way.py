"""The way of a request, read from the source: in which order `work` calls the other rooms, so that a detour cannot hide."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

HOUSE = Path(__file__).resolve().parent.parent / "lethe"
EVERYWHERE = {"core", "maths", "errors"}   # the words that every room speaks
Place = tuple[str, str]                    # module below lethe, function


@cache
def source(module: str) -> tuple[dict[str, ast.FunctionDef], dict[str, Place]]:
    """The functions of a module, and where the names come from that it imports or defines."""
    path = HOUSE / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    body = ast.parse(path.read_text()).body
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    names = {alias.asname or alias.name: (node.module.removeprefix("lethe."), alias.name)
             for node in body if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lethe.")
             for alias in node.names}
    return functions, {**names, **{name: (module, name) for name in functions}}


def calls(node: ast.AST) -> Iterator[ast.Call]:
    """Calls in the order in which they are made: arguments first, and of a comprehension what it goes through."""
    for child in sorted(ast.iter_child_nodes(node), key=lambda child: not isinstance(child, ast.comprehension)):
        yield from calls(child)
    if isinstance(node, ast.Call):
        yield node


def called(call: ast.Call, names: dict[str, Place]) -> Place | None:
    """The function of Lethe that a call names: `f(…)` or `module.f(…)`; a class only holds values, and is none."""
    if isinstance(call.func, ast.Name):
        found = names.get(call.func.id)
    elif isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id in names:
        found = (".".join(names[call.func.value.id]), call.func.attr)
    else:
        return None
    return found if found and found[1].strip("_")[:1].islower() else None


def rooms(place: Place, aside: frozenset[Place] = frozenset()) -> list[str]:
    """The rooms that a function of `work` calls, itself or through other functions of `work`, in order. aside: left out."""
    def visits(at: Place, above: frozenset[Place]) -> Iterator[str]:
        functions, names = source(at[0])
        for call in calls(functions[at[1]]):
            found = called(call, names)
            if found and found[0].split(".")[0] == "work":
                yield from visits(found, above | {found}) if found not in above | aside else ()
            elif found:
                yield found[0].split(".")[0]

    return [room for room, _ in groupby(room for room in visits(place, frozenset({place})) if room not in EVERYWHERE)]


def test_a_request_is_resolved_room_by_room() -> None:
    """What may be set, what the model is to choose, the margins that are declared: each room is asked once, before any work."""
    assert rooms(("work.job", "resolve")) == ["train", "pools", "results"]


def test_a_request_is_carried_out_room_by_room() -> None:
    """Each room is visited once. Aside: the original, which is trained first where it came without weights, and a ladder,
    which judges one method before it tries the next."""
    assert rooms(("work.execute", "_worked"), frozenset({("work.open", "trained"), ("work.execute", "_climbed")})) == [
        "pools", "train", "judge", "results", "ledger", "certificate"]

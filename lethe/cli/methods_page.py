"""`lethe methods --page docs/methods.md`: every method by what drives its forgetting, as one page."""

from __future__ import annotations

from lethe.core.catalogue import Entry, entries
from lethe.core.families import provided
from lethe.core.registry import MECHANISMS

HEAD = """# The methods, by what drives the forgetting

`lethe methods --mechanism distil` lists one group, `lethe describe NAME` shows formula, options and limits of a method. A name
with ? is optional. Rebuilt by `python -m lethe methods --page docs/methods.md`.
"""


def methods_page() -> str:
    """The page as Markdown; it depends on the source files alone."""
    known = entries("methods").values()
    groups = [(mechanism, meaning, [one for one in known if one.mechanism == mechanism])
              for mechanism, meaning in MECHANISMS.items()]
    return HEAD + "".join(_group(mechanism, meaning, found) for mechanism, meaning, found in groups if found)


def _group(mechanism: str, meaning: str, found: list[Entry]) -> str:
    rows = "".join(f"| `{one.name}` | {one.title} | {', '.join(one.needs)} | {_families(one)} |\n"
                   for one in sorted(found, key=lambda one: one.name))
    return f"\n## {mechanism.capitalize()}\n{meaning}\n\n| method | what it does | needs | families |\n|---|---|---|---|\n{rows}"


def _families(one: Entry) -> str:
    return "all" if len(one.families) == len(provided()) else ", ".join(one.families)

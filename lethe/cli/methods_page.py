"""`lethe methods --page docs/methods.md`: every method by what drives its forgetting, as one page."""

from __future__ import annotations

from lethe.core.catalogue import Entry, entries
from lethe.core.families import provided
from lethe.core.registry import MECHANISMS
from lethe.core.source_text import located

HEAD = """# The methods, by what drives the forgetting

`lethe methods --mechanism distil` lists one group, `lethe describe NAME` shows formula, options and limits of a method. A name
with ? is optional. Batch norm: whether running statistics move, with `settings.batch_norm: auto` (the default) in calls that draw
retained data; update and frozen overrule it, and every run notes what was done.
Rebuilt by `python -m lethe methods --page docs/methods.md`.
"""


def methods_page() -> str:
    """The page as Markdown; it depends on the source files alone."""
    known = entries("methods").values()
    groups = [(mechanism, meaning, [one for one in known if one.mechanism == mechanism])
              for mechanism, meaning in MECHANISMS.items()]
    return HEAD + "".join(_group(mechanism, meaning, found) for mechanism, meaning, found in groups if found)


def _group(mechanism: str, meaning: str, found: list[Entry]) -> str:
    rows = "".join(f"| `{one.name}` | {one.title} | {', '.join(one.needs)} | {batch_norm(one)} | {_families(one)} |\n"
                   for one in sorted(found, key=lambda one: one.name))
    head = "| method | what it does | needs | batch norm | families |\n|---|---|---|---|---|\n"
    return f"\n## {mechanism.capitalize()}\n{meaning}\n\n{head}{rows}"


def batch_norm(one: Entry) -> str:
    """What running statistics of batch norm do in a run of this method, when the setting is auto."""
    source = located(one.module)
    if one.mechanism in ("exact", "search"):
        return "as in training" if one.mechanism == "exact" else "as in what it runs"
    if source is None or not ("minimise(" in source.text or " tuned(" in source.text):   # it changes weights without training
        return "kept"
    return "moves" if "retain" in one.needs else "moves with retained data" if "retain?" in one.needs else "kept"


def _families(one: Entry) -> str:
    return "all" if len(one.families) == len(provided()) else ", ".join(one.families)

"""`lethe results`: the contents of the ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import get_args

from lethe.cli.common import written_as
from lethe.core.catalogue import entries
from lethe.core.evidence import Ending
from lethe.core.files import write_text
from lethe.errors import RequestError, unknown_name
from lethe.ledger import Ledger
from lethe.ledger.search import Filters
from lethe.results.folder import LEDGER


def show_results(output: Path, method: str | None, family: str | None, verdict: str | None, export: Path | None, verify: bool,
                 head: str | None, as_json: bool) -> None:
    """List, filter, export or verify the ledger beside the run folders."""
    if export is not None:
        written_as("--export", export, (".csv", ".json"))
    filters: Filters = {"method": method, "family": family, "verdict": verdict}
    path = output / LEDGER
    ledger = Ledger(path) if path.exists() else None
    _check(filters, ledger)
    if ledger is None:
        raise RequestError(f"{path} does not exist: no run was made here yet. Start with: lethe compare presets/demo.yaml")
    if verify or head is not None:
        print(verified(ledger, head))
    elif export is not None:
        write_text(export, ledger.export("json" if export.suffix == ".json" else "csv"))
        print(export)
    elif as_json:
        print(json.dumps(ledger.runs(**filters), indent=2, default=str))
    else:
        for run in ledger.listed(**filters):
            print("  ".join(str(run.get(key, "")) for key in ("created", "id", "status", "family", "title")))


def _check(filters: Filters, ledger: Ledger | None) -> None:
    """UnknownName for a method, family or verdict that neither Lethe nor the ledger knows."""
    method, family, verdict = filters.get("method"), filters.get("family"), filters.get("verdict")
    asked: list[tuple[str, str | None, Callable[[], Collection[str]], Filters]] = [
        ("method", method, lambda: entries("methods"), {"method": method, "limit": 1}),
        ("family", family, lambda: entries("families"), {"family": family, "limit": 1}),
        ("verdict", verdict, lambda: get_args(Ending), {"verdict": verdict, "limit": 1})]
    for what, name, names, alone in asked:
        # the ledger is asked first: it may have runs of a method that was uninstalled, and reading every method takes a second
        if name is not None and (ledger is None or not ledger.listed(**alone)) and name not in names():
            raise unknown_name(what, name, names())


def verified(ledger: Ledger, head: str | None) -> str:
    """What holds, and the head to keep elsewhere; RequestError with what does not."""
    broken = ledger.verify(head)
    if broken is not None:
        raise RequestError(f"the ledger was changed after it was written: {broken.reason}. Compare with a backup.")
    wrong = _differences(ledger)
    if wrong:
        raise RequestError(f"the chain is intact, but {'; and '.join(wrong)}.")
    return f"the chain is intact, and so are the files of its runs\nhead: {ledger.head()}  (keep it elsewhere; --head checks it)"


def _differences(ledger: Ledger) -> list[str]:
    """What is no longer as the ledger noted it: run folders that are gone, files that are missing or changed; with what to do."""
    changed = {entry: (ledger.run(entry), files) for entry, files in ledger.changed().items()}
    gone = {entry: run for entry, (run, _) in changed.items() if not Path(run["folder"]).exists()}
    named = [f"{file} of entry {entry}" for entry, (_, files) in changed.items() if entry not in gone for file in files]
    wrong = []
    if gone:
        folders = [f"{run['folder']} (entry {entry})" for entry, run in gone.items()]
        again = next((run["command"] for run in gone.values() if run["command"]), "")
        wrong.append(f"{_few(folders)} {'is' if len(gone) == 1 else 'are'} not there: deleted or moved; nothing is known of "
                     f"the files. Put {'it' if len(gone) == 1 else 'them'} back{f', or make it again: {again}' if again else ''}")
    if named:
        wrong.append(f"{len(named)} files of its runs are missing or changed: {_few(named)}. Compare with a backup, or repeat "
                     "these runs with --again")
    return wrong


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

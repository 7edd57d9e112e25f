"""`lethe results`: the contents of the ledger."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import get_args

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
    asked: list[tuple[str, str | None, Collection[str], Filters]] = [
        ("method", method, entries("methods") if method else (), {"method": method}),
        ("family", family, entries("families") if family else (), {"family": family}),
        ("verdict", verdict, get_args(Ending), {"verdict": verdict})]
    for what, name, names, alone in asked:
        # the ledger may have runs of a method that was uninstalled
        if name is not None and name not in names and (ledger is None or not ledger.listed(**alone)):
            raise unknown_name(what, name, names)


def verified(ledger: Ledger, head: str | None) -> str:
    """What holds, and the head to keep elsewhere; RequestError with what does not."""
    broken = ledger.verify(head)
    if broken is not None:
        raise RequestError(f"the ledger was changed after it was written: {broken.reason}. Compare with a backup.")
    changed = ledger.changed()
    if changed:
        named = [f"{file} of entry {entry}" for entry, files in changed.items() for file in files]
        raise RequestError(f"the chain is intact, but {len(named)} files of its runs are missing or changed: "
                           f"{', '.join(named[:5])}. Compare with a backup, or repeat these runs with --again.")
    return f"the chain is intact, and so are the files of its runs\nhead: {ledger.head()}  (keep it elsewhere; --head checks it)"

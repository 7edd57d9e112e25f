"""`lethe results`: the contents of the ledger."""

from __future__ import annotations

import json
from pathlib import Path

from lethe.core.files import write_text
from lethe.errors import RequestError
from lethe.ledger import Ledger
from lethe.ledger.search import Filters
from lethe.results.folder import LEDGER


def show_results(output: Path, method: str | None, family: str | None, verdict: str | None, export: Path | None, verify: bool,
                 head: str | None, as_json: bool) -> None:
    """List, filter, export or verify the ledger beside the run folders."""
    path = output / LEDGER
    if not path.exists():
        raise RequestError(f"{path} does not exist: no run was made here yet. Start with: lethe compare presets/demo.yaml")
    ledger = Ledger(path)
    filters: Filters = {"method": method, "family": family, "verdict": verdict}
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

"""`lethe results`: the contents of the ledger."""

from __future__ import annotations

import json
from pathlib import Path

from lethe.errors import RequestError
from lethe.ledger import Ledger


def show_results(output: Path, method: str | None, family: str | None, verdict: str | None, export: Path | None, verify: bool,
                 as_json: bool) -> None:
    """List, filter, export or verify the ledger beside the run folders."""
    path = output / "ledger.sqlite"
    if not path.exists():
        raise RequestError(f"{path} does not exist: no run was made here yet. Start with: lethe compare presets/demo.yaml")
    ledger = Ledger(path)
    if verify:
        broken = ledger.verify()
        if broken is not None:
            raise RequestError(f"the ledger was changed after it was written: {broken}. Compare with a backup.")
        changed = [path for run in ledger.runs() for path in ledger.changed_artefacts(run["id"])]
        if changed:
            raise RequestError(f"the chain is intact, but {len(changed)} files of its runs are missing or changed: "
                               f"{', '.join(changed[:5])}. Compare with a backup, or repeat these runs with --again.")
        print("the chain is intact, and so are the files of its runs")
        return
    runs = ledger.runs(method=method, family=family, verdict=verdict)
    if export is not None:
        export.write_text(ledger.export("json" if export.suffix == ".json" else "csv"), encoding="utf-8")
        print(export)
    elif as_json:
        print(json.dumps(runs, indent=2, default=str))
    else:
        for run in runs:
            print("  ".join(str(run.get(key, "")) for key in ("created", "id", "status", "family", "title")))

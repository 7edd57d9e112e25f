"""Bring the README's table from a finished run of the demo, and keep beside it what it was taken from.

    lethe compare presets/demo.yaml && python tools/readme.py runs/ID

writes measured/readme/demo.json (the table of the first scenario, without what the clock decides) and the block of the README.
`tests/test_readme.py` compares the two, so that neither is edited by hand.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = ROOT / "measured" / "readme" / "demo.json"
WIDTH = 165
CLOCK = re.compile(r"\s+(?:–|[\d.]+ (?:s|min|h)(?: \([\d.]+×\))?|[\d.]+×)$|; [\d.]+ × a retraining")
BLOCK = re.compile(r"(and prints\n\n```\n)(.*?)(\n```)", re.DOTALL)


def steady(text: str) -> list[str]:
    """The lines of a table without what the clock decides: times, ratios, and the rules that follow their width."""
    lines = (CLOCK.sub("", line.rstrip()).rstrip() for line in text.splitlines())
    return [re.sub(r" +", " ", line) for line in lines if line.strip("─ ")]


def main(run: Path) -> None:
    """Write both."""
    from lethe.report.report import load
    from lethe.report.table import terminal_table

    results = load(run).results
    shown = terminal_table(results, WIDTH, colour=False).split(f"\n\n{results.scenarios[1].name}\n")[0].rstrip()
    kept = {"schema": 1, "name": "demo", "command": "lethe compare presets/demo.yaml", "commit": results.versions.get("git", ""),
            "table": steady(shown)}
    NUMBERS.parent.mkdir(exist_ok=True)
    NUMBERS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    readme = ROOT / "README.md"
    readme.write_text(BLOCK.sub(lambda old: old[1] + shown + old[3], readme.read_text("utf-8"), count=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""`lethe triage` as text: a request, record by record, before anything is deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = 12   # records of each kind that the table names
WORDS = {
    "twin": "an equal record is retained: deleting these has no effect unless their twins are deleted too",
    "hard": "no retained record resembles these: they show in the model, and a model without them differs",
    "usual": "in between",
    "easy": "retained records resemble these: a model trained without them hardly differs",
}


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The counts in words, and the first records of each kind, hard ones first."""
    lines = []
    for name, case in found.items():
        seen = "" if case["looked_at"] == case["forgotten"] else f", a sample of {case['forgotten']}"
        lines.append(f"{name or 'the request'}: {case['looked_at']} records to forget{seen}, compared with {case['compared']} "
                     "retained ones")
        for kind, words in WORDS.items():
            some = [record for record in case["records"] if record["advice"] == kind]
            if some:
                ids = ", ".join(r["id"] + (f" (= {r['twin']})" if r["twin"] else "") for r in some[:SHOWN])
                lines += [f"  {kind:<6} {len(some):>5}  {words}", f"                {ids}{', …' if len(some) > SHOWN else ''}"]
    return "\n".join(lines)

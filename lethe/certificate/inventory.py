"""Where else the data may live: derived artefacts, each covered by the certificate or not, with the reason.

What Lethe cannot see is 'not covered' until the controller declares it (`lethe certify --declare FILE`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from lethe.certificate.wording import texts
from lethe.errors import RequestError

COVERED, ERASED, FREE, EXPIRES, NOT = "covered", "erased", "free of the records", "expires", "not covered"
STATES = (COVERED, ERASED, FREE, EXPIRES, NOT)
FACTS = ("original_cached", "work", "failures", "shadows_cached", "references_cached")   # what is looked for beside a run
UNSEEN = (
    "source records", "deployed copies of the original", "averaged copies of the weights (EMA)", "feature caches and embeddings",
    "vector stores", "adapters trained on the original", "quantised copies", "distilled and merged models",
    "checkpoints of the original training", "backups", "logs and analytics",
)


def inventory(run: Mapping[str, Any], declared: Mapping[str, Any],
              words: Mapping[str, Any] | None = None) -> list[dict[str, str]]:
    """The artefacts. `run`: what was found in and beside the run folder (`FACTS`); `declared`: artefact -> {state, reason}."""
    say = (texts() if words is None else words)["inventory"]
    found = {
        "unlearned model": (COVERED, say["unlearned"]),
        "original model": (NOT, say["original_cached" if run["original_cached"] else "original"]),
        "checkpoints and optimiser state of this run": (NOT, say["work"]) if run["work"] else (ERASED, say["no_work"]),
        "report, samples and results of this run": (NOT, say["report"]),
    }
    if run["failures"]:
        found["tracebacks of what failed in this run"] = (NOT, say["failures"])
    if run["shadows_cached"]:
        found["models of the audit's cache"] = (NOT, say["shadows"])
    elif run["references_cached"]:
        found["models of the audit's cache"] = (FREE, say["references"])
    found |= dict.fromkeys(UNSEEN, (NOT, say["unseen"]))
    rows = {name: {"artefact": name, "state": state, "reason": reason, "by": "found"} for name, (state, reason) in found.items()}
    for name, entry in declared.items():
        if not isinstance(entry, Mapping) or entry.get("state") not in STATES or not entry.get("reason"):
            raise RequestError(f"inventory entry {name!r} needs a state ({', '.join(STATES)}) and a reason; no certificate was "
                               f"written. Write  {name}: {{state: erased, reason: …}}.")
        if name == "unlearned model":
            raise RequestError("'unlearned model' is what the certificate is about and cannot be declared; no certificate was "
                               "written. Take it out of the inventory.")
        rows[name] = {"artefact": name, "state": str(entry["state"]), "reason": str(entry["reason"]), "by": "declared"}
    return list(rows.values())


def possible(rows: Sequence[Mapping[str, str]], words: Mapping[str, Any]) -> bool:
    """Whether Lethe lists these artefacts in some run: none left out, none covered that nothing was found or declared about."""
    declared = {row["artefact"]: {key: row[key] for key in ("state", "reason")} for row in rows if row["by"] == "declared"}
    return any(inventory(dict(zip(FACTS, seen, strict=True)), declared, words) == list(rows)
               for seen in product((False, True), repeat=len(FACTS)))

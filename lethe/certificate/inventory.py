"""Where else the data may live: derived artefacts, each covered by the certificate or not, with the reason.

What Lethe cannot see is 'not covered' until the controller declares it (`lethe certify --declare FILE`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lethe.errors import RequestError

COVERED, ERASED, FREE, EXPIRES, NOT = "covered", "erased", "free of the records", "expires", "not covered"
STATES = (COVERED, ERASED, FREE, EXPIRES, NOT)
UNSEEN = (
    "source records", "deployed copies of the original", "averaged copies of the weights (EMA)", "feature caches and embeddings",
    "vector stores", "adapters trained on the original", "quantised copies", "distilled and merged models",
    "checkpoints of the original training", "backups", "logs and analytics",
)

PARAGRAPHS = {
    "Reintroduction": "A generative or instruction-following model can be given the removed content again: in a prompt, by "
                      "retrieval, by an example in its context or by further training. The claims are about the weights alone.",
    "Two versions": "Whoever holds the model from before and the one from after can compare them, and the difference can tell "
                    "more about the removed records than either model does alone. The claims are about the new model; publishing "
                    "both composes what each of them tells.",
    "Signature": "The signature shows who says this and that it was not changed since. It does not show that it is true; what "
                 "can be checked independently stands under each claim. It is no statement about the law.",
}


def inventory(run: Mapping[str, Any], declared: Mapping[str, Any]) -> list[dict[str, str]]:
    """The artefacts. `run`: what was found in and beside the run folder; `declared`: artefact -> {state, reason}."""
    found = {
        "unlearned model": (COVERED, "its weights are the ones that this certificate names"),
        "original model": (NOT, "a copy lies in the cache of the runs" if run["original_cached"]
                           else "Lethe keeps no copy in the cache; the files it was given were left as they are"),
        "checkpoints and optimiser state of this run": (NOT, "the work folder of the run is still there") if run["work"]
        else (ERASED, "the work folder was deleted when the run ended"),
        "report, samples and results of this run": (NOT, "they may show examples from the data"),
    }
    if run["failures"]:
        found["tracebacks of what failed in this run"] = (NOT, "the failures folder of the run is still there, and a "
                                                               "traceback may quote data")
    if run["shadows_cached"]:
        found["models of the audit's cache"] = (NOT, "shadow models in the cache may have been trained on records of the request")
    elif run["references_cached"]:
        found["models of the audit's cache"] = (FREE, "reference models, trained without the forgotten records")
    found |= dict.fromkeys(UNSEEN, (NOT, "Lethe cannot see it, and nothing was declared"))
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

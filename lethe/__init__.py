"""Lethe removes data, classes, entities, skills and concepts from trained models, and measures how well they are gone.

    task    = lethe.classification(model, train=(x, y), forget=lethe.where(label=3), holdout=(x2, y2), recipe=…)
    outcome = lethe.forget(task, "salun", lr=0.01)
    report  = lethe.audit(task, outcome)
    report.save("report.html");  outcome.save("unlearned/")
    table   = lethe.compare(task, ["finetune", "salun", "scrub", "sfron"])

Names are imported when they are first used, so that `import lethe` costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_OWN = {
    "where": "lethe.data.select",
    "choose": "lethe.api",
    "forget": "lethe.api",
    "triage": "lethe.api",
    "audit": "lethe.api",
    "compare": "lethe.api",
    "audit_files": "lethe.api",
    "Files": "lethe.work.files",
    "Report": "lethe.report.report",
    "Recipe": "lethe.core.task",
    "Settings": "lethe.train.loop",
    "Watchdog": "lethe.train.watchdog",
    "Split": "lethe.core.split",
}

if TYPE_CHECKING:   # made by `__getattr__`
    PUBLIC: dict[str, str]   # every public name and its module: those above, and the function of each family that makes a task


def _public() -> dict[str, str]:
    from lethe.core.catalogue import entries

    found = {str(one.facts["make"]): one.module for one in entries("families").values() if one.facts.get("make")}
    return {**found, **_OWN}


def __getattr__(name: str) -> Any:
    if name in _OWN:
        return getattr(importlib.import_module(_OWN[name]), name)
    if name in ("methods", "audits"):
        return importlib.import_module(f"lethe.{name}")
    if name == "__all__":
        return ["PUBLIC", "__version__", *_public()]
    if name.startswith("_"):
        raise AttributeError(f"module 'lethe' has no attribute {name!r}")
    public = _public()
    if name == "PUBLIC":
        return public
    if name in public:
        return getattr(importlib.import_module(public[name]), name)
    raise AttributeError(f"module 'lethe' has no attribute {name!r}")

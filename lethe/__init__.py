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
from typing import Any

__version__ = "0.1.0"

PUBLIC = {
    "classification": "lethe.models.classification.open",
    "multilabel": "lethe.models.multilabel.open",
    "regression": "lethe.models.regression.open",
    "fitted_classifier": "lethe.models.fitted_classifier.open",
    "fitted_regressor": "lethe.models.fitted_regressor.open",
    "language_model": "lethe.models.lm.open",
    "text_to_image": "lethe.models.diffusion.open",
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

__all__ = ["PUBLIC", "__version__", *PUBLIC]


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(importlib.import_module(PUBLIC[name]), name)
    if name in ("methods", "audits"):
        return importlib.import_module(f"lethe.{name}")
    raise AttributeError(f"module 'lethe' has no attribute {name!r}")

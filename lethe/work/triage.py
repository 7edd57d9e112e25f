"""Rank what is to be forgotten, record by record, before anything is deleted (`lethe triage`)."""

from __future__ import annotations

from typing import Any

from lethe.judge.triage import triage
from lethe.work.open import tasks_of
from lethe.work.options import Options
from lethe.work.request import Request


def triaged(request: Request, options: Options) -> dict[str, dict[str, Any]]:
    """scenario name -> `lethe.triage` of its task."""
    return {name: triage(task, seed=request.seed) for name, task in tasks_of(request, options).items()}

"""`lethe check-model`: everything that the door can say of a request, in seconds."""

from __future__ import annotations

from dataclasses import replace

from lethe.work.door.door import Finding, survey
from lethe.work.job import resolve
from lethe.work.open import read
from lethe.work.options import Options
from lethe.work.request import Request


def look(request: Request, options: Options) -> list[Finding]:
    """Every finding, what is well included. What cannot be read at all is raised."""
    return survey(replace(read(resolve(request, options), options), thorough=True))

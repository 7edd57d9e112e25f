"""Libraries that the work will need at its end, or only for what the request asks: they are looked for at its beginning."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from lethe.core.extras import Extra, install
from lethe.work.door.door import Finding, Level
from lethe.work.open import Plan

STAGE = 0


def check(plan: Plan) -> Iterator[Finding]:
    """A library that is not installed; the page is all that is lost without those of the report."""
    wanted: list[tuple[str, Extra, str, Level]] = [
        ("jinja2", "report", "the page", "warn"), ("matplotlib", "report", "figures of the page", "warn")]
    if any(run.method == "auto" for run in plan.job.runs):
        wanted.append(("optuna", "search", "method auto", "error"))
    if "lora" in str(plan.job.modifiers.get("where", "")):
        wanted.append(("peft", "lm", "where=lora", "error"))
    if plan.job.settings.tensorboard:
        wanted.append(("tensorboard", "track", "tensorboard=true", "error"))
    missing = [(library, extra, what, level) for library, extra, what, level in wanted if find_spec(library) is None]
    for library, extra, what, level in missing:
        yield Finding(level, f"{library} is not installed, which {what} need{'' if what.endswith('s') else 's'}.", install(extra))
    if not missing:
        yield Finding("ok", f"Libraries: {', '.join(library for library, *_ in wanted)}.")

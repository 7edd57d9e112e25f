"""The frame of results: when, by which command, with which versions of the software. No torch."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lethe.core.extras import own_version
from lethe.results.schema import Results, Scenario


def frame(run: str, title: str, command: str, config: Mapping[str, Any], scenarios: Sequence[Scenario], seconds: float,
          device: str, threads: int) -> Results:
    """The results around finished scenarios."""
    return Results(id=run, title=title, created=datetime.now(UTC).isoformat(timespec="seconds"), command=command, seconds=seconds,
                   config=dict(config), scenarios=tuple(scenarios), versions={**versions(), "device": device, "threads": threads})


@cache
def versions() -> dict[str, str]:
    """Versions of what computes the numbers; git revision where the package stands in a repository."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}", "lethe": own_version()}
    for name in ("torch", "numpy", "scipy", "transformers", "diffusers", "peft"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    here = Path(__file__).resolve().parent
    try:
        asked = ["git", "-C", str(here), "describe", "--always", "--dirty"]
        found["git"] = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return found

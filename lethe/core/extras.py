"""Optional libraries: the one place that knows how they are installed."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from lethe.errors import RequestError

DISTRIBUTION = "lethe-unlearning"   # on the public index `lethe` is somebody else's library
Extra = Literal["lm", "gguf", "diffusion", "report", "data", "track", "search", "slurm", "ray", "dev"]


def install(extra: Extra) -> str:
    """The command that installs an extra of this distribution."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def own_version() -> str:
    """The version of Lethe: of the installed distribution, else (a source tree that is not installed) what the package states."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return str(importlib.import_module("lethe").__version__)


def needs_extra(extra: Extra, what: str, library: str, consequence: str = "nothing was started") -> RequestError:
    """The error of work that needs a library that is not installed: `raise needs_extra("lm", "where=lora", "PEFT") from None`."""
    return RequestError(f"{what} needs {library}, which is not installed, so {consequence}. {install(extra)}")

"""What a caller adds to a request. None of it changes a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """Where data and caches lie, what is told to whom, and what is written beside the results."""

    data_root: Path | None = None
    command: str = "lethe"
    again: bool = False
    export: bool = False
    allow_pickle: bool = False
    progress: bool = True
    say: Say = lambda text: None
    cache: Path | None = None     # models trained before; None: `.cache` beside the runs, and none from Python

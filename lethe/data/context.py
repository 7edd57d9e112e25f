"""Where a request is carried out: the folders that reading may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Context:
    """Where a request is carried out. `data_root` is the user's folder of data sets; `cache` may be written."""

    data_root: Path | None = None
    cache: Path = Path(".cache/lethe")
    allow_pickle: bool = False
    progress: Callable[[str], None] = lambda text: None


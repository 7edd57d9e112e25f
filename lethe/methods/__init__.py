"""Methods, one file each, found by their file name. `lethe.methods.SalUn` is the config class of salun."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    from lethe.core.catalogue import entries

    for entry in entries("methods").values():
        if entry.config == name:
            return getattr(importlib.import_module(entry.module), name)
    raise AttributeError(f"module 'lethe.methods' has no method config {name!r}")

"""Audits, one file each, found by their file name. `lethe.audits.Klom` is the config class of klom."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    from lethe.core.catalogue import entries

    for entry in entries("audits").values():
        if entry.config == name:
            return getattr(importlib.import_module(entry.module), name)
    raise AttributeError(f"module 'lethe.audits' has no audit config {name!r}")

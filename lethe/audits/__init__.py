"""Audits, one file each, found by their file name. `lethe.audits.KLoM` is the config class of klom."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    from lethe.core.catalogue import config_class

    return config_class("audits", name)

"""Methods, one file each, found by their file name. `lethe.methods.SalUn` is the config class of salun."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    from lethe.core.catalogue import config_class

    return config_class("methods", name)

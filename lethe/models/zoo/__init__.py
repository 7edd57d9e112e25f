"""Models that presets and tests train from scratch, one file each.

A file holds the public class or function that is called as the file, case and underscores aside (`small_cnn.py`:
`SmallCNN`); its arguments are `model.options` of a request. `lethe describe zoo` lists them.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from lethe.core.catalogue import load


def build(name: str, **options: Any) -> nn.Module:
    """A model of the zoo by name, with fresh weights."""
    model: nn.Module = load("zoo", name)(**options)
    return model

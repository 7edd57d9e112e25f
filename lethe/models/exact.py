"""The ensemble that `lethe train` writes, as a factory: `model: {code: lethe.models.exact:ensemble, weights: …, …}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lethe.core.code import offered
from lethe.exact.ensemble import Ensemble
from lethe.models.load import factory


@offered
def ensemble(members: int, head: str, zoo: str | None = None, code: str | None = None, options: Mapping[str, Any] | None = None
             ) -> nn.Module:
    """`members` models of the zoo or of code, joined at their heads; its weights are to be loaded."""
    return Ensemble(factory(zoo, code, options)(), head, members)

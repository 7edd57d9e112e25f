"""How a network of several inputs is called: by the names of its `forward`, with a dictionary, or one input after the other.

A split has its one input in column `x`; where there are several, a column for each: `x.image`, `x.age`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from lethe.core.split import Batch
from lethe.errors import ModelError

Way = Literal["alone", "names", "dictionary", "order"]


def way_of(model: nn.Module, names: Sequence[str]) -> Way:
    """How `model` takes inputs of these names; () for the one input that has none.

    forward(image, age), and every name is one of its parameters: by name; forward(inputs): a dictionary; any other names for as
    many parameters: in the order of the columns. ModelError when none of these fits.
    """
    if not names:
        return "alone"
    known = inspect.signature(model.forward).parameters
    kinds = [one.kind for one in known.values()]
    if all(name in known for name in names) or inspect.Parameter.VAR_KEYWORD in kinds:
        return "names"
    placed = [one for one in known.values() if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    required = sum(one.default is one.empty for one in placed)
    if required == 1:
        return "dictionary"
    if required <= len(names) <= len(placed) or inspect.Parameter.VAR_POSITIONAL in kinds:
        return "order"
    raise ModelError(f"the data have {len(names)} inputs ({', '.join(names)}) and forward of {type(model).__name__} takes "
                     f"({', '.join(known)}), so it is not clear which is which. Let forward take these names, or one dictionary "
                     "of them.")


def asked(model: nn.Module, batch: Batch, way: Way) -> Any:
    """What the model returns for the inputs of a batch."""
    given = batch.given()
    if not isinstance(given, dict):
        return model(given)
    if way == "names":
        return model(**given)
    return model(given) if way == "dictionary" else model(*given.values())

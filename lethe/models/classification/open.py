"""How a classifier comes in: from Python, or from a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from lethe.core.config import build
from lethe.core.registry import family
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.data.context import Context
from lethe.data.load import Data
from lethe.models.classification.task import Classification
from lethe.models.heads import ModelSource, divided, opened
from lethe.models.opened import Opened


def classification(
    model: nn.Module,
    train: Split | tuple[Any, Any] | Any,
    forget: Any,
    holdout: Split | tuple[Any, Any] | Any = None,
    test: Split | tuple[Any, Any] | Any = None,
    recipe: Recipe | None = None,
    build: Callable[[int], nn.Module] | None = None,
    name: str = "classification",
    head: str | None = None,
) -> Classification:
    """A task from any classifier and data in memory.

    train, holdout, test  (x, y) arrays or tensors, a torch Dataset, or a Split
    forget                a selection (`lethe.where(label=3)`), or positions in `train`
    build                 seed -> fresh model, for retraining; default: a copy with re-drawn weights
    """
    from lethe.data.arrays import as_split

    splits = divided(train, forget, as_split, holdout=holdout, test=test)
    return Classification(model, splits, recipe, build, name, head=head)


@family(model=ModelSource, data=Data)
def open_request(request: Any, context: Context) -> Opened:
    """Read `model` and `data` of a classification request."""
    source = build(ModelSource, request.model)
    return opened(request, context, source, lambda model, parts, recipe, fresh, name: Classification(
        model, parts, recipe, fresh, name, head=source.head))


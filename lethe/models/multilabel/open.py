"""Classifiers with several labels per example: making tasks in Python, or from a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lethe.core.config import build
from lethe.core.registry import family
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.data.arrays import as_split
from lethe.data.context import Context
from lethe.data.load import Data
from lethe.models.answer import AUTO, Place
from lethe.models.heads import ModelSource, divided, from_files, opened, reader, saved_family
from lethe.models.multilabel.task import Multilabel
from lethe.models.opened import Load, Make, Opened, SavedFiles, Sections


def multilabel(
    model: nn.Module,
    train: Split | tuple[Any, Any] | Any,
    forget: Any,
    holdout: Split | tuple[Any, Any] | Any = None,
    test: Split | tuple[Any, Any] | Any = None,
    recipe: Recipe | None = None,
    build: Callable[[int], nn.Module] | None = None,
    name: str = "multilabel",
    head: str | None = None,
    output: Place = AUTO,
    inputs: Sequence[str] = (),
) -> Multilabel:
    """A task from any classifier with several labels per example, trained by binary cross-entropy, and data in memory.

    train, holdout, test  (x, y) arrays or tensors, y [n, L] of 0 and 1; a torch Dataset, or a Split
    forget                a selection (`lethe.where(ids=[…])`), or positions in `train`
    build                 seed -> fresh model, for retraining; default: a copy with re-drawn weights
    inputs                columns of a mapping that are its inputs; default: x, or those that `forward` names
    output                which part of what the model returns are its logits, where it is not the only tensor
    """
    splits = divided(train, forget, reader(as_split, model, inputs), holdout=holdout, test=test)
    return Multilabel(model, splits, recipe, build, name, head=head, output=output)


def open_files(files: SavedFiles) -> tuple[Make, Load]:
    """Classifiers with several labels and their data in files, see `from_files`."""
    return from_files(files, ModelSource, lambda model, splits, source, facts: Multilabel(
        model, splits, None, None, "audit of files", facts, head=source.head, output=source.output))


def is_saved(path: Path) -> bool:
    """Whether a path is a folder that such a model was saved in; of bare weights, name the family."""
    return saved_family(path) == Multilabel.family


@family(model=ModelSource, data=Data, make="multilabel", files=open_files, recognises=is_saved)
def open_request(sections: Sections, context: Context) -> Opened:
    """Read `model` and `data` of a request with several labels per example."""
    source = build(ModelSource, sections.model)
    return opened(sections, context, source, lambda model, parts, recipe, fresh, name, facts, form: Multilabel(
        model, parts, recipe, fresh, name, facts, head=source.head, output=source.output, form=form))

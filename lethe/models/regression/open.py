"""Regressors and forecasters: making tasks in Python, or from a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lethe.core.config import build
from lethe.core.registry import family
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.data.context import Context
from lethe.data.load import Data
from lethe.models.answer import AUTO, Place
from lethe.models.heads import divided, from_files, opened, reader, saved_family
from lethe.models.opened import Load, Make, Opened, SavedFiles, Sections
from lethe.models.regression.task import Loss, Others, Regression, RegressionSource, numbered


def regression(
    model: nn.Module,
    train: Split | tuple[Any, Any] | Any,
    forget: Any,
    holdout: Split | tuple[Any, Any] | Any = None,
    test: Split | tuple[Any, Any] | Any = None,
    recipe: Recipe | None = None,
    build: Callable[[int], nn.Module] | None = None,
    name: str = "regression",
    loss: Loss = "squared",
    others: Others = "gaussian",
    head: str | None = None,
    output: Place = AUTO,
    inputs: Sequence[str] = (),
) -> Regression:
    """A task from any regressor or forecaster and data in memory.

    train, holdout, test  (x, y) arrays or tensors, y real numbers [n] or [n, h]; a torch Dataset, or a Split
    forget                a selection (`lethe.where(query="y < 2")`), or positions in `train`
    build                 seed -> fresh model, for retraining; default: a copy with re-drawn weights
    loss                  squared | absolute | huber
    inputs                columns of a mapping that are its inputs; default: x, or those that `forward` names
    output                which part of what the model returns are its predictions, where it is not the only tensor
    """
    splits = divided(train, forget, reader(numbered, model, inputs), holdout=holdout, test=test)
    return Regression(model, splits, recipe, build, name, loss=loss, others=others, head=head, output=output)


def open_files(files: SavedFiles) -> tuple[Make, Load]:
    """Regressors and their data in files, see `from_files`."""
    return from_files(files, RegressionSource, lambda model, splits, source, facts: Regression(
        model, splits, None, None, "audit of files", facts, loss=source.loss, others=source.others, head=source.head,
        output=source.output))


def is_saved(path: Path) -> bool:
    """Whether a path is a folder that such a model was saved in; of bare weights, name the family."""
    return saved_family(path) == Regression.family


@family(model=RegressionSource, data=Data, make="regression", files=open_files, recognises=is_saved)
def open_request(sections: Sections, context: Context) -> Opened:
    """Read `model` and `data` of a regression request."""
    source = build(RegressionSource, sections.model)
    return opened(sections, context, source, lambda model, parts, recipe, fresh, name, facts, form: Regression(
        model, parts, recipe, fresh, name, facts, loss=source.loss, others=source.others, head=source.head,
        output=source.output, form=form))


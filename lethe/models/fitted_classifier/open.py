"""Classifiers of any library (scikit-learn, boosted trees, Keras), behind a function that fits and one that predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lethe.core.config import build
from lethe.core.registry import family
from lethe.core.split import Split
from lethe.data.arrays import as_split
from lethe.data.context import Context
from lethe.data.load import Data
from lethe.models.fitted import FittedClassifier, FittedSource, in_memory, opened
from lethe.models.opened import Opened, Sections


def fitted_classifier(
    fit: Callable[..., Any],
    train: Split | tuple[Any, Any] | Any,
    forget: Any,
    holdout: Split | tuple[Any, Any] | Any = None,
    test: Split | tuple[Any, Any] | Any = None,
    predict: Callable[..., Any] | None = None,
    model: Any = None,
    seed: int = 0,
    name: str = "fitted_classifier",
) -> FittedClassifier:
    """A task from a function that fits a model of any library.

    fit      (x, y, seed) -> fitted model; predict  (model, x) -> answers, see `lethe.models.fitted`
    model    the fitted original; None: `fit` makes it of all training data, with `seed`
    forget   a selection (`lethe.where(label=3)`), or positions in `train`
    """
    return in_memory(FittedClassifier, fit, predict, model, seed, name, as_split, train, forget, holdout=holdout, test=test)


@family(model=FittedSource, data=Data, method="retrain", make="fitted_classifier")
def open_request(sections: Sections, context: Context) -> Opened:
    """Read `model` and `data` of a request for a classifier of any library."""
    return opened(FittedClassifier, build(FittedSource, sections.model), sections, context)

"""Classifiers: making tasks in Python, or from a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lethe.core.config import build
from lethe.core.registry import family
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.data import transform
from lethe.data.context import Context
from lethe.data.load import Data, load_parts
from lethe.errors import RequestError
from lethe.models.answer import AUTO, Place, Returns
from lethe.models.classification.task import Classification, ClassifierSource
from lethe.models.deployed import deployed, is_deployed
from lethe.models.heads import divided, opened, reader, saved_family
from lethe.models.load import load_classifier
from lethe.models.opened import Load, Make, Opened, SavedFiles, Sections
from lethe.models.weights import PICKLED


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
    output: Place = AUTO,
    returns: Returns = "logits",
    inputs: Sequence[str] = (),
) -> Classification:
    """A task from any classifier and data in memory.

    train, holdout, test  (x, y) arrays or tensors, a torch Dataset, or a Split; of a model with several inputs x is a dictionary
    forget                a selection (`lethe.where(label=3)`), or positions in `train`
    build                 seed -> fresh model, for retraining; default: a copy with re-drawn weights
    inputs                columns of a mapping that are its inputs; default: x, or those that `forward` names
    output, returns       which part of what the model returns are its outputs, and what these are; see `ClassifierSource`
    """
    from lethe.data.arrays import as_split

    splits = divided(train, forget, reader(as_split, model, inputs), holdout=holdout, test=test)
    return Classification(model, splits, recipe, build, name, head=head, output=output, returns=returns)


def open_files(files: SavedFiles) -> tuple[Make, Load]:
    """Classifiers from safetensors or .npz, put into what `model.zoo` or `model.code` makes; data files of any kind."""
    options = dict(files.model)
    source = build(ClassifierSource, {key: options.pop(key) for key in ("head", "output", "returns") if key in options})
    if not options.keys() & {"zoo", "code"}:
        raise RequestError(f"{files.unlearned} holds weights, but not what to put them into; nothing was read. Provide "
                           "model.code=path/to/file.py:factory, or model.zoo=….")
    splits = load_parts(files.parts, files.data)

    def load(path: str) -> nn.Module:
        if is_deployed(path):
            return deployed(path)
        inner = Path(path) / "model.safetensors"
        return load_classifier(**options, weights=inner if inner.exists() else path, allow_pickle=files.allow_pickle)

    about = transform.facts(files.data)
    return lambda model: Classification(model, splits, None, None, "audit of files", dict(about), head=source.head,
                                        output=source.output, returns=source.returns), load


def is_saved(path: Path) -> bool:
    """Whether a path is a file of weights, a folder with one that was saved of a classifier, or a deployed model."""
    return is_deployed(path) or path.suffix in (".safetensors", ".npz", *PICKLED) or saved_family(path) == Classification.family


@family(model=ClassifierSource, data=Data, make="classification", files=open_files, recognises=is_saved)
def open_request(sections: Sections, context: Context) -> Opened:
    """Read `model` and `data` of a classification request."""
    source = build(ClassifierSource, sections.model)
    return opened(sections, context, source, lambda model, parts, recipe, fresh, name, facts, form: Classification(
        model, parts, recipe, fresh, name, facts, head=source.head, output=source.output, returns=source.returns, form=form))


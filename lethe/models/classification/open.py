"""Classifiers: making tasks in Python, or from a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.config import build
from lethe.core.modules import evaluating
from lethe.core.passes import drawn, rows
from lethe.core.registry import family
from lethe.core.split import Split
from lethe.core.store import with_columns
from lethe.core.task import Recipe
from lethe.data.context import Context
from lethe.data.load import Data
from lethe.models.adapter import is_adapter, is_of_language
from lethe.models.answer import AUTO, Place, Returns
from lethe.models.classification.task import Classification, ClassifierSource
from lethe.models.deployed import is_deployed
from lethe.models.heads import divided, from_files, opened, reader, saved_family
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
    """Classifiers and their data in files, see `from_files`. Without labels (data.y='') the original's answers stand for them."""
    return from_files(files, ClassifierSource, _task, labels=False)


def _task(model: nn.Module, splits: dict[str, Split], source: ClassifierSource, facts: dict[str, Any]) -> Classification:
    def of(parts: dict[str, Split]) -> Classification:
        return Classification(model, parts, None, None, "audit of files", facts, head=source.head, output=source.output,
                              returns=source.returns)

    bare = {name: split for name, split in splits.items() if "y" not in split.columns}
    if not bare:
        return of(splits)
    asked, said = of(splits | {name: _labelled(split, torch.zeros(len(split)).long()) for name, split in bare.items()}), {}
    with evaluating(model):
        for name, split in bare.items():
            batches = drawn(asked, asked.splits[name], 256, ("labels",))
            logits = rows(lambda batch: asked.outputs(model, batch), batches, len(split))
            said[name] = _labelled(split, logits.argmax(1))
    facts["labels"] = f"none in {', '.join(bare)}: the first model's answers stand for them, so accuracy is agreement with it"
    return of(splits | said)


def _labelled(split: Split, y: Tensor) -> Split:
    return replace(split, columns=with_columns(split.columns, {"y": y}))


def is_saved(path: Path) -> bool:
    """Whether a path is a file of weights, a folder with one that was saved of a classifier, a LoRA adapter on a model of the
    user's, or a deployed model."""
    return (is_deployed(path) or path.suffix in (".safetensors", ".npz", *PICKLED) or saved_family(path) == Classification.family
            or (is_adapter(path) and not is_of_language(path)))


@family(model=ClassifierSource, data=Data, make="classification", files=open_files, recognises=is_saved)
def open_request(sections: Sections, context: Context) -> Opened:
    """Read `model` and `data` of a classification request."""
    source = build(ClassifierSource, sections.model)
    return opened(sections, context, source, lambda model, parts, recipe, fresh, name, facts, form: Classification(
        model, parts, recipe, fresh, name, facts, head=source.head, output=source.output, returns=source.returns, form=form))


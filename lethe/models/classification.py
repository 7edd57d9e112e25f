"""Classification: any `nn.Module` that maps a batch of inputs [n, …] to logits [n, K].

Saved as `model.safetensors` (the state dict): `model.load_state_dict(safetensors.torch.load_file(...))`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core import losses
from lethe.core.config import build, config
from lethe.core.data import Batch, Split
from lethe.core.modules import evaluating
from lethe.core.opened import Context, Opened
from lethe.core.task import Recipe, Task
from lethe.errors import DataError, LabelOutOfRange, ModelError, NotFinite, OutputShape, WrongColumn, unknown_name


class ClassificationTask(Task):
    """Columns: `x` [n, …] (float, or uint8 images that are scaled to [0, 1]) and `y` [n] class numbers.

    head  name of the module whose input is the features; default: the last linear layer that ends in K outputs
    """

    family = "classification"
    score_name = "accuracy"

    def __init__(
        self,
        original: nn.Module,
        splits: dict[str, Split],
        recipe: Recipe | None = None,
        build: Callable[[int], nn.Module] | None = None,
        name: str = "classification",
        facts: dict[str, Any] | None = None,
        classes: list[str] | None = None,
        head: str | None = None,
    ) -> None:
        self._head, self.classes = head, classes
        super().__init__(original, splits, recipe, build, name, facts)

    # -- operations ------------------------------------------------------------------------------------------------

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy.  -> [n]"""
        return losses.cross_entropy(self.outputs(model, batch), batch.y)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits.  -> [n, K]"""
        return model(inputs(batch.x))

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """T²·KL(p ‖ q) of the softmax distributions.  -> [n]"""
        return losses.kl(p, q, temperature)

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """What enters the head.  -> [n, d]"""
        return self._forward(model, batch)[1]

    def relabel(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Labels uniform over the other K − 1 classes."""
        shift = torch.randint(1, self.class_count, (len(batch),), generator=rng).to(batch.y.device)
        return batch.replace(y=(batch.y + shift) % self.class_count)

    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """nll, score (correct), signal and margin (logit-scaled confidence), logits [n, K], features [n, d]."""
        logits, features = self._forward(model, batch)
        margin = losses.margin(logits, batch.y)
        return {
            "nll": losses.cross_entropy(logits, batch.y),
            "score": (logits.argmax(-1) == batch.y).float(),
            "signal": margin.float(),
            "margin": margin,
            "logits": logits.float(),
            "features": features.float(),
            "y": batch.y,
        }

    def draw(self, batch: Batch, rng: torch.Generator, train: bool) -> Batch:
        if not train or self._recipe is None or self._recipe.augment == "none":
            return batch
        return batch.replace(x=augmented(inputs(batch.x), self._recipe.augment, rng), drawn=True)

    def save_model(self, model: nn.Module, folder: Path) -> None:
        from safetensors.torch import save_model

        model = model.cpu()
        save_model(model, str(folder / "model.safetensors"))
        about = {"family": self.family, "classes": self.class_count, "names": self.classes}
        (folder / "lethe.json").write_text(json.dumps(about) + "\n")

    # -- what only classifiers have ----------------------------------------------------------------------------------

    @property
    def class_count(self) -> int:
        """K."""
        return self._classes

    @property
    def head(self) -> str:
        """Name of the module whose input is the features."""
        if self._head is None:
            found = [name for name, m in self._original.named_modules()
                     if isinstance(m, nn.Linear) and m.out_features == self._classes]
            if not found:
                raise ModelError(f"no linear layer with {self._classes} outputs was found in "
                                 f"{type(self._original).__name__}, so its features cannot be read. Name the "
                                 "classifier head: head='…'.")
            self._head = found[-1]
        return self._head

    def check_family(self) -> None:
        """Labels and output shape, before any work starts."""
        for name, split in self._splits.items():
            for column in ("x", "y"):
                if column not in split.columns:
                    raise WrongColumn(f"{name} has no column {column!r}, so there is no "
                                      f"{'input' if column == 'x' else 'label'}. Columns: {', '.join(split.columns)}; "
                                      "name them x and y.")
            if split.columns["y"].dtype != torch.int64 or split.columns["y"].dim() != 1:
                y = split.columns["y"]
                raise DataError(f"y of {name!r} is {str(y.dtype).removeprefix('torch.')} {list(y.shape)}, but class "
                                "numbers are int64 [n], so no loss can be computed. Give y.long(), or y.argmax(1) for "
                                "one-hot labels.")
        parameter = next(self._original.parameters(), None)
        if parameter is None:
            raise ModelError(f"{type(self._original).__name__} has no parameters, so there is nothing to unlearn. Give "
                             "the trained module itself.")
        some = next(iter(self._splits.values())).batch([0, min(1, len(next(iter(self._splits.values()))) - 1)])
        try:
            with evaluating(self._original):
                logits = self._original(inputs(some.x.to(parameter.device)))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ModelError(f"the model cannot take inputs {list(some.x.shape)} "
                             f"({str(some.x.dtype).removeprefix('torch.')}): {str(error).splitlines()[0]}. Nothing was "
                             "started; bring the inputs to the shape it was "
                             "trained on.") from error
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(some):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise OutputShape(f"the model returns {shape} for {len(some)} examples, but a classifier must return "
                              f"logits [{len(some)}, K], so no loss can be computed. Wrap it so that forward(x) "
                              "returns "
                              "logits.")
        if logits.isnan().any():
            raise NotFinite("the model returns NaN for examples "
                            f"{', '.join(map(str, next(iter(self._splits.values())).ids[:2]))}, so "
                            "every result would be NaN. Check its inputs (scaling) and its weights.")
        self._classes = logits.shape[1]
        for name, split in self._splits.items():
            y = split.columns["y"]
            wrong = (y < 0) | (y >= self._classes)
            if wrong.any():
                place = int(wrong.nonzero()[0])
                raise LabelOutOfRange(f"label {int(y[place])} of example {split.ids[place]} in {name!r} has no output: "
                                      f"the model has {self._classes} classes (0…{self._classes - 1}). Correct the "
                                      "labels or the "
                                      "model.")

    def _forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits and the head's input from one forward pass."""
        caught: list[Tensor] = []
        handle = model.get_submodule(self.head).register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            logits = self.outputs(model, batch)
        finally:
            handle.remove()
        return logits, caught[-1].flatten(1)


def inputs(x: Tensor) -> Tensor:
    """Images stored as bytes become floats in [0, 1]; everything else passes."""
    return x.float().div(255) if x.dtype == torch.uint8 else x


def augmented(x: Tensor, kind: str, rng: torch.Generator) -> Tensor:
    """Training-time augmentation of images [n, C, H, W]. flip_crop: mirror with probability ½, shift by up to 4 pixels."""
    if kind != "flip_crop":
        raise unknown_name("augmentation", kind, ["none", "flip_crop"])
    n, _, height, width = x.shape
    flip = torch.rand(n, generator=rng) < 0.5
    x = torch.where(flip.view(-1, 1, 1, 1).to(x.device), x.flip(-1), x)
    padded = nn.functional.pad(x, (4, 4, 4, 4))
    down, right = torch.randint(0, 9, (2, n), generator=rng)
    rows = (down.view(-1, 1) + torch.arange(height)).to(x.device)
    columns = (right.view(-1, 1) + torch.arange(width)).to(x.device)
    which = torch.arange(n, device=x.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[which, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2).contiguous()


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
) -> ClassificationTask:
    """A task from any classifier and data in memory.

    train, holdout, test  (x, y) arrays or tensors, a torch Dataset, or a Split
    forget                a selection (`lethe.where(label=3)`), or positions in `train`
    build                 seed -> fresh model, for retraining; default: a copy with re-drawn weights
    """
    from lethe.data.arrays import as_split
    from lethe.data.select import divide

    forgotten, retained = divide(as_split(train, "train"), forget)
    splits = {"forget": forgotten, "retain": retained}
    for key, value in (("holdout", holdout), ("test", test)):
        if value is not None:
            splits[key] = as_split(value, key)
    return ClassificationTask(model, splits, recipe, build, name, head=head)


@config
class ModelSource:
    """`model:` of a classification request. One of zoo or code says what is built; weights (safetensors) what it knows."""

    zoo: str | None = None                      # small_cnn | mlp | lenet5 | cifar_resnet
    options: Mapping[str, Any] = field(default_factory=dict)   # arguments of the zoo model or of the factory
    code: str | None = None                     # path/to/file.py:factory, a function that returns the module
    weights: str | None = None                  # safetensors state dict; none: the recipe trains the model first
    start: str | None = None                    # weights from which the recipe starts (fine-tuning); retraining is not exact then
    head: str | None = None                     # name of the classifier head; default: the last linear layer with K outputs


def open_request(request: Any, context: Context) -> Opened:
    """Read `model` and `data` of a classification request."""
    from lethe.data.load import load
    from lethe.models.load import load_classifier

    source = build(ModelSource, request.model)
    splits = load(request.data, context)
    recipe = build(Recipe, request.recipe) if request.recipe is not None else None

    def fresh(seed: int) -> nn.Module:
        return loaded(source.start) if source.start else load_classifier(zoo=source.zoo, code=source.code, options=source.options)

    def task(model: nn.Module, parts: dict[str, Split], name: str) -> ClassificationTask:
        return ClassificationTask(model, parts, recipe, fresh, name, head=source.head)

    def loaded(path: str | Path) -> nn.Module:
        return load_classifier(zoo=source.zoo, code=source.code, options=source.options, weights=path,
                               allow_pickle=context.allow_pickle, data_root=context.data_root)

    return Opened(splits, task, lambda folder: loaded(folder / "model.safetensors"),
                  loaded(source.weights) if source.weights else None, recipe, fresh,
                  "the starting weights have seen the forget data" if source.start else "")

"""What classifiers and regressors share: any `nn.Module` that maps inputs [n, …] to a vector of outputs by a linear head.

Saved as `model.safetensors` (the state dict): `model.load_state_dict(safetensors.torch.load_file(...))`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.config import build, config
from lethe.core.families.headed import HeadedTask
from lethe.core.inputs import Way, asked, way_of
from lethe.core.modules import copied, evaluating, has_convolutions, hooked
from lethe.core.split import SEVERAL, Batch, Split, input_columns, pixels
from lethe.core.task import Recipe, Task
from lethe.data import transform
from lethe.data.context import Context
from lethe.data.load import load_parts
from lethe.errors import DataError, ModelError, NotFinite, RequestError, WrongColumn, nearest
from lethe.models.adapter import attached, is_adapter, merged
from lethe.models.answer import AUTO, Place, picked
from lethe.models.deployed import deployed, is_deployed
from lethe.models.opened import Load, Make, Opened, SavedFiles, Sections
from lethe.models.weights import Form, InItsForm, halved


class HeadTask(InItsForm, HeadedTask):
    """Columns: `x` [n, …] (float, or uint8 images that are scaled to [0, 1]) and `y`, the targets.

    head    name of the module whose input is the features; default: the last linear layer with as many outputs as the model
    output  which part of what the model returns are its outputs, see `lethe.models.answer`
    form    how the weights stood in their file: `save_model` writes the same
    """

    def __init__(
        self,
        original: nn.Module,
        splits: Mapping[str, Split],
        recipe: Recipe | None = None,
        build: Callable[[int], nn.Module] | None = None,
        name: str = "",
        facts: dict[str, Any] | None = None,
        head: str | None = None,
        output: Place = AUTO,
        form: Form | None = None,
    ) -> None:
        self._head, self._width, self._output = head, 0, output
        self._way: Way = "alone"   # how several inputs are passed
        self._names: tuple[str, ...] = ()
        types = halved(original)
        self.form = form or Form(types=types)
        whole = copied(original, trainable=True).float() if types else original
        super().__init__(whole, splits, recipe, build, name or self.family, facts)

    @property
    def width(self) -> int:
        """Outputs of the model."""
        return self._width

    @property
    def head(self) -> str:
        """Name of the module whose input is the features."""
        assert self._head is not None, "check_head finds it"
        return self._head

    @property
    def head_rows(self) -> int:
        """Outputs of the head: those of the model, unless the family makes several of one."""
        return self._width

    def _find_head(self, original: nn.Module) -> None:
        if self._head is None:
            found = [name for name, m in original.named_modules()
                     if isinstance(m, nn.Linear) and m.out_features == self.head_rows]
            if not found:
                raise ModelError(f"no linear layer with {self.head_rows} outputs was found in "
                                 f"{type(original).__name__}, so its features cannot be read; nothing was started. Name "
                                 f"the module whose input is the features: head='…', in a request model.head.")
            self._head = found[-1]

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the model answers.  -> [n, K]"""
        return self.answers(model, batch)

    def answers(self, model: nn.Module, batch: Batch) -> Tensor:
        """The outputs as the model returns them.  -> [n, K] or [n]"""
        return picked(asked(model, batch, self._way), self._output)

    @property
    def serves(self) -> frozenset[str]:
        """Without `inputs` where there are several: what changes or compares the input knows one, `x`."""
        return self.provides if self._way == "alone" else self.provides - {"inputs"}

    def unserved(self, operations: Iterable[str]) -> str:
        several = self._way != "alone" and "inputs" in operations
        return f"a model with several inputs ({', '.join(self._names)})" if several else "a model with a single output"

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """What enters the head.  -> [n, d]"""
        return self.forward(model, batch)[1]

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Outputs and the head's input from one forward pass.  -> [n, K], [n, d]"""
        outputs, inner = self._watched(model, batch, within(model, self.head))
        if inner is None:
            raise ModelError(f"head={self.head!r} is not used when the model answers, so its features cannot be read. Name the "
                             "module whose input are the features: head='…', in a request model.head.")
        return outputs, inner

    def observed(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs and {"features": the head's input}; {} for a model that only answers: exported, served."""
        heads = modules_called(model, self.head)
        outputs, inner = self._watched(model, batch, heads[0] if len(heads) == 1 else None)
        return outputs, {} if inner is None else {"features": inner.float()}

    def _watched(self, model: nn.Module, batch: Batch, head: nn.Module | None) -> tuple[Tensor, Tensor | None]:
        caught: list[Tensor] = []
        handles = [] if head is None else [head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))]
        with hooked(*handles):
            outputs = self.outputs(model, batch)
        return outputs, caught[-1].flatten(1) if caught else None

    @property
    def augmentations(self) -> tuple[str, ...]:
        return ("flip_crop",) if self._pictures or self._names else ()   # of several inputs: see _require_alike

    def draw(self, batch: Batch, rng: torch.Generator, train: bool) -> Batch:
        if not train or self.augmentation == "none":
            return batch
        pictures = {key: flipped_and_cropped(pixels(batch.columns[key]), rng) for key in input_columns(batch.columns)
                    if batch.columns[key].dim() == 4}
        return batch.replace(drawn=True, **pictures)

    def has(self, what: str) -> bool:
        """Besides splits, original and recipe: "pictures" (x is [n, C, H, W]) and "convolutions"."""
        if what == "pictures":
            return self._pictures
        return self._convolutions if what == "convolutions" else super().has(what)

    def about(self) -> dict[str, Any]:
        return {"outputs": self._width, **transform.prepared(self.facts)}

    def tried(self, original: nn.Module, splits: Mapping[str, Split]) -> tuple[Batch, Tensor]:
        """Two examples and what the original answers to them, or an error with the reason why it cannot take them."""
        for name, split in splits.items():
            for column, there in (("x", split.inputs), ("y", "y" in split.columns)):
                if not there:
                    raise WrongColumn(f"{name} has no column {column!r}, so there is no "
                                      f"{'input' if column == 'x' else 'label'}. Columns: {', '.join(split.columns)}; "
                                      "name them x and y.")
        parameter = next(original.parameters(), None)
        if parameter is None:
            raise ModelError(f"{type(original).__name__} has no parameters, so there is nothing to unlearn. Pass "
                             "the trained module itself.")
        first = next(iter(splits.values()))
        self._names = tuple(key.removeprefix(SEVERAL) for key in first.inputs if key != "x")
        self._way = way_of(original, self._names)
        self._require_alike(splits)
        self._pictures = not self._names and all(len(split.shape("x")) == 4 for split in splits.values())
        self._convolutions = has_convolutions(original)
        some = first.batch([0, min(1, len(first) - 1)])
        try:
            with evaluating(original):
                raw = asked(original, some.to(parameter.device), self._way)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            shown = ", ".join(f"{key.removeprefix(SEVERAL) + ' ' if self._names else ''}{list(some.columns[key].shape)} "
                              f"({str(some.columns[key].dtype).removeprefix('torch.')})" for key in first.inputs)
            raise ModelError(f"the model cannot take inputs {shown}: {(str(error).splitlines() or [''])[0]}. Nothing was "
                             "started; bring the inputs to the shape it was "
                             "trained on.") from error
        found = picked(raw, self._output)
        if found.isnan().any():
            raise NotFinite(f"the model returns NaN for examples {', '.join(map(str, first.ids[:2]))}, so every result "
                            "would be NaN. Check its inputs (scaling) and its weights.")
        return some, found

    def _require_alike(self, splits: Mapping[str, Split]) -> None:
        """DataError unless all splits have the same inputs, and random steps of training know which of them to change."""
        wanted = next(iter(splits.values()))
        for name, split in splits.items():
            if set(split.inputs) != set(wanted.inputs):
                raise DataError(f"{name} has the inputs {', '.join(split.inputs)} and {wanted.name} has "
                                f"{', '.join(wanted.inputs)}, so no model takes both. Provide the same in all.")
        pictures = sum(len(wanted.shape(key)) == 4 for key in wanted.inputs)
        if self._names and self.augmentation != "none" and pictures != 1:
            raise RequestError(f"recipe.augment = {self.augmentation} changes pictures, and {pictures} of the inputs "
                               f"{', '.join(self._names)} are some, so it is not clear which is meant. Set augment: none.")

    def check_head(self, original: nn.Module, some: Batch) -> None:
        """ModelError unless the head is found and used: every audit and the watchdog read features."""
        self._find_head(original)
        with evaluating(original):
            self.forward(original, some.to(next(original.parameters()).device))


def saved_family(folder: Path) -> str:
    """The family that `save_model` has written beside the weights of a folder; empty where it is no such folder."""
    about = folder / "lethe.json"
    return str(json.loads(about.read_text(encoding="utf-8")).get("family", "")) if about.exists() else ""


def within(model: nn.Module, name: str) -> nn.Module:
    """The module of this name in the model or, when the model is wrapped in another (a guard), in what is wrapped."""
    found = modules_called(model, name)
    if len(found) != 1:
        named = [other for other, _ in model.named_modules()]
        raise ModelError(f"{type(model).__name__} has {len(found)} modules called {name!r}{nearest(name, named)}, so its "
                         "features cannot be read. Name the head of the model: head='…', in a request model.head.")
    return found[0]


def modules_called(model: nn.Module, name: str) -> list[nn.Module]:
    """The module of this name, else those in what is wrapped that end in it."""
    named = dict(model.named_modules())
    return [named[name]] if name in named else [module for other, module in named.items() if other.endswith(f".{name}")]


def flipped_and_cropped(x: Tensor, rng: torch.Generator) -> Tensor:
    """Images [n, C, H, W] mirrored with probability ½ and shifted by up to 4 pixels."""
    n, _, height, width = x.shape
    flip = torch.rand(n, generator=rng) < 0.5
    x = torch.where(flip.view(-1, 1, 1, 1).to(x.device), x.flip(-1), x)
    padded = nn.functional.pad(x, (4, 4, 4, 4))
    down, right = torch.randint(0, 9, (2, n), generator=rng)
    rows = (down.view(-1, 1) + torch.arange(height)).to(x.device)
    columns = (right.view(-1, 1) + torch.arange(width)).to(x.device)
    which = torch.arange(n, device=x.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[which, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2).contiguous()


def reader(prepare: Callable[..., Split], model: nn.Module, inputs: Sequence[str]) -> Callable[[Any, str], Split]:
    """`prepare(data, name)` with the columns `inputs` of a mapping as inputs.

    Without names and without a column x, they are those columns that `forward` of the model names as its parameters.
    """
    def prepared(data: Any, name: str) -> Split:
        wanted = tuple(inputs)
        if not wanted and isinstance(data, Mapping) and "x" not in data:
            wanted = tuple(key for key in signature(model.forward).parameters if key in data and key != "y")
        return prepare(data, name, x=wanted) if wanted else prepare(data, name)

    return prepared


def divided(train: Any, forget: Any, prepare: Callable[[Any, str], Split], **others: Any) -> dict[str, Split]:
    """The splits of data in memory: train divided by the forget selection, and the others."""
    from lethe.data.select import divide

    forgotten, retained = divide(prepare(train, "train"), forget)
    rest = {key: prepare(value, key) for key, value in others.items() if value is not None}
    return {"forget": forgotten, "retain": retained, **rest}


@config(name="model")
class ModelSource:
    """`model:` of a request for a classifier or regressor. One of zoo or code names what is built; weights what it knows."""

    zoo: str | None = None                      # a model of the zoo: lethe describe zoo
    options: Mapping[str, Any] = field(default_factory=dict)   # arguments of the zoo model or of the factory
    code: str | None = None                     # path/to/file.py:factory, a function that returns the module
    weights: str | None = None                  # .safetensors, .npz, .pt of plain tensors; none: the recipe trains the model
    start: str | None = None                    # weights from which the recipe starts (fine-tuning); retraining is not exact then
    prefix: str = ""                            # beginning of the names in the weights; module. and _orig_mod. need not be named
    output: str | int = "auto"                  # key, attribute or position of the outputs in what the model returns
    head: str | None = None                     # name of the head; default: the last linear layer with all outputs


def from_files(files: SavedFiles, source: type[Any], task: Callable[[nn.Module, dict[str, Split], Any, dict[str, Any]], Task],
               labels: bool = True) -> tuple[Make, Load]:
    """Models in safetensors or .npz, put into what `model.zoo` or `model.code` makes, or deployed; data files of any kind. A LoRA
    adapter is added to the weights of `model.weights`, its base.

    source  the family's config of `model:`, a `ModelSource`       task  (model, splits, source, facts) -> the family's task
    labels  whether the data must have them
    """
    from lethe.models.load import load_classifier

    cfg = build(source, dict(files.model))
    if not (cfg.zoo or cfg.code):
        raise RequestError(f"{files.unlearned} holds weights, but not what to put them into; nothing was read. Provide "
                           "model.code=path/to/file.py:factory, or model.zoo=….")
    if is_deployed(files.unlearned) and files.original is None:
        raise RequestError(f"{files.unlearned} only answers, so what the model is made of cannot be read from it; nothing was "
                           "audited. Provide --original, the file of the model from before.")
    splits, about = load_parts(files.parts, files.data, labels=labels), transform.facts(files.data)

    def load(path: str) -> nn.Module:
        if is_deployed(path):
            return deployed(path, files.allow_pickle)
        if is_adapter(Path(path)):
            if not cfg.weights:
                raise RequestError(f"{path} is a LoRA adapter, and its base is not named, so there is no model; nothing was "
                                   "audited. Provide model.weights=FILE, the weights that it was trained on.")
            base = load_classifier(zoo=cfg.zoo, code=cfg.code, options=cfg.options, prefix=cfg.prefix, weights=cfg.weights,
                                   allow_pickle=files.allow_pickle)
            return merged(attached(base, Path(path))[0])
        inner = Path(path) / "model.safetensors"
        return load_classifier(zoo=cfg.zoo, code=cfg.code, options=cfg.options, prefix=cfg.prefix,
                               weights=inner if inner.exists() else path, allow_pickle=files.allow_pickle)

    return lambda model: task(model, splits, cfg, dict(about)), load


def opened(
    sections: Sections,
    context: Context,
    source: Any,
    task: Callable[[nn.Module, dict[str, Split], Recipe | None, Callable[[int], nn.Module], str, dict[str, Any], Form], Task],
) -> Opened:
    """Read `data` and the model of `source` (a `ModelSource`); `task` makes the family's task of them."""
    from lethe.data.load import load
    from lethe.models.load import Loaded, factory, loaded

    splits, recipe, facts = load(sections.data, context), sections.recipe, transform.facts(sections.data)
    make = factory(source.zoo, source.code, source.options)

    def read(path: str | Path | None) -> Loaded:
        return loaded(make(), path, source.prefix, context.allow_pickle, context.data_root)

    def fresh(seed: int) -> nn.Module:
        return read(source.start).model

    first = read(source.weights) if source.weights else None
    form = first.form if first else Form()
    if form.words:
        context.progress(form.words)
    return Opened(splits, lambda model, parts, name: task(model, parts, recipe, fresh, name, dict(facts), form),
                  lambda place: read(place if place.is_file() else place / "model.safetensors").model,
                  first.model if first else None, recipe, fresh,
                  "the starting weights have seen the forget data" if source.start else "")

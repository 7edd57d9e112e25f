"""Generative adversarial networks: making tasks in Python, or from a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from torch import nn

from lethe.core.config import NonNegative, build, config
from lethe.core.families.gan import Player
from lethe.core.registry import family
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.data.arrays import as_split
from lethe.data.context import Context
from lethe.data.load import Data, load
from lethe.data.paths import under_root
from lethe.errors import ModelError
from lethe.models.answer import Returns
from lethe.models.gan.task import GAN, NAMES
from lethe.models.heads import divided
from lethe.models.load import Loaded, factory, loaded
from lethe.models.opened import Opened, Sections
from lethe.models.reader import Reader, of_data, of_request
from lethe.models.weights import Form, read_weights


def gan(
    model: nn.Module,
    train: Split | tuple[Any, Any] | Any,
    forget: Any,
    holdout: Split | tuple[Any, Any] | Any = None,
    reader: nn.Module | None = None,
    recipe: Recipe | None = None,
    build: Callable[[int], nn.Module] | None = None,
    name: str = "gan",
    generator: str = "",
    discriminator: str = "",
    tanh: bool = True,
    returns: Returns = "logits",
    r1: float = 0.0,
) -> GAN:
    """A task from a generator and its discriminator, and labelled real data in memory.

    model    any module that has both, by the usual names (G and D, generator and discriminator, …) or by these
    train    (x, y): real examples, and what each shows; a torch Dataset, or a Split
    forget   a selection (`lethe.where(label=3)`): classes that nothing retained shows are undesired in samples
    reader   your classifier of samples, from `x` in floats to logits; none: one is trained on the data
    r1       penalty on the discriminator's slope at real data; steadies the training
    """
    splits = divided(train, forget, as_split, holdout=holdout)
    own = Reader(reader) if reader is not None else of_data(splits)
    return GAN(model, splits, own, recipe, build, name, {}, _parts(generator, discriminator), tanh, returns, r1=r1)


def _parts(generator: str, discriminator: str) -> dict[Player, str]:
    named: dict[Player, str] = {"generator": generator, "discriminator": discriminator}
    return {player: name for player, name in named.items() if name}


@config(name="model")
class GanSource:
    """`model:` of a GAN request. One of zoo or code names what is built; weights what it knows."""

    zoo: str | None = None                      # a model of the zoo: gan_mlp
    options: Mapping[str, Any] = field(default_factory=dict)   # arguments of the zoo model or of the factory
    code: str | None = None                     # path/to/file.py:factory, a function that returns a module with both networks
    weights: str | None = None                  # .safetensors, .npz, .pt of plain tensors; none: the recipe trains both
    prefix: str = ""                            # beginning of the names in the weights
    generator: str = ""                         # name of the generator's module; none: G, generator, netG, gen
    discriminator: str = ""                     # the same of the discriminator: D, discriminator, netD, critic, disc
    tanh: bool = True                           # both see pictures in [−1, 1]; false: as the data stand
    returns: Returns = "logits"                 # what the discriminator ends in; a sigmoid at its end is seen
    r1: NonNegative = 0.0                       # penalty on the discriminator's slope at real data; steadies the training
    reader: Mapping[str, Any] | None = None     # the classifier of samples; none: one is trained on the data


@family(model=GanSource, data=Data, method="adapt_unlearn", make="gan", about="concept",
        asks=(("model.code", "Model: file.py:function that returns generator and discriminator"),
              ("model.weights", "Its weights (.pt, .safetensors, .npz; none: the recipe trains it)", ""),
              ("data.path", "Labelled real data: a file or a folder of pictures"),
              ("forget", "To forget: {label: 3}")))
def open_request(sections: Sections, context: Context) -> Opened:
    """Read `model` and `data` of a GAN request."""
    source = build(GanSource, sections.model)
    splits, recipe = load(sections.data, context), sections.recipe
    make = factory(source.zoo, source.code, source.options)

    def read(path: str | Path | None) -> Loaded:
        found = make()
        if path:
            _require_both(found, under_root(context.data_root, path), source, context)
        return loaded(found, path, source.prefix, context.allow_pickle, context.data_root)

    first = read(source.weights) if source.weights else None
    reader, facts = of_request(source.reader, splits, context)

    def task(model: nn.Module, parts: dict[str, Split], name: str) -> GAN:
        return GAN(model, parts, reader, recipe, lambda seed: make(), name, dict(facts),
                   _parts(source.generator, source.discriminator), source.tanh, source.returns, first.form if first else Form(),
                   source.r1)

    return Opened(splits, task, lambda place: read(place if place.is_file() else place / "model.safetensors").model,
                  first.model if first else None, recipe, lambda seed: make())


def _require_both(model: nn.Module, path: Path, source: GanSource, context: Context) -> None:
    """ModelError where the weights are those of the generator alone: its discriminator would be drawn at random."""
    there = {name.removeprefix(source.prefix) for name in read_weights(path, context.allow_pickle).tensors}
    for player in NAMES:
        part = getattr(source, player) or next((name for name in NAMES[player] if hasattr(model, name)), "")
        mine = [name for name in model.state_dict() if part and name.startswith(f"{part}.")]
        if mine and not there & set(mine):
            raise ModelError(f"{path} holds no weights of the {player} ({mine[0]}, …), so it would be drawn at random and know "
                             "nothing of the samples that the other was trained with; nothing was started. Provide the weights "
                             "of both: the checkpoint of the training has them.")

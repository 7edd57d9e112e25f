"""Image-to-image models: making tasks in Python, or from a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from torch import nn

from lethe.core.config import Count, build, config
from lethe.core.registry import family
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.data.arrays import as_split
from lethe.data.context import Context
from lethe.data.load import Data, load
from lethe.models.heads import divided
from lethe.models.image_to_image.hiding import Hide, Kind
from lethe.models.image_to_image.task import ImageToImage
from lethe.models.load import Loaded, factory, loaded
from lethe.models.opened import Opened, Sections
from lethe.models.reader import Reader, of_data, of_request
from lethe.models.weights import Form


def image_to_image(
    model: nn.Module,
    train: Split | tuple[Any, Any] | Any,
    forget: Any,
    holdout: Split | tuple[Any, Any] | Any = None,
    proxy: Split | tuple[Any, Any] | Any = None,
    reader: nn.Module | None = None,
    recipe: Recipe | None = None,
    build: Callable[[int], nn.Module] | None = None,
    name: str = "image to image",
    encoder: str = "",
    hidden: Kind = "patches",
    share: float = 0.5,
    patch: int = 2,
) -> ImageToImage:
    """A task from a model that completes pictures, and labelled pictures in memory.

    model    any module with an encoder, by a usual name or by `encoder`: forward maps the given part to the whole picture
    train    (x, y): pictures [n, C, H, W], bytes or floats in [0, 1], and the class of each; a torch Dataset, or a Split
    forget   a selection (`lethe.where(label=3)`), or positions in `train`
    proxy    other pictures that methods without retained data hold on to (y is not read)
    reader   your classifier of pictures, from floats in [0, 1] to logits; none: one is trained on the data
    hidden   patches | centre | border, `share` of a picture, in patches of `patch` pixels: as the model was trained
    """
    splits = divided(train, forget, pictures, holdout=holdout, reference=proxy)
    own = Reader(reader) if reader is not None else of_data(seen(splits))
    return ImageToImage(model, splits, own, recipe, build, name, {}, encoder, Hide(hidden, share, patch))


def pictures(data: Any, name: str) -> Split:
    """`as_split`, with the pictures in the column `image`."""
    split = as_split(data, name)
    if "image" in split.columns:
        return split
    return Split({"image": split.columns["x"], "y": split.columns["y"]}, name, np.asarray(split.ids), split.meta, rule=split.rule)


def seen(splits: Mapping[str, Split]) -> dict[str, Split]:
    """The splits whose labels mean the same: a proxy may come from elsewhere."""
    return {role: split for role, split in splits.items() if role != "reference"}


@config(name="data")
class Pictures(Data):
    """`data:` of an image-to-image request: labelled pictures, and others that methods without retained data hold on to."""

    proxy: str | Mapping[str, Any] | None = None   # other pictures: a path, or options as those of data


@config(name="model")
class ImageToImageSource:
    """`model:` of an image-to-image request. One of zoo or code names what is built; weights what it knows."""

    zoo: str | None = None                      # a model of the zoo: masked_autoencoder
    options: Mapping[str, Any] = field(default_factory=dict)   # arguments of the zoo model or of the factory
    code: str | None = None                     # path/to/file.py:factory, a function that returns the module
    weights: str | None = None                  # .safetensors, .npz, .pt of plain tensors; none: the recipe trains the model
    prefix: str = ""                            # beginning of the names in the weights
    encoder: str = ""                           # name of the encoder's module; none: encoder, E, netE, enc
    hidden: Kind = "patches"                    # what it completes: patches drawn anew, the centre, or all around it
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5   # of a picture that is hidden
    patch: Count = 2                            # side of a patch in pixels
    reader: Mapping[str, Any] | None = None     # the classifier of pictures; none: one is trained on the data


@family(model=ImageToImageSource, data=Pictures, method="i2i", make="image_to_image",
        asks=(("model.code", "Model: file.py:function that returns a module with an encoder"),
              ("model.weights", "Its weights (.pt, .safetensors, .npz; none: the recipe trains it)", ""),
              ("data.path", "Labelled pictures: a file or a folder"),
              ("data.holdout", "Unseen pictures: a share or a path", "0.2"),
              ("forget", "To forget: {label: 3}, {ids: […]}, {fraction: 0.05}", "{fraction: 0.05}")))
def open_request(sections: Sections, context: Context) -> Opened:
    """Read `model` and `data` of an image-to-image request."""
    source, recipe = build(ImageToImageSource, sections.model), sections.recipe
    proxy = sections.data.get("proxy")
    raw = load({key: value for key, value in sections.data.items() if key != "proxy"}, context)
    if proxy is not None:
        raw["reference"] = load(proxy, context)["train"].named("reference")
    splits = {role: pictures(split, role) for role, split in raw.items()}
    make = factory(source.zoo, source.code, source.options)

    def read(path: str | Path | None) -> Loaded:
        return loaded(make(), path, source.prefix, context.allow_pickle, context.data_root)

    first = read(source.weights) if source.weights else None
    reader, facts = of_request(source.reader, seen(splits), context)

    def task(model: nn.Module, parts: dict[str, Split], name: str) -> ImageToImage:
        return ImageToImage(model, parts, reader, recipe, lambda seed: make(), name, dict(facts), source.encoder,
                            Hide(source.hidden, source.share, source.patch), first.form if first else Form())

    return Opened(splits, task, lambda place: read(place if place.is_file() else place / "model.safetensors").model,
                  first.model if first else None, recipe, lambda seed: make())

"""Dual encoders (CLIP): making tasks in Python, or from a request."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.concepts import names
from lethe.core.config import Natural, NonNegative, build, config
from lethe.core.modules import given
from lethe.core.registry import family
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.data.context import Context
from lethe.data.load import Data, Share, divided, load
from lethe.data.paths import under_root
from lethe.data.select import divide
from lethe.errors import DataError, ModelError, RequestError
from lethe.models.dual_encoder.folder import Pair, load_pair, token_ids
from lethe.models.dual_encoder.pictures import Eye, captioned
from lethe.models.dual_encoder.task import DualEncoder
from lethe.models.dual_encoder.vlm import load_reader
from lethe.models.opened import Opened, Sections

PROMPT = "a photo of a {}"


def dual_encoder(
    model: nn.Module | str | Path,
    train: Split | Sequence[tuple[Tensor, str]],
    forget: Any,
    classes: Sequence[str],
    holdout: Split | Sequence[tuple[Tensor, str]] | None = None,
    test: Split | Sequence[tuple[Tensor, str]] | None = None,
    recipe: Recipe | None = None,
    build: Callable[[int], nn.Module] | None = None,
    templates: Sequence[str] = (PROMPT,),
    outside: Sequence[str] = (),
    tokenizer: Any = None,
    eye: Eye | None = None,
    name: str = "dual encoder",
    vlm: str | Path | None = None,
) -> DualEncoder:
    """A task from a pair of encoders that was trained by contrast, and pictures with captions.

    model                 a CLIPModel, its folder, or any module with encode_image, encode_text and logit_scale
    train, holdout, test  pairs (picture [C, H, W], caption), bytes or floats in [0, 1]; or a Split with `image` and meta
    `caption` forget                a selection (`lethe.where(label="disk")`), or positions in `train`
    classes               what pictures may show: each caption names one of them, or meta `class` says it
    templates, outside    prompts of a class with {} for its name; outside: those that audits alone use
    tokenizer, eye        of a model that did not come as a folder
    vlm                   the folder of a LLaVA with this image encoder, which then alone moves; it goes out in `vlm`
    """
    if isinstance(model, nn.Module):
        if tokenizer is None or eye is None:
            raise ModelError("a model in memory came without tokenizer= or eye=, so neither texts nor pictures can be prepared "
                             "for it; nothing was started. Pass both, or the folder of save_pretrained.")
        pair = Pair(model, tokenizer, eye)
    else:
        pair = load_pair(Path(model))
    splits = {role: pairs(pair, data, role, classes) for role, data in (("train", train), ("holdout", holdout), ("test", test))
              if data is not None}
    gone, kept = divide(splits.pop("train"), forget)
    reader = load_reader(Path(vlm), pair.model) if vlm is not None else None
    return DualEncoder(pair.model, {"forget": gone, "retain": kept, **splits}, pair, classes, recipe, build, name,
                       templates=templates, outside=outside, reader=reader)


def pairs(pair: Pair, data: Split | Sequence[tuple[Tensor, str]], name: str, classes: Sequence[str]) -> Split:
    """Pictures and captions as the pair sees them, with the class of each."""
    if not isinstance(data, Split):
        images, captions = [picture for picture, _ in data], [text for _, text in data]
        data = Split({"image": torch.cat([pair.eye.taken(picture.unsqueeze(0)) for picture in images])}, name,
                     meta={"caption": captions})
    meta = {key: [str(one) for one in data.meta[key]] for key in ("caption", "class") if key in data.meta}
    meta.setdefault("class", classes_of(meta["caption"], classes, data.name))
    unknown = sorted(set(meta["class"]) - set(classes))
    if unknown:
        raise DataError(f"{name} has pictures of the class {unknown[0]!r}, which is not among the {len(classes)} classes, so "
                        "their zero-shot answer could never be right; nothing was started. Name it in data.classes (from Python "
                        "classes=).")
    place = {one: k for k, one in enumerate(classes)}
    columns = {"image": pair.eye.taken(data.columns["image"]), "y": torch.tensor([place[one] for one in meta["class"]]),
               "tokens": token_ids(pair.tokenizer, meta["caption"])}
    return Split(columns, data.name, data.ids, {**data.meta, **meta})


def classes_of(captions: Sequence[str], classes: Sequence[str], where: str) -> list[str]:
    """The one class that each caption names. DataError where a caption names none, or several."""
    found = []
    for caption in captions:
        named = [one for one in classes if names(caption, one)]
        if len(named) != 1:
            raise DataError(f"a caption of {where}, {caption!r}, names {len(named)} of the {len(classes)} classes, so it is not "
                            "known what its picture shows; nothing was started. Add a column class to captions.csv, or correct "
                            "data.classes.")
        found.append(named[0])
    return found


# -- requests ----------------------------------------------------------------------------------------------------------


@config(name="model")
class ModelSource:
    """`model:` of a dual-encoder request: a local folder, or a small CLIP that the recipe trains on the data."""

    folder: str | None = None                   # the pair: written by CLIPModel.save_pretrained; safetensors, tokenizer
    base: str | None = None                     # what the recipe trained to get it: allows retraining without the forget set
    vlm: str | None = None                      # a LLaVA folder with the pair's image encoder, which alone moves; goes out, too
    tiny: Mapping[str, Any] | None = None       # sizes of lethe.models.dual_encoder.small.TinyCLIP; {} for the defaults


@config(name="data")
class PairSource:
    """`data:` of a dual-encoder request: one of folder, labelled, shapes. `forget: {label: disk}` names a class."""

    folder: str | None = None                   # pictures with captions.csv (columns file, caption and, if there is one, class)
    labelled: Mapping[str, Any] | None = None   # labelled pictures, read as those of a classifier; captions are the first prompt
    shapes: Natural = 0                         # that many rendered coloured shapes
    noise: NonNegative = 0.1                    # of the shapes' pixels, which range from −1 to 1 [only with shapes=64]
    classes: tuple[str, ...] = ()               # names; empty: the column class, the names of the labels, the shapes
    templates: tuple[str, ...] = ()             # prompts with {} for a class; empty: "a photo of a {}", or each colour of shapes
    outside: tuple[str, ...] = ()               # prompts with {} that only audits ask
    holdout: Share | str | None = None          # unseen pairs: share of train, or another folder
    seed: Natural = 0                           # of shapes and shares


@family(model=ModelSource, data=PairSource, method="slug_clip", make="dual_encoder",
        asks=(("model.folder", "Model: a folder written by CLIPModel.save_pretrained"),
              ("data.folder", "Pictures: a folder with captions.csv (file, caption, class)"),
              ("data.holdout", "Unseen pairs: a share or a folder", "0.2"),
              ("forget", "To forget: {label: NAME}, {ids: […]}, {fraction: 0.05}", "{fraction: 0.05}")))
def open_request(sections: Sections, context: Context) -> Opened:
    """Read `model` and `data` of a dual-encoder request."""
    source, data = build(ModelSource, sections.model), build(PairSource, sections.data)
    if (source.folder is None) == (source.tiny is None):
        raise RequestError("model: set either folder (a local save_pretrained folder) or tiny (a small CLIP trained here); "
                           "nothing was started.")
    pair = load_pair(under_root(context.data_root, source.folder)) if source.folder is not None else None
    if source.vlm is not None and pair is None:
        raise RequestError("model.vlm reads pictures by the encoder of a pair that comes as a folder, and model.tiny is trained "
                           "here; nothing was started. Set model.folder.")
    reader = load_reader(under_root(context.data_root, source.vlm), pair.model) if source.vlm is not None and pair else None
    if pair is not None:
        given(pair.model)
    side = pair.eye if pair is not None else Eye(_sizes(source).side)
    raw, classes, templates = _read(data, side, context)
    base = under_root(context.data_root, source.base) if source.base is not None else None
    fresh: Callable[[int], nn.Module] | None = None
    if source.tiny is not None:
        from lethe.models.dual_encoder import small

        sizes = _sizes(source)
        texts = [text for split in raw.values() for text in split.meta["caption"]]
        asked = [template.replace("{}", one) for one in classes for template in (*templates, *data.outside)]
        words = small.tokenizer([*map(str, texts), *asked])
        pair = Pair(nn.Module(), words, side)

        def fresh(seed: int) -> nn.Module:
            return small.clip(sizes, words)
    elif base is not None:
        def fresh(seed: int) -> nn.Module:
            return load_pair(base).model
    assert pair is not None
    known, make = pair, fresh
    splits = {role: pairs(known, split, role, classes) for role, split in raw.items()}

    def task(model: nn.Module, parts: dict[str, Split], name: str) -> DualEncoder:
        return DualEncoder(model, parts, known, classes, sections.recipe, make, name, {"classes": len(classes)}, templates,
                           data.outside, reader)

    exact = "" if make is not None else "model.base (what the pair was trained from) is not set, so it cannot be retrained"
    return Opened(splits, task, lambda folder: load_pair(folder).model, None if source.tiny is not None else known.model,
                  sections.recipe, make, exact)


def _sizes(source: ModelSource) -> Any:
    from lethe.models.dual_encoder.small import TinyCLIP

    return build(TinyCLIP, source.tiny or {})


def _read(data: PairSource, eye: Eye, context: Context) -> tuple[dict[str, Split], tuple[str, ...], tuple[str, ...]]:
    """The parts, with column image and meta caption and class; the classes; the prompts."""
    chosen = [key for key in ("folder", "labelled", "shapes") if getattr(data, key)]
    if len(chosen) != 1:
        raise RequestError(f"data sets {', '.join(chosen) or 'none of folder, labelled, shapes'}, but the pairs come from one of "
                           "them; nothing was started. Set data.folder for pictures with captions of your own.")
    templates = data.templates or (PROMPT,)
    if data.labelled is not None:
        splits, classes = _labelled(data, templates[0], context)
    elif data.folder:
        splits, classes = _folders(data, eye, context), data.classes
    else:
        from lethe.data.shapes import COLOURS, SHAPES, shapes

        drawn = shapes(data.shapes, data.seed, side=max(8, eye.side), noise=data.noise)
        image = ((drawn.columns["image"] + 1) * 127.5).round().byte()
        splits = {"train": Split({"image": image}, "train", drawn.ids, {**drawn.meta, "class": drawn.meta["shape"]})}
        classes, templates = data.classes or SHAPES, data.templates or tuple(f"a {colour} {{}}" for colour in COLOURS)
    if isinstance(data.holdout, float):
        splits = divided(splits, build(Data, {"holdout": data.holdout, "seed": data.seed}))
    if not classes:
        if "class" not in splits["train"].meta:
            raise RequestError("neither data.classes nor a column class of captions.csv says what the pictures may show, so no "
                               "zero-shot answer can be right or wrong; nothing was started. Set data.classes: [cat, dog, …].")
        classes = tuple(sorted({str(one) for split in splits.values() for one in split.meta["class"]}))
    return splits, classes, templates


def _folders(data: PairSource, eye: Eye, context: Context) -> dict[str, Split]:
    splits = {"train": captioned(under_root(context.data_root, str(data.folder)), eye)}
    if isinstance(data.holdout, str):
        found = captioned(under_root(context.data_root, data.holdout), eye)
        splits["holdout"] = dataclasses.replace(found, name="holdout")
    return splits


def _labelled(data: PairSource, template: str, context: Context) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Labelled pictures whose captions are the prompt with the class's name."""
    splits = {}
    known = load(dict(data.labelled or {}), context)
    for role, split in known.items():
        if len(split.shape("x")) != 4:
            raise DataError(f"x of {role} has the shape {list(split.shape('x'))}, but pictures are [n, C, H, W], so no encoder "
                            "of pictures takes them; nothing was started. Correct data.labelled.")
    labels = sorted({int(one) for split in known.values() for one in split.columns["y"].tolist()})
    told = {int(y): str(word) for split in known.values() if "class" in split.meta
            for y, word in zip(split.columns["y"].tolist(), split.meta["class"], strict=True)}
    classes = data.classes or tuple(told.get(y, f"number {y}") for y in labels)
    if len(classes) != len(labels):
        raise RequestError(f"data.classes has {len(classes)} names and the labels are {len(labels)}, so it is not known which is "
                           "which; nothing was started. Name each label, in ascending order.")
    word = dict(zip(labels, classes, strict=True))
    for role, split in known.items():
        named = [word[int(y)] for y in split.columns["y"].tolist()]
        meta = {**split.meta, "class": named, "caption": [template.replace("{}", one) for one in named]}
        splits[role] = Split({"image": split.columns["x"]}, role, np.asarray(split.ids), meta)
    return splits, tuple(classes)

"""A language model that reads pictures through the image encoder of a pair (LLaVA and its kin): that encoder alone moves, and the
model's folder goes out as it came, with the encoder's tensors replaced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lethe.core.user_files import understood
from lethe.errors import ModelError
from lethe.models.source import Source, alike, copy_moved, tensors_of, variant_of, variants

OWN, THEIRS = ("vision_model.",), ("vision_tower.vision_model.", "vision_tower.")   # before a tensor's name, in either model


@dataclass(frozen=True)
class Reader:
    """The folder of a language model, and what of a pair it reads pictures by.

    names  of the pair's tensors -> of the same tensors in the folder     moving  those of them on which its answers depend
    """

    source: Source
    names: Mapping[str, str]
    moving: frozenset[str]


def core(name: str, before: tuple[str, ...]) -> str | None:
    """The name inside the image encoder, None of what is no part of it: model.vision_tower.encoder.x -> encoder.x."""
    return next((name.partition(prefix)[2] for prefix in before if prefix in name), None)


def load_reader(folder: Path, pair: nn.Module) -> Reader:
    """ModelError unless the folder's image encoder is the pair's, to the precision of its file."""
    file = folder / "config.json"
    with understood(file, "the settings of a language model that reads pictures", "Save it again: model.save_pretrained(…).",
                    ModelError):
        settings = json.loads(file.read_text(encoding="utf-8"))
        layers, read = int(settings["vision_config"]["num_hidden_layers"]), settings.get("vision_feature_layer", -2)
    source = Source(folder, "", variant_of(folder))
    if len(variants(folder)) > 1:
        raise ModelError(f"{folder} holds its weights in several precisions, of which only one would be changed; nothing was "
                         "started. Leave one.")
    state = pair.state_dict()
    own, names = {core(name, OWN): name for name in state if core(name, OWN)}, dict[str, str]()
    for weights in source.weights:
        for name, value in tensors_of(weights, lambda name: core(name, THEIRS) is not None):
            mine = own.get(core(name, THEIRS))
            if mine is None or not alike(state[mine], value):
                raise ModelError(f"{name} of {folder} is not what the pair of encoders has in its place, so the model reads "
                                 "pictures by another encoder; nothing was started. Provide the pair whose encoder it took.")
            names[mine] = name
    if not names:
        raise ModelError(f"{folder} has no weights of an image encoder (vision_tower), so nothing of it could be changed; "
                         "nothing was started. Provide the folder of a LlavaForConditionalGeneration.")
    last = max(place if place >= 0 else layers + 1 + place for place in (read if isinstance(read, list) else [read]))
    return Reader(source, names, frozenset(name for name in names if _read(name, last)))


def save_reader(reader: Reader, model: nn.Module, folder: Path) -> None:
    """The folder as it came, with the encoder's tensors as they are in `model`."""
    state = model.state_dict()
    copy_moved(reader.source, {theirs: state[own] for own, theirs in reader.names.items()}, folder)


def _read(name: str, last: int) -> bool:
    """Whether state number `last` of the encoder (0: the embeddings) depends on a tensor: not on later layers, the last norm."""
    layer = name.partition("encoder.layers.")[2].partition(".")[0]
    return int(layer) < last if layer else "post_layernorm" not in name

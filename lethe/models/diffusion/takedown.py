"""Takedown lists: a folder that holds one small adapter a concept. A concept joins or leaves without a word to the others, and
any choice of them is folded into a pipeline.

The folder is the list. A file is what `load_lora_weights` of diffusers reads, so that a server can also hold the pipeline once
and switch concepts per request with `set_adapters`; its header says whose it is. Together they are the sum of their products,

    W = W_0 + Σ_c B_c A_c

in the order of the concepts' names, so that what is composed does not depend on the order in which they came: without a concept
it is bit for bit what it would be if that had never been on the list.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.adaptable import matrices
from lethe.core.concepts import Concept, concepts_of
from lethe.core.files import atomic, make_folder, new_folder
from lethe.core.names import folder_name
from lethe.core.user_files import understood
from lethe.errors import ModelError, RequestError
from lethe.models.diffusion.files import NETWORKS, load_pipeline, save_pipeline

HEADER = "lethe.concept"     # in a file's header: the concept's name and its other wordings, as JSON
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
PEFT = "base_model.model."
AGAIN = "Save it again by lethe run."
Product = tuple[Tensor, Tensor]     # A [r, in, …], B [out, r, …]


@dataclass(frozen=True)
class Entry:
    """A concept on a list."""

    concept: Concept
    file: Path

    def row(self) -> dict[str, Any]:
        """For a table."""
        return {"concept": self.concept.concept, "synonyms": list(self.concept.synonyms), "file": self.file.name,
                "bytes": self.file.stat().st_size}

    def layers(self) -> dict[str, Product]:
        """A and B by the name of the layer."""
        from safetensors.torch import load_file

        with understood(self.file, "the adapter of a concept", "Take it off the list and add it again."):
            tensors = {name.split(".", 1)[1]: value for name, value in load_file(self.file).items()}
            return {name.removesuffix(DOWN): (value, tensors[name.removesuffix(DOWN) + UP]) for name, value in tensors.items()
                    if name.endswith(DOWN)}


def entries(folder: Path) -> list[Entry]:
    """The concepts of a list, by name. RequestError where there is no such folder."""
    from safetensors import safe_open

    if not folder.is_dir():
        raise RequestError(f"{folder} is no folder, so there is no takedown list; nothing was done. lethe concepts add makes "
                           "one.")
    found = []
    for file in sorted(folder.glob("*.safetensors")):
        with understood(file, "the adapter of a concept", "Take it out of the folder."), safe_open(file, "pt") as handle:
            said = (handle.metadata() or {}).get(HEADER)
            if said is None:
                raise ModelError(f"{file} does not say whose concept it is, so it was not made by lethe concepts add; nothing "
                                 "was done. Take it out of the folder.")
            found.append(Entry(Concept(**json.loads(said)), file))
    return sorted(found, key=lambda one: one.concept.concept)


def add(folder: Path, saved: Path, concept: str, synonyms: Collection[str] = ()) -> Entry:
    """Put the adapter of a saved model on a list, which is made where there is none.

    RequestError for a model without an adapter, or one whose layers are not those of the list; a concept that is there already.
    """
    from safetensors.torch import save_file

    (named,) = concepts_of({"concept": concept, "synonyms": list(synonyms)})
    network, layers = _adapter(saved)
    there = entries(folder) if folder.is_dir() else []
    if twin := next((one for one in there if one.concept.concept == concept), None):
        raise RequestError(f"{concept!r} is on the list already, as {twin.file.name}; nothing was changed. Remove it first.")
    for one in there:
        if why := misfit({name: (up.shape[0], *down.shape[1:]) for name, (down, up) in one.layers().items()}, layers):
            raise RequestError(f"the adapter in {saved} is of another architecture than that of {one.concept.concept!r} on the "
                               f"list: {why}. Nothing was changed. Keep a list for each architecture.")
    make_folder(folder)
    file = folder / f"{folder_name(concept)}.safetensors"
    tensors = {f"{network}.{name}{end}": part.contiguous() for name, product in layers.items()
               for end, part in zip((DOWN, UP), product, strict=True)}
    header = {"format": "pt", HEADER: json.dumps({"concept": concept, "synonyms": list(synonyms)})}
    with atomic(file) as beside:
        save_file(tensors, beside, metadata=header)
    return Entry(named, file)


def remove(folder: Path, concept: str) -> Entry:
    """Take a concept off a list: its file is deleted. RequestError for one that is not there."""
    (gone,) = chosen(entries(folder), [concept])
    gone.file.unlink()
    return gone


def compose(folder: Path, base: Path, output: Path, without: Collection[str] = ()) -> list[Entry]:
    """Write the pipeline of `base` with the concepts of a list folded in, but for those that are left out.

    ModelError for a pipeline of another architecture.
    """
    there = entries(folder)
    left = {one.concept.concept for one in chosen(there, without)}
    taken, pipeline = [one for one in there if one.concept.concept not in left], load_pipeline(base)
    layers = {name: pipeline.network.get_submodule(name) for name in matrices(pipeline.network)}
    shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items() if isinstance(layer.weight, Tensor)}
    for one in taken:
        if why := misfit(shapes, one.layers(), whole=True):
            raise ModelError(f"the adapter of {one.concept.concept!r} is for another architecture than {base}: {why}. Nothing "
                             "was written. Add an adapter that was trained on this one.")
    folded(layers, [one.layers() for one in taken])
    with new_folder(output) as place:
        save_pipeline(dataclasses.replace(pipeline, network=pipeline.network.eval()), place)
    return taken


@torch.no_grad()
def folded(layers: Mapping[str, nn.Module], products: Collection[Mapping[str, Product]]) -> None:
    """W ← W + Σ B A in place, added in float64 and rounded once.

    W = 1, B A = 2 · 3 and ½ · 4: 9.
    """
    for name in sorted({name for one in products for name in one}):
        weight = layers[name].get_parameter("weight")
        total = weight.double()
        for down, up in (one[name] for one in products if name in one):
            total = total + (up.double().flatten(1) @ down.double().flatten(1)).view(weight.shape)
        weight.copy_(total)


def misfit(shapes: Mapping[str, tuple[int, ...]], layers: Mapping[str, Product], whole: bool = False) -> str:
    """Why adapters do not fit layers of these shapes [out, in, …], in words; empty where they do.

    whole  each must have its layer
    """
    for name, (down, up) in layers.items():
        own = (up.shape[0], *down.shape[1:])
        if name not in shapes and whole:
            return f"it changes {name}, which is not there"
        if name in shapes and shapes[name] != own:
            return f"{name} is {_by(own)} there and {_by(shapes[name])} here"
    return "" if whole or not layers or set(layers) & set(shapes) else "no layer has the same name"


def chosen(there: Collection[Entry], names: Collection[str]) -> list[Entry]:
    """The entries of these names. RequestError for one that is not there."""
    known = {one.concept.concept: one for one in there}
    for name in names:
        if name not in known:
            raise RequestError(f"{name!r} is not on the list, which has {', '.join(map(repr, known)) or 'no concept'}; nothing "
                               "was changed. Write its name as the list has it.")
    return [known[name] for name in names]


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _adapter(saved: Path) -> tuple[str, dict[str, Product]]:
    """The name of the network that a saved model's adapter belongs to, and its A and scaled B by layer."""
    from safetensors.torch import load_file

    place = saved / "adapter"
    network = next((name for name in NETWORKS if (saved / name).is_dir()), None)
    if not (place / "adapter_config.json").is_file() or network is None:
        raise RequestError(f"{saved} holds no adapter of a text-to-image pipeline (adapter/ beside {' or '.join(NETWORKS)}/), so "
                           "nothing was put on the list. Give the saved model of a run with method spm, or with where: lora.")
    with understood(place, "a PEFT adapter", AGAIN, ModelError):
        settings = json.loads((place / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = {name.removeprefix(PEFT): value for name, value in load_file(place / "adapter_model.safetensors").items()}
        scale = settings["lora_alpha"] / settings["r"]
    special = [name for name in tensors if not name.endswith((DOWN, UP))]
    if special or settings.get("use_rslora") or settings.get("alpha_pattern") or settings.get("rank_pattern"):
        raise RequestError(f"the adapter in {place} is not a plain LoRA ({special[0] if special else 'scales by layer'}), so it "
                           "could not be added to others; nothing was changed. Use method spm, or where: lora.")
    names = [name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN)]
    return network, {name: (tensors[name + DOWN], tensors[name + UP] * scale) for name in names}

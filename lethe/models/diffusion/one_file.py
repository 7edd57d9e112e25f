"""A pipeline in one file, as Stable Diffusion and its kin are passed around: opened beside a folder of its kind.

Such a file holds the network and mostly the other weights, under the names of the code that trained them. It says neither how
they are put together nor how text becomes tokens: a diffusers folder of the same kind does, and provides what the file lacks.
diffusers renames the weights; which became which is read off by letting it rename tensors that hold nothing but their number.
What goes out is the file with the tensors replaced that moved, in its own precision, and without an average of the weights beside
them (`model_ema.`), which would still be the network as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.user_files import understood
from lethe.errors import ModelError

AVERAGED = "model_ema."
INNER = "state_dict"      # the key of the weights in a .ckpt
WHOLE = "It may have been cut off while it was copied: copy it again. A .ckpt may hold nothing but tensors and numbers."


@dataclass(frozen=True)
class OneFile:
    """Where a pipeline was opened: a file, and the folder of its kind.

    network  subfolder of the network, unet or transformer        names  of its tensors -> those in the file
    """

    file: Path
    folder: Path
    network: str
    names: Mapping[str, str] = field(repr=False)

    def dtypes(self) -> dict[str, torch.dtype]:
        """The precision of every tensor of the network in the file."""
        held = weights(self.file)
        return {name: held[old].dtype for name, old in self.names.items()}

    def write(self, network: nn.Module, folder: Path) -> None:
        """The file in `folder`, with what moved in `network` replaced."""
        state, held = network.state_dict(), weights(self.file)
        moved = {old: state[name].to("cpu", held[old].dtype).view_as(held[old]) for name, old in self.names.items()}
        kept = {name: moved.get(name, value).contiguous() for name, value in held.items() if not name.startswith(AVERAGED)}
        folder.mkdir(parents=True, exist_ok=True)
        if self.file.suffix == ".safetensors":
            from safetensors import safe_open
            from safetensors.torch import save_file

            with safe_open(self.file, "pt") as handle:
                save_file(kept, folder / self.file.name, handle.metadata())
        else:
            torch.save({INNER: kept}, folder / self.file.name)


def weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; of a .ckpt, which is a pickle, tensors alone are read. ModelError when it is damaged."""
    with understood(file, "a pipeline in one file", WHOLE, ModelError):
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        while INNER in found:
            found = found[INNER]
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def renamed(kind: Any, held: Mapping[str, Tensor], folder: Path, network: str) -> dict[str, str]:
    """The names that a network's tensors have in the file. ModelError for one that is no tensor of the file alone."""
    numbered = {name: torch.full((), float(i)).expand(value.shape) for i, (name, value) in enumerate(held.items())}
    model: nn.Module = kind.from_single_file(numbered, config=str(folder), subfolder=network)
    olds, found = list(held), {}
    for name, value in model.state_dict().items():
        number = int(value.flatten()[0]) if value.numel() and value.is_floating_point() else -1
        whole = 0 <= number < len(olds) and bool((value == number).all()) and value.numel() == held[olds[number]].numel()
        if not whole:
            raise ModelError(f"{name} of a {kind.__name__} is put together from several tensors of the file, so a moved one "
                             "could not be put back; nothing was started. Convert the file to a folder and give that: "
                             f"{kind.__name__}.from_single_file(file, …).save_pretrained(folder).")
        found[name] = olds[number]
    return found

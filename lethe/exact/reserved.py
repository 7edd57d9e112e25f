"""Reserved: units of ordinary layers that some records alone may move, so that to delete these is to set the units to zero.

    y = W a(x),  W [d, k] what an MLP or attention writes with:   unit j is a_j, column j of W, and all that moves a_j alone

A unit is a neuron of an MLP or an entry of what a head says. What moves it alone (rows of gate, up, query, key, value, fused or
not) is found by what it is: entries θ of the same block with ∂Σ_{j∈U} v_j a_j/∂θ ≠ 0 and ∂Σ_{j∉U} v_j a_j/∂θ = 0, v random, the
block's matrices drawn anew, so that the answer does not depend on what was learnt. Keys and values that other heads read, too,
norms and embeddings are nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lethe.core.engine import Loss
from lethe.core.families.language import LanguageTask
from lethe.core.language_guard import shape
from lethe.core.modules import Asked, evaluating, hooked
from lethe.core.parked import parked_copy
from lethe.core.seeds import generator
from lethe.core.split import Batch
from lethe.errors import ModelError, RequestError
from lethe.exact.manifest import Manifest
from lethe.exact.sliced import Sliced, agreed, described
from lethe.train.loop import Loop

Units = dict[str, Tensor]     # name of a layer that writes -> which of its inputs  [k] bool
Entries = dict[str, Tensor]   # name of a parameter -> which of its entries  [shape of θ] bool
SAMPLE = 4     # records that are read to find what units are made of
NOISE = 1e-6   # of the largest gradient of a vector: what is 0 by algebra (bias of keys) is this small by rounding
SAYS = re.compile(r"(?:attn|attention)\.(?:.*\.)?(?:o_proj|out_proj|c_proj|dense)\.weight$")   # what attention writes with


@dataclass(frozen=True)
class Whole:
    """A model that was trained in one piece, with the manifest of what moved its reserved units."""

    manifest: Manifest
    model: nn.Module

    def save(self, folder: Path, model: nn.Module, write: Callable[[nn.Module, Path], None]) -> None:
        """Write all of it into an empty folder; `write` puts the served model there."""
        Sliced(self.manifest, {}, {}).save(folder, model, write)


def reopened(cfg: Any, method: str, task: LanguageTask, loop: Loop) -> tuple[Any, Whole]:
    """The options with which the model in `cfg.trained` was trained, and that model, to be changed."""
    known = described(Path(cfg.trained), method, task)
    return agreed(cfg, known), Whole(known, parked_copy(task.original).to(loop.settings.device))


def served(state: Whole, base: nn.Module) -> nn.Module:
    """The model, its reserved units at work."""
    return state.model.eval()


def section(model: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The section of a request with which the model in `folder` is read; model: that of the request it was trained by."""
    return {**{key: value for key, value in model.items() if key not in ("base", "tiny", "adapter")}, "folder": str(folder)}


def require_one_process(loop: Loop) -> None:
    """RequestError where several would train."""
    if loop.settings.distribution != "none":
        raise RequestError("several processes were asked for, and which entries a record may move is known to one; nothing was "
                           "trained. Set settings.distribution=none.")


def neurons(task: LanguageTask, model: nn.Module) -> dict[str, int]:
    """Layers through which MLPs write, block by block, and how many neurons each reads."""
    return {name: _width(model, name) for name in (one.removesuffix(".weight") for one in
                                                   task.down_projections(range(task.layer_count)))}


def heads(task: LanguageTask, model: nn.Module) -> dict[str, tuple[int, int]]:
    """Layers through which attention writes, block by block: how many heads, of how many entries."""
    count, found = int(shape(model).num_attention_heads), {}
    for block in dict.fromkeys(map(_block, neurons(task, model))):
        says = [name for name, _ in model.named_parameters() if name.startswith(block) and SAYS.search(name)]
        if len(says) != 1:
            raise ModelError(f"{len(says)} layers of {block[:-1]} look like the one through which attention writes, so no heads "
                             "can be reserved; nothing was trained. Set method.heads=0.")
        name = says[0].removesuffix(".weight")
        found[name] = (count, _width(model, name) // count)
    return found


def _block(name: str) -> str:
    """The front of the names of what is in the same block."""
    return re.sub(r"^(.*?\.\d+\.).*$", r"\1", name)


def _width(model: nn.Module, name: str) -> int:
    """How many inputs a linear layer has."""
    layer = None if hasattr(model, "peft_config") else dict(model.named_modules()).get(name)
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if type(layer).__name__ == "Conv1D":
        return len(model.get_parameter(f"{name}.weight"))
    raise ModelError(f"{name} is no linear layer, so its inputs cannot be reserved (experts in one tensor, adapters, quantised "
                     "layers); nothing was trained. Choose shard_lora, or another model.")


def entries(task: LanguageTask, model: nn.Module, units: Units, batch: Batch) -> Entries:
    """All that reserved units are made of. batch: any records, which are read only."""
    found: Entries = {}
    with evaluating(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        for name, chosen in units.items():
            drawn = {key: _drawn(key, p) for key, p in model.named_parameters() if key.startswith(_block(name))}
            inside = _read_with(task, model, name, drawn, batch)
            v = torch.randn(len(chosen), generator=generator(0, "unit", name)).to(inside)
            mine, others = (torch.autograd.grad((inside * v * which.to(inside)).sum(), list(drawn.values()), retain_graph=True,
                                                allow_unused=True) for which in (chosen, ~chosen))
            for key, g, rest in zip(drawn, mine, others, strict=True):
                if g is None:
                    continue
                alone = g.ne(0) if g.dim() > 1 else g.abs() > NOISE * g.abs().max()
                alone &= True if rest is None else rest.eq(0)
                if alone.any():
                    found[key] = found[key] | alone if key in found else alone
            weight, linear = model.get_parameter(f"{name}.weight"), isinstance(model.get_submodule(name), nn.Linear)
            found[f"{name}.weight"] = chosen.to(weight.device).unsqueeze(0 if linear else 1).expand(weight.shape).clone()
    return found


def _drawn(name: str, p: Tensor) -> Tensor:
    """A matrix anew, its inputs kept at their size; anything else as it is."""
    value = p.detach().float()
    if p.dim() == 2:
        value = (torch.randn(p.shape, generator=generator(0, "block", name)) / p.shape[1] ** 0.5).to(value)
    return value.to(p.dtype).requires_grad_(True)


def _read_with(task: LanguageTask, model: nn.Module, layer: str, values: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """What a layer reads [n, T, k] where some parameters have other values."""
    seen: list[Tensor] = []
    with hooked(model.get_submodule(layer).register_forward_pre_hook(lambda _, args: seen.append(args[0]))):
        torch.func.functional_call(Asked(model, task.nll), {f"model.{key}": value for key, value in values.items()}, (batch,))
    return seen[0]


@contextmanager
def silenced(model: nn.Module, units: Units) -> Iterator[None]:
    """Inside, these units say nothing, and no gradient reaches them."""
    def silence(gone: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        return lambda _, args: (args[0].masked_fill(gone.to(args[0].device), 0), *args[1:])

    with hooked(*(model.get_submodule(name).register_forward_pre_hook(silence(gone)) for name, gone in units.items())):
        yield


def moving(entries: Entries, loss: Loss) -> Loss:
    """A loss with the same values, whose gradient is exactly zero but on these entries."""
    def alone(model: nn.Module, batch: Batch) -> Tensor:
        values = {f"model.{name}": torch.where(entries[name], p, p.detach()) if name in entries else p.detach()
                  for name, p in model.named_parameters()}
        said: Tensor = torch.func.functional_call(Asked(model, loss), values, (batch,))
        return said

    return alone


def zeroed(model: nn.Module, entries: Entries) -> nn.Module:
    """The model, these entries set to zero, in place."""
    with torch.no_grad():
        for name, gone in entries.items():
            model.get_parameter(name).masked_fill_(gone, 0)
    return model

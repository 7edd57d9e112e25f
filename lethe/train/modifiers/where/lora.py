"""Low-rank adapters on linear (and ungrouped convolution) layers through PEFT; the base stays bit-identical.

Hu et al. 2021, arXiv:2106.09685. Which layers, the family knows (`Task.adaptable`): of language models the projections of
attention and MLPs. The outcome is an adapter that can be taken off again; it is exported twice, as a PEFT adapter and merged into
a model of the family's own format; on a base quantised in 4 bits (bitsandbytes) as an adapter alone (QLoRA: Dettmers et al. 2023,
arXiv:2305.14314).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lethe.core.adaptable import fold, matrices
from lethe.core.config import Count, Fraction, Positive, config
from lethe.core.extras import needs_extra
from lethe.core.modules import codes, seeded
from lethe.core.outcome import Outcome
from lethe.core.parked import parked_copy, released
from lethe.core.seeds import derive
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.train.modifiers.where import Draws, Selection, Where
from lethe.train.modifiers.where.all import All

A, B = "lora_A.default.weight", "lora_B.default.weight"   # PEFT's names of the two factors


@config
class Lora:
    rank: Count = 8             # inner dimension of the adapters                       [paper, §4.2]
    alpha: Positive = 16.0      # scale is alpha / rank                                 [PEFT examples]
    dropout: Fraction = 0.0     # on the adapters' input                                [ours: small forget sets]
    targets: tuple[str, ...] = ()  # module-name endings; empty: those that the family names [e.g. head]

    def within(self, params: Iterable[str]) -> Lora:
        """The same on the layers of these parameters alone, which a method names as its own; `targets` of the request stay."""
        names = list(params)
        layers = tuple(dict.fromkeys(name.removesuffix(".weight") for name in names if name.endswith(".weight")))
        if self.targets or not names:
            return self
        if not layers:
            raise RequestError(f"the method moves {', '.join(names[:3])}, which belong to no linear layer (experts in one "
                               "tensor), so where=lora could adapt nothing of it; nothing was started. Leave modifiers.where "
                               "out, or name other layers in where.targets.")
        return replace(self, targets=layers)

    def select(self, model: nn.Module, task: Task, loop: Draws) -> Selection:
        layers, rest = matrices(model), ""
        if self.targets:
            chosen = [name for name in layers if name.endswith(self.targets)]
            _require_untied(model, chosen)
        else:
            found = task.adaptable(model)
            chosen, rest = list(found.layers), found.rest
        if not chosen:
            raise RequestError(f"where.targets = {list(self.targets)} match no linear layer, so nothing could move. "
                               f"Layers: {', '.join(layers[:6])}.")
        settings = self._settings(model, task, chosen)
        if lost := _misread(settings, model, chosen):
            if self.targets:
                raise RequestError(f"where.targets names {lost[0]}, which PEFT takes for a part of the fused experts of a "
                                   f"{type(model).__name__}, so it would adapt those instead; nothing was started. Name other "
                                   "layers.")
            chosen = [name for name in chosen if name not in lost]
            ends = sorted({".".join(name.split(".")[-2:]) for name in lost})
            rest = f"PEFT takes {', '.join(ends)} for parts of the fused experts, so they stay as they are, too; {rest}"
            settings = self._settings(model, task, chosen)
        inject(settings, model, derive(loop.seed, "lora"))
        params = {name: p for name, p in model.named_parameters() if "lora_" in name}
        return Selection(params, kind="adapter", rest=rest)

    def _settings(self, model: nn.Module, task: Task, layers: Sequence[str]) -> Any:
        """PEFT's configuration of adapters on these layers."""
        return settings_for(model, layers, self.rank, self.alpha, task.adapter_facts(), self.dropout)


def of_recipe(task: Task) -> Where:
    """What moves of a fresh model that the recipe trains: all, or the adapters that it trained."""
    rank = task.recipe.lora if task.has("recipe") else 0
    return Lora(rank=rank, alpha=2.0 * rank) if rank else All()


def adapted_layers(names: Iterable[str]) -> list[str]:
    """The layers with an adapter, of the names of a model's tensors."""
    return [name.removesuffix(f".{A}") for name in names if name.endswith(A)]


def settings_for(model: nn.Module, layers: Sequence[str], rank: int, alpha: float, facts: Mapping[str, Any], dropout: float = 0.0
                 ) -> Any:
    """PEFT's configuration of adapters on these layers. facts: `Task.adapter_facts`"""
    try:
        from peft import LoraConfig
    except ImportError:
        raise needs_extra("lm", "where=lora", "PEFT") from None
    given: dict[str, Any] = {   # PEFT says int for alpha and takes any number
        "r": rank, "lora_alpha": alpha, "lora_dropout": dropout,
        "target_modules": "|".join(re.escape(name) for name in layers),   # a text is matched whole, a list by endings
        "fan_in_fan_out": type(model.get_submodule(layers[0])).__name__ == "Conv1D",   # the matrix lies the other way
    }
    return LoraConfig(**given, **facts)


def inject(settings: Any, model: nn.Module, seed: int) -> None:
    """Put new adapters on a model, in place."""
    from peft import inject_adapter_in_model

    seeded(lambda _: inject_adapter_in_model(settings, model), seed)   # PEFT draws the first factor from the global generator


def _misread(settings: Any, model: nn.Module, layers: Sequence[str]) -> list[str]:
    """Layers that PEFT would not adapt as they are named: of some mixtures it takes names of MLPs (`gate_proj`) for experts that
    an older transformers held apart, wherever they stand, and adapts the fused experts instead."""
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers as convert
    except ImportError:   # releases that do not rewrite
        return []
    probe = copy.deepcopy(settings)
    convert(probe, model, None)
    if isinstance(probe.target_modules, str):   # untouched
        return []
    return [name for name in layers if name.rsplit(".", 1)[-1] not in probe.target_modules]


def _require_untied(model: nn.Module, layers: Iterable[str]) -> None:
    """RequestError where the matrix of one of these layers is another layer's, too: an adapter would part the two."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter):
            owners.setdefault(weight.data_ptr() or id(weight), []).append(name)   # a device without addresses: 0
    for name in layers:
        others = [other for owner in owners.values() if name in owner for other in owner if other != name]
        if others:
            raise RequestError(f"where.targets names {name}, whose matrix is that of {others[0]}, too; an adapter on one of them "
                               "would part what is tied, so nothing was started. Leave it out of where.targets.")


def save_adapter(outcome: Outcome, folder: Path) -> None:
    """`adapter/` in PEFT's format, and beside it the merged model and, where it has one, the adapter in the family's own. On a
    quantised base the adapter alone: merged, it would be rounded to a few bits, and not be what was audited."""
    assert outcome.task is not None
    model: Any = parked_copy(outcome.model).eval().requires_grad_(False)
    released(outcome.model)
    place = folder if codes(dict(model.named_parameters())) else folder / "adapter"
    place.mkdir(exist_ok=True)
    tensors = write_adapter(model, place)
    outcome.task.save_adapter(tensors, model.peft_config["default"].to_dict(), folder)
    if place == folder:
        return
    fold(model)
    del model.peft_config
    outcome.task.save_model(model, folder)


def write_adapter(model: Any, folder: Path) -> dict[str, Tensor]:
    """The adapters on a model in PEFT's format, which finds the base by what the settings say; the tensors as PEFT names them."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    model.peft_config["default"].save_pretrained(str(folder))
    tensors: dict[str, Tensor] = get_peft_model_state_dict(model, state_dict=model.state_dict())
    flat = {f"base_model.model.{name}": value.cpu().contiguous() for name, value in tensors.items()}
    save_file(flat, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return tensors

"""Low-rank adapters on linear (and ungrouped convolution) layers through PEFT; the base stays bit-identical.

Hu et al. 2021, arXiv:2106.09685. The outcome is an adapter that can be taken off again; it is exported twice, as a
PEFT adapter and merged into a model of the family's own format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lethe.core.config import Count, Fraction, Positive, config
from lethe.core.extras import needs_extra
from lethe.core.modules import copied
from lethe.core.outcome import Outcome
from lethe.core.seeds import derive
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.train.modifiers.where import Draws, Selection


@config
class Lora:
    rank: Count = 8             # inner dimension of the adapters                       [paper, §4.2]
    alpha: Positive = 16.0      # scale is alpha / rank                                 [PEFT examples]
    dropout: Fraction = 0.0     # on the adapters' input                                [ours: small forget sets]
    targets: tuple[str, ...] = ()  # module-name endings; empty: every such layer but the last [e.g. head]

    def within(self, params: Iterable[str]) -> Lora:
        """The same on the layers of these parameters alone, which a method names as its own; `targets` of the request stay."""
        layers = tuple(dict.fromkeys(name.removesuffix(".weight") for name in params if name.endswith(".weight")))
        return self if self.targets or not layers else replace(self, targets=layers)

    def select(self, model: nn.Module, task: Task, loop: Draws) -> Selection:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise needs_extra("lm", "where=lora", "PEFT") from None
        layers = [name for name, module in model.named_modules()
                  if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)]
        chosen = [n for n in layers if n.endswith(self.targets)] if self.targets else layers[:-1] or layers
        if not chosen:
            raise RequestError(f"where.targets = {list(self.targets)} match no linear layer, so nothing could move. "
                               f"Layers: {', '.join(layers[:6])}.")
        given: dict[str, Any] = {   # PEFT says int for alpha and takes any number
            "r": self.rank, "lora_alpha": self.alpha, "lora_dropout": self.dropout,
            "target_modules": "|".join(re.escape(name) for name in chosen),   # a text is matched whole, a list by endings
        }
        settings = LoraConfig(**given)
        with torch.random.fork_rng(devices=[]):   # PEFT draws the first factor from the global generator
            torch.manual_seed(derive(loop.seed, "lora"))
            inject_adapter_in_model(settings, model)
        params = {name: p for name, p in model.named_parameters() if "lora_" in name}
        return Selection(params, kind="adapter")


def save_adapter(outcome: Outcome, folder: Path) -> None:
    """`adapter/` in PEFT's format, and beside it the merged model and, where it has one, the adapter in the family's own."""
    from peft import get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer
    from safetensors.torch import save_file

    assert outcome.task is not None
    model: Any = copied(outcome.model, trainable=False)
    settings = model.peft_config["default"]
    (folder / "adapter").mkdir()
    settings.save_pretrained(str(folder / "adapter"))
    tensors = get_peft_model_state_dict(model, state_dict=model.state_dict())
    flat = {f"base_model.model.{name}": value.cpu().contiguous() for name, value in tensors.items()}
    save_file(flat, folder / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    outcome.task.save_adapter(tensors, settings.to_dict(), folder)
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
    del model.peft_config
    outcome.task.save_model(model, folder)

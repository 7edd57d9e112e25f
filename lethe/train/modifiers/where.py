"""where: which parameters move? A member's `select(model, task, loop)` returns them, and masks for some of them.

It may also change the model in place (LoRA adds adapters).
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Positive, config
from lethe.core.modules import copied
from lethe.core.outcome import Outcome
from lethe.core.seeds import derive
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.maths.importance import gradient_sum, largest

if TYPE_CHECKING:
    from lethe.train.loop import Loop


@dataclass
class Selection:
    """Parameters that move, by name, and for some of them a boolean mask of the entries that do."""

    params: dict[str, nn.Parameter]
    masks: dict[str, Tensor] = field(default_factory=dict)
    kind: str = "weights"


@config
class All:
    """Every trainable parameter."""

    def select(self, model: nn.Module, task: Task, loop: Loop) -> Selection:
        return Selection(task.trainable(model))


@config
class Names:
    """Parameters whose name matches one of the patterns, e.g. `layer4.*`, `*.attn2.*`."""

    patterns: tuple[str, ...]        # shell-style patterns over parameter names
    without: tuple[str, ...] = ()    # patterns of those that stay all the same

    def select(self, model: nn.Module, task: Task, loop: Loop) -> Selection:
        everything = task.trainable(model)
        chosen = {name: p for name, p in everything.items() if any(fnmatch.fnmatch(name, q) for q in self.patterns)
                  and not any(fnmatch.fnmatch(name, q) for q in self.without)}
        if not chosen:
            raise RequestError(f"where.patterns = {list(self.patterns)} match no parameter, so nothing could move. "
                               f"Names look like: {', '.join(list(everything)[:6])}.")
        return Selection(chosen)


@config
class Lora:
    """Low-rank adapters on linear (and ungrouped convolution) layers through PEFT; the base stays bit-identical.

    Hu et al. 2021, arXiv:2106.09685. The outcome is an adapter that can be taken off again; it is exported twice, as a
    PEFT adapter and merged into a model of the family's own format.
    """

    rank: Count = 8             # inner dimension of the adapters                       [paper, §4.2]
    alpha: Positive = 16.0      # scale is alpha / rank                                 [PEFT examples]
    dropout: Fraction = 0.0     # on the adapters' input                                [ours: small forget sets]
    targets: tuple[str, ...] = ()  # module-name endings; empty: every such layer but the last

    def select(self, model: nn.Module, task: Task, loop: Loop) -> Selection:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise RequestError("where=lora needs PEFT, which is not installed. pip install 'lethe[lm]'") from None
        layers = [name for name, module in model.named_modules()
                  if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)]
        chosen = [n for n in layers if n.endswith(self.targets)] if self.targets else layers[:-1] or layers
        if not chosen:
            raise RequestError(f"where.targets = {list(self.targets)} match no linear layer, so nothing could move. "
                               f"Layers: {', '.join(layers[:6])}.")
        settings = LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout,  # type: ignore[arg-type]
            target_modules="|".join(re.escape(name) for name in chosen),   # a text is matched whole, a list by endings
        )
        with torch.random.fork_rng(devices=[]):   # PEFT draws the first factor from the global generator
            torch.manual_seed(derive(loop.seed, "lora"))
            inject_adapter_in_model(settings, model)
        params = {name: p for name, p in model.named_parameters() if "lora_" in name}
        return Selection(params, kind="adapter")


def save_adapter(outcome: Outcome, folder: Path) -> None:
    """`adapter/` in PEFT's format, and beside it the merged model in the family's own."""
    from peft import get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer
    from safetensors.torch import save_file

    assert outcome.task is not None
    model = copied(outcome.model, trainable=False)
    settings: Any = model.peft_config["default"]  # type: ignore[union-attr, index]
    (folder / "adapter").mkdir()
    settings.save_pretrained(str(folder / "adapter"))
    tensors = get_peft_model_state_dict(model, state_dict=model.state_dict())
    flat = {f"base_model.model.{name}": value.cpu().contiguous() for name, value in tensors.items()}
    save_file(flat, folder / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
    del model.peft_config
    outcome.task.save_model(model, folder)


@config
class Saliency:
    """The entries with the largest |Σ ∇ of the forget loss| at the original, one global threshold.

    Fan et al. 2024 (SalUn), arXiv:2310.12508. Batch gradients are weighted by batch size, so that the mask does not
    depend on a short last batch.
    """

    density: Fraction = 0.5     # share of entries that may move                        [paper]
    batch_size: Count = 256     # examples per gradient                                 [official code]

    def select(self, model: nn.Module, task: Task, loop: Loop) -> Selection:
        params = task.trainable(model)
        batches = loop.drawn(task.forget, self.batch_size, "saliency")
        scores = gradient_sum(model, params, batches, lambda m, b: task.nll(m, b))
        return Selection(params, largest({name: value.abs() for name, value in scores.items()}, self.density))


@config
class Magnitude:
    """The entries with the largest |θ|, one global threshold; what a magnitude-pruned network would keep."""

    density: Fraction = 0.1     # share of entries that may move                        [Jia et al. 2023: 0.05–0.1]

    def select(self, model: nn.Module, task: Task, loop: Loop) -> Selection:
        params = task.trainable(model)
        return Selection(params, largest({name: p.detach().abs() for name, p in params.items()}, self.density))

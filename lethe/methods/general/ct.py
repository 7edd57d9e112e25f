"""CT, convolution transpose: transpose every convolution kernel, then repair the model on retained data. A top entry of the
NeurIPS 2023 unlearning challenge, as described and compared in Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari & Haddadi (2024),
"Deep Unlearn", arXiv:2410.01276.

    W[o, i, h, w] ← W[o, i, w, h]  for every convolution;    then minimise E_{x∈R} ℓ(θ; x),  lr falls by a cosine

R retain set, ℓ the family's training loss.
Needs:    retain.     Updates: every trainable parameter.
Cost:     that of fine-tuning.
Limits:   twice is the identity; symmetric and 1×1 kernels stay. A model without square spatial kernels is refused.
Fails by: too short a repair: utility. The forget set is never touched, and what depends little on directions survives.
Deviations: none known.
"""

from __future__ import annotations

from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.task import Task
from lethe.errors import ModelError
from lethe.train.loop import Loop, Term


@config
class CT:
    """Options of convolution transpose."""

    lr: Positive = 1e-2                # SGD, cosine to 0                                    [ours, digits CNN; challenge 1e-3]
    epochs: Positive = 3.0             # passes over R                                       [challenge code]
    batch_size: Count = 64             # examples per step                                   [ours]
    optimiser: Optimiser = "sgd"       # update rule                                         [challenge code]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [challenge code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [challenge code: none]


def transposed(model: nn.Module) -> dict[str, Tensor]:
    """The weight of every 2-d convolution with a square kernel above 1×1, turned over its diagonal, by name."""
    return {f"{path}.weight".lstrip("."): m.weight.detach().transpose(2, 3).clone() for path, m in model.named_modules()
            if isinstance(m, nn.Conv2d) and m.kernel_size[0] == m.kernel_size[1] > 1}


@method(needs={"retain", "convolutions"}, uses={"nll"}, mechanism="tuning")
def run(cfg: CT, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    turned = transposed(model)
    if not turned:
        raise ModelError(f"{type(model).__name__} has no 2-d convolution with a square kernel, so there is nothing to turn over; "
                         "nothing was started. Choose another method: msg, finetune.")
    loop.assign(model, turned)
    loop.minimise(model, {"retain": Term(task.retain, task.nll)}, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip, schedule="cosine")
    return loop.finish(model)

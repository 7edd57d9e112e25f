"""Task vector negation: fit the forgotten data still better, and walk the same way back beyond the original. Ilharco, Ribeiro,
Wortsman, Gururangan, Schmidt, Hajishirzi & Farhadi (2023), arXiv:2212.04089; for language models in MUSE, arXiv:2407.06460.

    θ = θ_0 − α·(θ_F − θ_0),   θ_F = θ_0 fine-tuned on E_{x∈F} ℓ(x)

F forget set, θ_0 the original weights, ℓ the family's training loss, α ≥ 0 how far back.
Needs:    forget.     Updates: every trainable parameter.
Cost:     one forward/backward on F per step, and one subtraction: other α cost nothing.
Limits:   α = 0 is the original, α = −1 would be θ_F. Adapters (`where: lora`) are subtracted as products: the second factor is
          multiplied by −α, so their change of a layer is exactly −α times that of θ_F.
Fails by: an original that has fitted F: its gradients on F are small, and the vector points to what is left to learn. Nothing
          protects what is retained: beyond some α the model is ruined (`negmerge` searches α on retained data).
Deviations: the fine-tuned model may itself be useless (it is meant to be over-fitted), so the watchdog looks at the end alone.
"""

from __future__ import annotations

from torch import Tensor

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.task import Task
from lethe.train.loop import Loop, Term


@config
class TaskVector:
    """Options of task vector negation."""

    scale: NonNegative = 1.0           # α; 0 is the original                                [MUSE: searched up to 16 and more]
    lr: Positive = 1e-5                # AdamW, for 1–8 B weights; tiny models need more     [MUSE]
    epochs: Positive = 10.0            # passes over F                                       [MUSE]
    batch_size: Count = 32             # examples per step                                   [MUSE]
    optimiser: Optimiser = "adamw"     # update rule                                         [MUSE]
    weight_decay: NonNegative = 0.0    # pull towards 0                                      [ours: it is no knowledge of F]


def negated(before: Tensor, after: Tensor, scale: float) -> Tensor:
    """θ_0 − α·(θ_F − θ_0).  [any shape], same -> same

    negated([1], [3], 0.5) == [0].
    """
    return before - scale * (after - before)


@method(needs={"forget"}, uses={"nll"}, mechanism="merge")
def run(cfg: TaskVector, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    start = {name: p.detach().clone() for name, p in loop.selected(model).items()}
    with loop.damage():   # a direction, not a result
        loop.minimise(model, {"forget": Term(task.forget, task.nll)}, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                      optimiser=cfg.optimiser, weight_decay=cfg.weight_decay)
    adapter = loop.kind == "adapter"
    moved = {name: p.detach() for name, p in loop.selected(model).items() if not adapter or "lora_B" in name}
    loop.assign(model, {name: negated(start[name], p, cfg.scale) for name, p in moved.items()})   # B starts at 0
    return loop.finish(model)

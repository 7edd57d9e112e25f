"""DELETE: teach the original's own answers with the forgotten class taken out. Zhou, Zheng, Mo, Lu, Lin & Zheng (2025),
"Decoupled Distillation to Erase", CVPR 2025, arXiv:2503.23751.

    L(θ) = E_{(x,y)∈F} KL( p(x) ‖ softmax z_θ(x) ),    p(x) = softmax( z_0(x) with z_0(x)_y = −∞ )

F forget set, z_θ logits, z_0 those of the original (frozen), y the label in the data. Minimiser: class y gets probability 0
and the other classes keep the original's relative probabilities.
Needs:    forget, original.     Updates: every trainable parameter.
Cost:     one forward/backward on F per step; p is computed once. No retained data.
Limits:   ∂L/∂z_y = softmax(z_θ)_y ≥ 0, and softmax(z_θ) − p on the others: zero once y is gone.
Fails by: drift of shared features, which nothing holds: lr decides between no effect and collapse. Single examples of a class
          that stays are pushed to the runner-up class, unlike in a retrained model.
Deviations: −∞ and a masked sum instead of −1e10, so half precision does not overflow. Batch norm is frozen (the official code
          trains it except with single-class batches, where it destroys the retained classes).
"""

from __future__ import annotations

from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.core.task import Task
from lethe.maths.losses import kl
from lethe.train.loop import Loop, Term


@config
class DELETE:
    """Options of DELETE."""

    lr: Positive = 5e-4                # SGD; the knob: above collapse                       [ours, digits CNN; paper 1e-4]
    epochs: Positive = 10.0            # passes over F                                       [ours, digits CNN; paper 20]
    batch_size: Count = 64             # examples per step                                   [official code]
    optimiser: Optimiser = "sgd"       # update rule                                         [official code]
    weight_decay: NonNegative = 0.0    # pull towards 0                                      [official code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]


def without(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits with −∞ at the label: their softmax is p.  [n, K], [n] -> [n, K]"""
    return logits.float().scatter(-1, labels.unsqueeze(-1), float("-inf"))


@method(needs={"forget", "original"}, uses={"labels", "outputs", "weights"}, mechanism="distil")
def run(cfg: DELETE, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    target = loop.reference("delete", lambda m, b: without(task.outputs(m, b), b.y), task.forget)

    def loss(m: nn.Module, batch: Batch) -> Tensor:
        return kl(target(batch), task.outputs(m, batch))

    loop.minimise(model, {"forget": Term(task.forget, loss)}, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)

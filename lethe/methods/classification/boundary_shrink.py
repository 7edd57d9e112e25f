"""Boundary Shrink: teach each forgotten example the wrong class that is nearest to it. Chen, Gao, Liu, Peng & Wang (2023),
"Boundary Unlearning", CVPR 2023, arXiv:2303.11570.

    x' = x + ε · sign ∇_x ℓ(θ_0; x, y),    y' = argmax_{k≠y} z_0(x')_k,    L(θ) = E_{x∈F} ℓ(θ; x, y')

F forget set, ℓ cross-entropy, z_0 the original's logits (frozen), ε bound of the one-step attack (FGSM).
Needs:    forget, original.     Updates: every trainable parameter.
Cost:     two passes of the original over F, once; then one forward/backward on F per step. No retained data.
Limits:   ε = 0 takes the original's runner-up class.
Fails by: the same drift as every forget-only method: lr decides between no effect and collapse. Made for whole classes.
Deviations: y' is the best class other than y; the official code takes the argmax, which may be y where the attack fails.
          x' is not clipped to an input range, which the task does not know. Boundary Expanding is `boundary_expand`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, pixels
from lethe.maths.losses import cross_entropy
from lethe.maths.neighbours import continuous
from lethe.train.loop import Loop, Term


@config
class BoundaryShrink:
    """Options of Boundary Shrink."""

    bound: NonNegative = 0.1           # ε, in units of the model's input                    [paper]
    lr: Positive = 5e-4                # SGD; the knob: above collapse                       [ours, digits CNN; paper 1e-5–1e-2]
    epochs: Positive = 10.0            # passes over F                                       [paper]
    batch_size: Count = 64             # examples per step                                   [official code]
    optimiser: Optimiser = "sgd"       # update rule                                         [official code]
    weight_decay: NonNegative = 0.0    # pull towards 0                                      [ours: no retain term to answer it]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]


def nearest_other(logits: Tensor, labels: Tensor) -> Tensor:
    """The best class that is not the label.  [n, K], [n] -> [n]"""
    return logits.scatter(-1, labels.unsqueeze(-1), float("-inf")).argmax(-1)


def attacked(x: Tensor, gradient: Tensor, bound: float) -> Tensor:
    """One step of size ε per coordinate up the loss (Goodfellow et al. 2015, arXiv:1412.6572).  [n, …] -> [n, …]"""
    return x + bound * gradient.sign()


@method(needs={"forget", "original"}, uses={"inputs", "labels", "nll", "outputs"}, mechanism="relabel")
def run(cfg: BoundaryShrink, task: ClassificationTask, loop: Loop) -> Outcome:
    continuous(task.forget.batch([0]))   # tokens are refused before any work
    def across(original: nn.Module, batch: Batch) -> Tensor:
        x = pixels(batch.x)
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(task.nll(original, batch.replace(x=x)).sum(), x)
        outputs = task.outputs(original, batch.replace(x=attacked(x.detach(), gradient, cfg.bound)))
        return nearest_other(outputs, batch.y)

    model = loop.start()
    nearest = loop.reference("boundary-shrink", across, task.forget)

    def loss(m: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(task.outputs(m, batch), nearest(batch))

    loop.minimise(model, {"forget": Term(task.forget, loss)}, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)

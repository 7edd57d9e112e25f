"""MU-Mis: make the score of the true label react less to the input, without retained data. Cheng, Huang, Zhou, He, Yang, Wu &
Huang (2024), "Remaining-data-free Machine Unlearning by Suppressing Sample Contribution", arXiv:2402.15109.

    L(θ) = E_{(x,y)∈F} [ s_y(x; θ) − min(s_{y'}(x; θ), κ·s_{y'}(x; θ_0)) ],    s_k(x; θ) = ‖∇_x z_k(x; θ)‖²

F forget set, z_k logit of class k, y' ≠ y a class drawn anew at every step, θ_0 the original, κ ≥ 0 how far the other class
may rise. Training has enlarged s_y of its own examples; this undoes it. Stops when the mean s_y over F is at most δ times the
original's, which is measured after every pass.
Needs:    forget, original.     Updates: every trainable parameter.
Cost:     two gradients with respect to the input and a backward pass through them per step; s_k(θ_0) of all K classes, once.
Limits:   κ = 0 only suppresses the label's logit. Without steps it is the original.
Fails by: nothing holds the retained data: lr decides between no effect and collapse.
Deviations: the second part is bounded by κ; the published one has no lower bound. The gradient norm is clipped. Stop rule and
          step size are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lethe.core.config import Count, Fraction, NonNegative, Optimiser, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, pixels
from lethe.maths.neighbours import continuous
from lethe.train.loop import Loop, Term


@config
class MUMis:
    """Options of MU-Mis."""

    delta: Fraction = 0.1              # stop at this share of the original's sensitivity    [ours, digits CNN]
    kappa: NonNegative = 1.0           # bound of the other class, in units of the original  [ours, digits CNN]
    lr: Positive = 1e-3                # SGD; the knob: above collapse                       [ours, digits CNN]
    epochs: Count = 20                 # passes over F at most                               [ours, digits CNN]
    batch_size: Count = 64             # examples per step                                   [ours]
    optimiser: Optimiser = "sgd"       # update rule                                         [ours]
    clip: Positive | None = 10.0       # largest gradient norm; null: none                   [ours, digits CNN]


def contribution(label: Tensor, other: Tensor, bound: Tensor) -> Tensor:
    """s_y − min(s_{y'}, bound).  [n], [n], [n] -> [n]

    contribution(9, 4, 2) == 7: above its bound the other class has no gradient.
    """
    return label - torch.minimum(other, bound)


def sensitivity(task: ClassificationTask, model: nn.Module, batch: Batch, classes: Tensor, keep: bool) -> Tensor:
    """‖∇_x z_k(x)‖² for the classes k of each example, differentiable in θ when `keep`.  [n, m] -> [n, m]

    Attention in its plain form: the fused kernels have no second derivative.
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        x = pixels(batch.x).detach().requires_grad_(True)
        chosen = task.outputs(model, batch.replace(x=x)).float().gather(1, classes)
        slopes = [torch.autograd.grad(chosen[:, j].sum(), x, create_graph=keep, retain_graph=True)[0]
                  for j in range(classes.shape[1])]
    return torch.stack([slope.flatten(1).square().sum(1) for slope in slopes], 1)


@method(needs={"forget", "original"}, uses={"class_count", "inputs", "labels", "outputs"}, mechanism="features")
def run(cfg: MUMis, task: ClassificationTask, loop: Loop) -> Outcome:
    continuous(task.forget.batch([0]))   # tokens are refused before any work
    model = loop.start()
    k: int = task.class_count
    everything = torch.arange(k, device=loop.settings.device)
    before = loop.reference("mu-mis", lambda m, b: sensitivity(task, m, b, everything.expand(len(b), k), False), task.forget)

    def loss(m: nn.Module, batch: Batch) -> Tensor:
        shift = torch.randint(1, k, (len(batch),)).to(batch.y.device)   # the loop seeds the global generator at every step
        pair = torch.stack([batch.y, (batch.y + shift) % k], 1)
        label, other = sensitivity(task, m, batch, pair, True).unbind(1)
        return contribution(label, other, cfg.kappa * before(batch).gather(1, pair[:, 1:]).squeeze(1))

    start = mean_sensitivity(task, loop, task.original)
    for epoch in range(cfg.epochs):
        loop.minimise(model, {"forget": Term(task.forget, loss)}, lr=cfg.lr, epochs=1, batch_size=cfg.batch_size,
                      optimiser=cfg.optimiser, clip=cfg.clip)
        share = mean_sensitivity(task, loop, model) / max(start, 1e-30)
        if share <= cfg.delta:
            loop.notes.append(f"stopped after pass {epoch + 1}: the label's sensitivity is {share:.2f} of the original's")
            break
    return loop.finish(model)


def mean_sensitivity(task: ClassificationTask, loop: Loop, model: nn.Module) -> float:
    """Mean s_y over the forget set, in eval mode."""
    training, total = model.training, 0.0
    model.eval()
    for batch in loop.drawn(task.forget, 256, "mu-mis"):
        total += float(sensitivity(task, model, batch, batch.y.unsqueeze(1), False).sum())
    model.train(training)
    return total / len(task.forget)

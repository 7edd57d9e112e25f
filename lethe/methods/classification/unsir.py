"""UNSIR: train on noise labelled as the forgotten class until the class is spoilt, then repair the rest. Tarun, Chundawat,
Mandal & Kankanhalli (2023), "Fast Yet Effective Machine Unlearning", TNNLS, arXiv:2111.08947.

    N_c = argmin_N  − E ℓ(θ_0; N, c)  +  λ · E ‖N‖²                            noise for every forgotten class c
    impair:  minimise  E_{(N,c)} ℓ(θ; N, c)  +  E_{(x,y)∈R} ℓ(θ; x, y)
    repair:  minimise  E_{(x,y)∈R} ℓ(θ; x, y)

R retain set, ℓ cross-entropy, θ_0 the original (frozen while N is learned). Zero-glance: of F only the labels are read.
Needs:    forget (its labels and input shape), retain, original.     Updates: every trainable parameter.
Cost:     `noise_steps` passes over `noise` inputs, then one forward/backward on R and one on noise per impair step, one on R per
          repair step.
Limits:   without noise steps the noise is Gaussian; without impair epochs it is fine-tuning on R.
Fails by: forgetting single examples: it removes classes only, and refuses a class that also stands in R. What the repair brings
          back depends on how near the class is to others.
Deviations: noise and R are drawn side by side with equal batch sizes and all of R is used; the official code mixes copies of one
          noise batch per class with a share of R. Inputs are noise without limits, as in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.alike import whole_classes
from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.maths.losses import cross_entropy
from lethe.maths.neighbours import continuous
from lethe.train.loop import Loop, Term


@config
class UNSIR:
    """Options of UNSIR."""

    noise: Count = 256                 # noise inputs per class                              [official code]
    noise_steps: Count = 40            # Adam steps that shape them                          [official code: 5 epochs of 8]
    noise_lr: Positive = 0.1           # of these steps                                      [official code]
    penalty: NonNegative = 1.0         # λ, weight of E‖N‖²                                  [ours, digits CNN; official 0.1]
    impair_lr: Positive = 1e-3         # Adam; above collapse                                [ours, digits CNN; official 0.02]
    impair_epochs: NonNegative = 2.0   # passes over R with noise                            [ours, digits CNN; official 1]
    repair_lr: Positive = 1e-3         # Adam                                                [ours, digits CNN; official 0.01]
    repair_epochs: NonNegative = 1.0   # passes over R alone                                 [official code]
    batch_size: Count = 64             # examples of each term per step                      [ours]
    optimiser: Optimiser = "adam"      # update rule                                         [official code]
    weight_decay: NonNegative = 0.0    # pull towards 0                                      [official code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]


def noise_loss(logits: Tensor, labels: Tensor, noise: Tensor, penalty: float) -> Tensor:
    """−ℓ + λ‖N‖², per input.  [n, K], [n], [n, …] -> [n]

    Logits 0, 0 and a noise of two ones, λ = 0.1: −ln 2 + 0.1·2.
    """
    return penalty * noise.flatten(1).square().sum(1) - cross_entropy(logits, labels)


def learned_noise(cfg: UNSIR, task: ClassificationTask, loop: Loop, labels: Tensor) -> Split:
    """The noise of these labels, shaped on the frozen original.  [n] -> n examples"""
    shape, device = task.forget.columns["x"].shape[1:], loop.settings.device
    noise = torch.randn(len(labels), *shape, generator=loop.generator("unsir")).to(device).requires_grad_(True)
    batch, original = Batch({"x": noise, "y": labels.to(device)}, torch.arange(len(labels))), task.original.to(device)
    adam = torch.optim.Adam([noise], lr=cfg.noise_lr)
    with evaluating(original), torch.enable_grad():
        for _ in range(cfg.noise_steps):
            loss = noise_loss(task.outputs(original, batch), batch.y, noise, cfg.penalty).mean()
            (noise.grad,) = torch.autograd.grad(loss, noise)
            adam.step()
    loop.cost.examples += cfg.noise_steps * len(labels)
    return Split({"x": noise.detach().cpu(), "y": labels}, "noise")


@method(needs={"forget", "retain", "original"}, uses={"inputs", "labels", "nll", "outputs"}, mechanism="noise")
def run(cfg: UNSIR, task: ClassificationTask, loop: Loop) -> Outcome:
    continuous(task.forget.batch([0]))   # tokens are refused before any work
    classes = whole_classes(task.forget, task.retain, "UNSIR")
    model = loop.start()
    noise = learned_noise(cfg, task, loop, classes.repeat_interleave(cfg.noise))

    def minimise(model: nn.Module, terms: dict[str, Term], lr: float, epochs: float) -> None:
        if epochs:
            loop.minimise(model, terms, over="retain", lr=lr, epochs=epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                          weight_decay=cfg.weight_decay, clip=cfg.clip)

    retain = Term(task.retain, task.nll)
    with loop.damage():   # the repair follows
        minimise(model, {"noise": Term(noise, task.nll), "retain": retain}, cfg.impair_lr, cfg.impair_epochs)
    minimise(model, {"retain": retain}, cfg.repair_lr, cfg.repair_epochs)
    return loop.finish(model)

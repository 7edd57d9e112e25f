"""ℓ1-sparse: fine-tune on retained data while pulling weights to zero. Jia, Liu, Ram, Yao, Liu, Liu, Sharma & Liu (2023),
arXiv:2304.04934.

    L_t(θ) = E_{x∈R} ℓ(θ; x)  +  α_t · ‖θ‖₁,    α_t = α · max(0, 1 − t/T),  started at θ_0

R retain set, ℓ the family's training loss, t the epochs that are done (fractional), T all epochs but the last `plain_epochs`.
Needs:    retain.     Updates: every trainable parameter.
Cost:     that of fine-tuning; the penalty costs one pass over the weights per step.
Limits:   α = 0 is `finetune` bit for bit.
Fails by: α and lr must fit each other: too small and nothing is forgotten, too large and everything is.
Deviations: the decay is continuous, not by whole epochs. The penalty is followed by its subgradient (as in the official
          code), which brings weights near zero, never to exact zeros: no sparsity is promised. Pruning before unlearning,
          the paper's other route, is `prune_unlearn`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.task import Task
from lethe.train.loop import Loop, Term


@config
class L1Sparse:
    """Options of ℓ1-sparse."""

    alpha: NonNegative = 1e-3          # weight of ‖θ‖₁ at the start; 1e-5–2e-3              [ours, digits CNN; paper 5e-4]
    exclude: tuple[Literal["norm", "bias"], ...] = ()  # kept out of the penalty: norm layers, biases    [paper: none]
    plain_epochs: NonNegative = 0.0    # epochs at the end without penalty                   [official code: no_l1_epochs]
    lr: Positive = 5e-2                # SGD                                                 [ours, digits CNN; paper 0.01]
    epochs: Positive = 5.0             # passes over R                                       [ours, digits CNN; paper 10]
    batch_size: Count = 64             # examples per step                                   [ours]
    optimiser: Optimiser = "sgd"       # update rule                                         [official code]
    weight_decay: NonNegative = 5e-4   # pull towards 0, beside the ℓ1 one                   [official code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]


def strength(share: float, alpha: float, epochs: float, plain_epochs: float) -> float:
    """α_t when `share` of all epochs is done: linear from α to 0 at T = epochs − plain_epochs, then 0."""
    decaying = epochs - plain_epochs
    return alpha * max(0.0, 1 - share * epochs / decaying) if decaying > 0 else 0.0


def penalised(model: nn.Module, moving: set[str], exclude: tuple[str, ...]) -> list[str]:
    """Names of the moving parameters that enter the penalty. A norm layer is one whose class name says so."""
    names = []
    for path, module in model.named_modules():
        norm = "norm" in type(module).__name__.lower()
        for key, _ in module.named_parameters(recurse=False):
            name = f"{path}.{key}".lstrip(".")
            out = ("norm" in exclude and norm) or ("bias" in exclude and key == "bias")
            if name in moving and not out:
                names.append(name)
    return names


@method(needs={"retain"}, uses={"batch_loss"}, mechanism="tuning")
def run(cfg: L1Sparse, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    moving = loop.selected(model)
    weights = [moving[name] for name in penalised(model, set(moving), cfg.exclude)]

    def penalty(model: nn.Module, share: float) -> Tensor:
        norm = torch.stack([w.abs().sum() for w in weights]).sum()
        return strength(share, cfg.alpha, cfg.epochs, cfg.plain_epochs) * norm

    terms = {"retain": Term(task.retain, task.batch_loss, coupled=task.coupled)}
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip,
                  penalty=penalty if weights and cfg.alpha else None)
    return loop.finish(model)

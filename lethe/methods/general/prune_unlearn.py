"""Prune, then unlearn: set the smallest weights to zero, then fine-tune what is left on retained data. Jia, Liu, Ram, Yao, Liu,
Liu, Sharma & Liu (2023), arXiv:2304.04934.

    1. m = the (1 − s)·d entries of the weight matrices with the largest |θ_0|, one threshold for all;   θ ← m ⊙ θ_0
    2. recover:  minimise  E_{x∈F∪R} ℓ(m ⊙ θ; x)         3. unlearn:  minimise  E_{x∈R} ℓ(m ⊙ θ; x) + α_t · ‖m ⊙ θ‖₁

F forget set, R retain set, ℓ the family's training loss, s sparsity, d the number of entries; α_t falls linearly from α to 0
(α = 0: fine-tuning). Vectors (biases, norms) are neither pruned nor counted. Pruned entries stay exactly 0.
Needs:    forget, retain.     Updates: the entries that are left.
Cost:     one forward/backward on F∪R per recovering step, one on R per unlearning step.
Limits:   s = 0 without recovery is `finetune` (with α: `l1_sparse`) bit for bit.
Fails by: what the unlearner fails by. A loss of utility at high s is that of the pruning, not of the unlearning: hold it against
          retraining at the same sparsity.
Deviations: one-shot magnitude pruning, not iterative; all weight matrices, not convolutions alone. Of the unlearners of the paper
          fine-tuning and its ℓ1 form; others run on the same mask as their `where` modifier `magnitude`.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import concat
from lethe.core.task import Task
from lethe.maths.importance import largest
from lethe.train.loop import Loop, Term


@config
class PruneUnlearn:
    """Options of pruning before unlearning."""

    sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.9   # s, share of the entries set to 0 [paper: 0.9–0.95]
    recover_epochs: NonNegative = 5.0  # passes over F and R after the pruning               [ours]
    recover_lr: Positive = 1e-2        # SGD                                                 [ours]
    alpha: NonNegative = 0.0           # weight of ‖θ‖₁ at the start; 0 is fine-tuning       [paper: both are compared]
    lr: Positive = 1e-2                # SGD                                                 [paper]
    epochs: Positive = 10.0            # passes over R                                       [paper]
    batch_size: Count = 64             # examples per step                                   [ours]
    optimiser: Optimiser = "sgd"       # update rule                                         [paper]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [paper]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]


@method(needs={"forget", "retain"}, uses={"nll"}, mechanism="mask")
def run(cfg: PruneUnlearn, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    moving = loop.selected(model)
    matrices = {name: p.detach() for name, p in moving.items() if p.dim() > 1}
    masks = largest({name: p.abs() for name, p in matrices.items()}, 1 - cfg.sparsity)
    loop.assign(model, {name: p * masks[name] for name, p in matrices.items()})

    def penalty(model: nn.Module, share: float) -> Tensor:
        norm = torch.stack([p.abs().sum() for p in moving.values()]).sum()
        return cfg.alpha * (1 - share) * norm

    def minimise(term: Term, lr: float, epochs: float, sparse: bool) -> None:
        loop.minimise(model, {"retain": term}, lr=lr, epochs=epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                      weight_decay=cfg.weight_decay, clip=cfg.clip, masks=masks, penalty=penalty if sparse else None)

    if cfg.recover_epochs:
        everything = Term(concat([task.retain, task.forget], "train"), task.nll)
        minimise(everything, cfg.recover_lr, cfg.recover_epochs, False)
    minimise(Term(task.retain, task.nll), cfg.lr, cfg.epochs, cfg.alpha > 0)
    return loop.finish(model)

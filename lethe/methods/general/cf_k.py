"""CF-k, catastrophic forgetting of the last k layers: fine-tune only the last k layers on retained data. Goel, Prabhu, Sanyal,
Lim, Torr & Kumaraguru (2022), arXiv:2201.06640.

    L(θ_k) = E_{x∈R} ℓ(θ_{<k}, θ_k; x),  started at θ_0;    θ_k the last k blocks, θ_{<k} all before them (frozen)

R retain set, ℓ the family's training loss, θ_0 the original weights. What a block is: `lethe.core.modules`.
Needs:    original, retain.     Updates: the last k blocks; the others stay bit-identical.
Cost:     that of fine-tuning, with a backward pass that ends k blocks from the output.
Limits:   k = all blocks is `finetune` bit for bit; without steps it is the original.
Fails by: what fine-tuning fails by, and more: less moves. A lower bound for what touching k blocks can do (`eu_k`: the upper).
Deviations: a `where` modifier replaces the choice of blocks.
"""

from __future__ import annotations

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.modules import last_blocks
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.task import Task
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.where.names import Names


@config
class CFk:
    """Options of CF-k."""

    k: Count = 2                       # blocks from the output that move                    [paper: all k are compared]
    lr: Positive = 1e-2                # SGD; larger forgets more and costs more utility     [as finetune, arXiv:2304.04934]
    epochs: Positive = 10.0            # passes over R                                       [as finetune, arXiv:2304.04934]
    batch_size: Count = 64             # examples per step                                   [ours]
    optimiser: Optimiser = "sgd"       # update rule                                         [as finetune, arXiv:2304.04934]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [as finetune, arXiv:2304.04934]
    clip: Positive | None = None       # largest gradient norm; null: none                   [as finetune]


@method(needs={"original", "retain"}, uses={"batch_loss"}, mechanism="tuning")
def run(cfg: CFk, task: Task, loop: Loop) -> Outcome:
    names = last_blocks(task.copy_of_original(), cfg.k)
    model = loop.start(where=Names(tuple(names)))
    terms = {"retain": Term(task.retain, task.batch_loss, coupled=task.coupled)}
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)

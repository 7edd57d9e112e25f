"""SalUn: teach random labels, and change only the weights that react most to the forget set. Fan, Liu, Zhang, Wong, Wei & Liu
(2024), arXiv:2310.12508.

    g = |Σ_{x∈F} ∇_θ ℓ(θ_0; x)|,    m_j = 1 for the ρ·d largest g_j over all weights together, else 0
    L(θ) = w · E_{x∈F} ℓ(θ_u; x, y')  +  α · E_{(x,y)∈R} ℓ(θ_u; x, y),    θ_u = m ⊙ θ + (1 − m) ⊙ θ_0

F forget set, R retain set, ℓ the family's training loss, y' a random target drawn at every step (classes: uniform over all K, or,
include_true = false, over the other K − 1), w = |F|/|R| (balance = size: every example counts alike) or 1 (equal), θ_0 the
original weights, d their number, ρ density.
Needs:    forget, retain.     Updates: the entries with m_j = 1; the others stay bit-identical.
Cost:     one gradient pass over F, then one forward/backward on F and one on R per step.
Limits:   ρ = 1 is `random_label` bit for bit; ρ = 0 changes nothing.
Fails by: what random labels fail by, with two classes above all; on small networks the mask makes no measurable difference.
Deviations: the signed sum runs over examples, not over batch means, so a short last batch weighs no more than its size.
          Masked entries are put back after every step (the official code does so since February 2026; before, momentum and
          weight decay moved them). Running statistics of batch norm are frozen, not updated.
          F and R side by side, see `random_label`.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from lethe.core.config import Count, Fraction, NonNegative, Optimiser, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.task import Task
from lethe.maths.importance import gradient_sum, largest
from lethe.train.loop import Loop, Term


@config
class SalUn:
    """Options of SalUn."""

    density: Fraction = 0.5            # ρ, share of the weights that may move               [paper]
    alpha: NonNegative = 1.0           # weight of the retain term                           [paper]
    include_true: bool = True          # whether y' may be the true class; with K = 2: never without  [SalUn official code]
    balance: Literal["size", "equal"] = "size"   # F beside R: each example alike, or each set      [SalUn official code]
    lr: Positive = 1e-2                # SGD; the knob; smaller for larger forget sets       [official code: 0.013]
    epochs: Positive = 10.0            # passes over R                                       [official code]
    batch_size: Count = 64             # examples of each term per step                      [ours]
    optimiser: Optimiser = "sgd"       # update rule                                         [official code]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [official code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]


@method(needs={"forget", "retain"}, uses={"nll", "relabel"}, mechanism="relabel")
def run(cfg: SalUn, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    gradients = gradient_sum(model, loop.selected(model), loop.drawn(task.forget, 256, "saliency"), task.nll)
    loop.cost.examples += len(task.forget)
    terms = {
        "retain": Term(task.retain, task.nll, cfg.alpha),
        "forget": Term(task.forget, task.nll, len(task.forget) / len(task.retain) if cfg.balance == "size" else 1.0,
                       prepare=partial(task.relabel, include_true=cfg.include_true)),
    }
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip,
                  masks=largest({name: g.abs() for name, g in gradients.items()}, cfg.density))
    return loop.finish(model)

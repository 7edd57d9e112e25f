"""Random labels: teach other targets for the forgotten inputs, and the true ones for the rest.

Golatkar, Achille & Soatto (2020), arXiv:1911.04933; Graves, Nagisetty & Ganesh (2021), arXiv:2010.10981 (amnesiac
unlearning, its label part).

    L(θ) = w · E_{x∈F} ℓ(θ; x, y')  +  α · E_{(x,y)∈R} ℓ(θ; x, y),      w = |F|/|R|  (balance = size)  or  1  (equal)

F forget set, R retain set, ℓ the family's training loss, y' a random target drawn at every step (classes: uniform over all K,
or, include_true = false, over the other K − 1); the minimiser over F therefore predicts "any", not one memorised wrong answer.
Needs:    forget, retain.     Updates: every trainable parameter.
Cost:     one forward/backward on F and one on R per step.
Limits:   α = 0 drops the retain term; without steps it is the original.
Fails by: answering unlike a model that never saw F: flat over wrong classes, where a retrained one has an opinion. On
          unremarkable examples, which a retrained model gets right, it is further from retraining than the untouched model.
          With K = 2 and include_true = false the labels of F are inverted: what was right is taught wrong, and balance = equal
          weighs every example of F |R|/|F| times as much.
Deviations: amnesiac unlearning also subtracts logged updates of the training run, which needs cooperation at training time, and
          never draws the true label (include_true = false). F and R are drawn side by side, F cycled; the sources pass over their
          union, of which balance = size keeps the weights.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.task import Task
from lethe.train.loop import Loop, Term


@config
class RandomLabel:
    """Options of random labels."""

    alpha: NonNegative = 1.0           # weight of the retain term                           [SalUn, arXiv:2310.12508]
    include_true: bool = True          # whether y' may be the true class; with K = 2: never without  [SalUn official code]
    balance: Literal["size", "equal"] = "size"   # F beside R: each example alike, or each set      [SalUn official code]
    lr: Positive = 1e-2                # SGD; smaller for larger forget sets                 [SalUn official code: 0.013]
    epochs: Positive = 10.0            # passes over R                                       [SalUn official code]
    batch_size: Count = 64             # examples of each term per step                      [ours]
    optimiser: Optimiser = "sgd"       # update rule                                         [SalUn official code]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [SalUn official code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [SalUn official code: none]


@method(needs={"forget", "retain"}, uses={"nll", "relabel"}, mechanism="relabel")
def run(cfg: RandomLabel, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    terms = {
        "retain": Term(task.retain, task.nll, cfg.alpha),
        "forget": Term(task.forget, task.nll, len(task.forget) / len(task.retain) if cfg.balance == "size" else 1.0,
                       prepare=partial(task.relabel, include_true=cfg.include_true)),
    }
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)

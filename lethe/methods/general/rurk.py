"""RURK: forget the inputs around each forgotten example as well as the example itself. Hsu, Niroula, He, Brugere, Lecue & Chen
(2025), "The Unseen Threat: Residual Knowledge in Machine Unlearning under Perturbed Samples", NeurIPS 2025, arXiv:2601.22359.

    L(θ) = E_{(x,y)∈R} ℓ(θ; x, y)  −  λ · E_{(x,y)∈F} ½ [ min(ℓ(θ; x, y), c) + min(ℓ(θ; x', y), c) ]
    x' = argmin_{‖x' − x‖₂ ≤ τ} ℓ(θ; x', y)

F forget set, R retain set, ℓ the family's training loss. x' is the neighbour that is best recognised, looked for by
`attack_steps` projected gradient steps from a random point at distance τ, anew at every step, and constant in θ; without steps
it is that point. What has reached the loss c is let go, which bounds the ascent. The audit `residual` measures what this method
penalises.
Needs:    forget, retain.     Updates: every trainable parameter.
Cost:     one forward/backward on 2·|F| and one on R per step, and `attack_steps` more on F.
Limits:   λ = 0 is fine-tuning on R. τ → 0 without c is NegGrad+ with β = 1/(1 + λ). Continuous inputs only (pictures, tables,
          features): tokens stop with an error before any work.
Fails by: without c, the unbounded ascent. With examples that a retrained model gets right it forgets too much, nearby as well.
Deviations: the kind of penalty is the paper's, its exact form and weights were not at hand. c is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Natural, NonNegative, Optimiser, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.core.task import Task
from lethe.maths.neighbours import continuous, on_sphere, recognised
from lethe.train.loop import Loop, Term


@config
class RURK:
    """Options of RURK."""

    radius: Positive = 0.5             # τ, in units of the model's input                    [ours, digits; paper about 0.03]
    attack_steps: Natural = 0          # of the search for x'; 0: a random point at τ        [ours, digits CNN: see Measured]
    strength: NonNegative = 0.1        # λ, weight of the ascent; 0 is fine-tuning           [ours, digits CNN]
    ceiling: Positive | None = 8.0     # c, loss above which an example is let go; null: none [ours, digits CNN]
    lr: Positive = 1e-2                # SGD                                                 [ours, digits CNN]
    epochs: Positive = 5.0             # passes over R                                       [ours]
    batch_size: Count = 64             # examples of each term per step                      [ours]
    optimiser: Optimiser = "sgd"       # update rule                                         [ours]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [ours]
    clip: Positive | None = 1.0        # largest gradient norm; ascent is unbounded          [ours]


def pushed(nll: Tensor, ceiling: float | None) -> Tensor:
    """−min(ℓ, c): no push where the loss is above the ceiling.  [n] -> [n]

    pushed((1, 9), 4) == (−1, −4).
    """
    return -nll if ceiling is None else -nll.clamp(max=ceiling)


@method(needs={"forget", "retain"}, uses={"inputs", "nll"}, mechanism="ascent")
def run(cfg: RURK, task: Task, loop: Loop) -> Outcome:
    continuous(task.forget.batch([0]))   # refused before any work

    def start(batch: Batch, rng: torch.Generator) -> Batch:
        batch = continuous(batch)
        return batch.replace(near=on_sphere(batch.x, cfg.radius, rng))

    def unknown(m: nn.Module, batch: Batch) -> Tensor:
        near = recognised(lambda x: task.nll(m, batch.replace(x=x)), batch.near, batch.x, cfg.radius, cfg.attack_steps)
        return (pushed(task.nll(m, batch), cfg.ceiling) + pushed(task.nll(m, batch.replace(x=near)), cfg.ceiling)) / 2

    model = loop.start()
    terms = {"retain": Term(task.retain, task.nll), "forget": Term(task.forget, unknown, cfg.strength, prepare=start)}
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)

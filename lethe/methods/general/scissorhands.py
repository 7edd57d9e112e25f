"""Scissorhands: draw anew the weights that the forgotten data hang on most, then repair on retained data without going back.
Wu & Harandi (2024), "Scissorhands: Scrub Data Influence via Connection Sensitivity in Networks", ECCV 2024, arXiv:2401.06187.

    trim      s_j = |θ_j| · Σ_B |∂ℓ(B)/∂θ_j| over batches B of F;   the ρ·d entries with the largest s_j: weights drawn anew
              (He's uniform), biases 0
    repair    along g = ∇ [ E_R ℓ − λ E_F ℓ ], or where <g, m_k> < 0 for one of the memories m_k = ∇(−ℓ(B_k)) at the trimmed model
              g + Σ_k v_k m_k,   v = argmin_{v ≥ μ} ½ ‖g + Σ_k v_k m_k‖² + ½ ε ‖v‖²

F forget set, R retain set, ℓ the family's training loss, d the number of weights and biases, ρ share, ε = 10⁻³: the projection of
gradient episodic memory (Lopez-Paz & Ranzato 2017, arXiv:1706.08840), so that no step leads back to the forgotten data.
Needs:    forget, retain.     Updates: every parameter; norms are never drawn anew.
Cost:     one gradient for each trimming batch and memory, once; one forward/backward on F and R per step.
Limits:   ρ = λ = 0 without memories is `finetune`; memories = 0 repairs by the plain sum (the official text-to-image code).
Fails by: a memory of few forgotten examples: other directions lead back (audit: relearn); a share ρ that trims what retained data
          need, and a repair too short to learn it again.
Deviations: memories are taken once, at the trimmed model; the official code takes them anew every epoch. Both terms are there at
          every step; there an epoch goes on without F once F is used up. The quadratic problem is solved by coordinates, not by
          quadprog. Entries of every layer may be trimmed; there those of the last blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Natural, NonNegative, Optimiser, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.maths.importance import gradient_sum, largest
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.combine import Apply, Ask, Gradients, inner

RIDGE, ROUNDS = 1e-3, 200   # ε; rounds over the coordinates of v                           [official code; ours]


@config
class Scissorhands:
    """Options of Scissorhands."""

    share: Fraction = 0.03             # ρ, of all weights and biases: drawn anew            [official code: 1 − 0.97]
    trim_batches: Count = 1            # batches of F whose gradients say which              [official code]
    lamb: NonNegative = 0.05           # λ, weight of the forgotten data's loss              [official code]
    memories: Natural = 1              # batches of F that no step may lead back to; 0: none [official code]
    margin: NonNegative = 0.5          # μ, least step along a memory that is in conflict [tested in test_scissorhands]  [GEM]
    lr: Positive = 5e-3                # SGD                                                 [official code]
    epochs: Positive = 10.0            # passes over R                                       [official code]
    batch_size: Count = 64             # examples of each term per step                      [ours; official 256]
    optimiser: Optimiser = "sgd"       # update rule                                         [official code]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [official code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]


def along(products: Tensor, overlaps: Tensor, margin: float) -> Tensor:
    """v: how far along each memory, from <m_k, g> and <m_j, m_k>.  [K], [K, K] -> [K]

    One memory of length 2 against a gradient with <m, g> = −6: −(−6)/(4 + ε) = 1.4996; with −1 it is the margin ½.
    """
    whole = overlaps + RIDGE * torch.eye(len(products), dtype=overlaps.dtype)
    v = torch.full_like(products, margin)
    for _ in range(ROUNDS):
        for k in range(len(v)):
            rest = products[k] + whole[k] @ v - whole[k, k] * v[k]
            v[k] = (-rest / whole[k, k]).clamp(min=margin)
    return v


@dataclass(frozen=True, eq=False)
class Away:
    """combine: the sum of the terms, turned away from the memories where it would lead back to one of them."""

    margin: float
    memories: Sequence[Gradients] = field(default_factory=list)

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        g = gradients(terms)
        products = torch.stack([inner(m, g) for m in self.memories]).double().cpu() if self.memories else torch.zeros(0)
        if (products < 0).any():
            overlaps = torch.stack([torch.stack([inner(m, other) for other in self.memories]) for m in self.memories])
            v = along(products, overlaps.double().cpu(), self.margin).tolist()
            g = [p + torch.stack([share * m[i] for share, m in zip(v, self.memories, strict=True)]).sum(0)
                 for i, p in enumerate(g)]
        apply(g)


@method(needs={"forget", "retain"}, uses={"nll"}, mechanism="mask")
def run(cfg: Scissorhands, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    trim(cfg, task, loop, model)
    moving = loop.selected(model)
    memories = []
    for part in batches(cfg, task, loop, cfg.memories, "memories"):
        towards = gradient_sum(model, moving, loop.drawn(part, len(part), "memories"), task.nll)
        memories.append([-g / len(part) for g in towards.values()])
        loop.cost.examples += len(part)
    terms = {"retain": Term(task.retain, task.nll)}
    if cfg.lamb:
        terms["forget"] = Term(task.forget, lambda m, b: -task.nll(m, b), cfg.lamb)
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip, combine=Away(cfg.margin, memories))
    return loop.finish(model)


def batches(cfg: Scissorhands, task: Task, loop: Loop, count: int, purpose: str) -> list[Split]:
    """At most so many batches of the forget set, in an order of their own."""
    order = torch.randperm(len(task.forget), generator=loop.generator("scissorhands", purpose))
    return [task.forget.subset(part, "forget") for part in order.split(cfg.batch_size)[:count]]


def trim(cfg: Scissorhands, task: Task, loop: Loop, model: nn.Module) -> None:
    """Draw anew what the forget set is most sensitive to."""
    moving = loop.selected(model)
    layers = [path for path, m in model.named_modules()
              if isinstance(weight := getattr(m, "weight", None), nn.Parameter) and weight.dim() > 1]
    names = [f"{path}.{key}".lstrip(".") for path in layers for key in ("weight", "bias")]
    trimmed = {name: moving[name] for name in names if name in moving}
    scores = {name: torch.zeros_like(p) for name, p in trimmed.items()}
    for part in batches(cfg, task, loop, cfg.trim_batches, "trim"):
        found = gradient_sum(model, trimmed, loop.drawn(part, len(part), "trim"), task.nll)
        loop.cost.examples += len(part)
        for name, g in found.items():
            scores[name] += (g / len(part)).abs() * trimmed[name].detach().abs()
    masks = largest(scores, cfg.share)
    fresh = {name: torch.where(masks[name], drawn_anew(p, loop.generator("scissorhands", name)), p.detach())
             for name, p in trimmed.items()}
    with loop.damage():   # what the repair makes good
        loop.assign(model, fresh)


def drawn_anew(p: Tensor, rng: torch.Generator) -> Tensor:
    """He's uniform initialisation as PyTorch's layers begin, of a bias 0.  [any shape] -> the same"""
    if p.dim() < 2:
        return torch.zeros_like(p)
    fresh = nn.init.kaiming_uniform_(torch.empty(p.shape), a=math.sqrt(5), generator=rng)
    return fresh.to(p)

"""RFE: forget data that resemble retained data, then repair the retained data that are most like them. Cheng, Liu, Li & Zhang
(2026), "Machine Unlearning under Retain-Forget Entanglement", ICLR 2026, arXiv:2603.26569; the name RFE is ours.

    1.  max_θ  γ·E_{x∈F} min(ℓ(θ; x), c)   subject to   g(θ) = E_{x∈R∖A} ℓ(θ; x) − E_{x∈R∖A} ℓ(θ_0; x) = 0
        by an augmented Lagrangian: every pass minimises −γ·L_F + λ·g + (μ/2)·g², then λ ← λ + μ·g
    2.  θ ← θ − η·P ∇L_A(θ),   P projects off span{∇L̃_F, ∇L_{R∖A}}
        L̃_F = −(1 − α)·L_F + α·W₂²,   W₂² = E_i (ℓ_(i)(θ) − ℓ_(i)(θ̄))², losses sorted; θ̄ where phase 1 ended

F forget set, R retain set, A ⊂ R adjacent: the share of R whose features at θ_0 lie nearest to an example of F (cosine, centred),
ℓ the family's training loss, c its cap, λ multiplier, μ penalty, α weight of the Wasserstein-2 distance between distributions of
losses. Phase 2 learns A again where, to first order, neither the losses on F nor those on the rest of R move.
Needs:    forget, retain, original.     Updates: every trainable parameter.
Cost:     a pass over F and R for A; phase 1 one forward/backward on F and one on R∖A per step, and a pass over R∖A per epoch;
          phase 2 three forward/backward per step and one forward of θ̄ on F.
Limits:   without passes of phase 2 it is ascent under a constraint. A step of phase 2 is zero where ∇L_A lies in the span.
Fails by: c: ascent far beyond chance ruins the neighbours, and what phase 2 gives back to them it takes from the rest, which it
          spares to first order only.
Deviations: A is found from features, where the paper takes known groups (classes of one superclass). λ moves once per pass, by g
          over all of R∖A, not after every batch, so that it needs no state. Phase 2 steps without momentum, which would carry
          directions that were orthogonal elsewhere, and takes one batch of F and of R∖A where the official code sums up to ten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Natural, Positive, config
from lethe.core.modules import copied, evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.train.loop import Loop, Term

Gradients = list[Tensor]


@config
class RFE:
    """Options of RFE."""

    adjacent: Fraction = 0.2           # share of R that counts as adjacent                  [ours; paper: known groups]
    gamma: Positive = 1.0              # γ, weight of forgetting in phase 1                  [official code]
    cap: Positive = 4.0                # c, loss on F beyond which nothing is pushed         [ours, digits CNN; official 10]
    mu: Positive = 10.0                # μ, penalty and step of the multiplier               [official code]
    lr: Positive = 1e-3                # phase 1; Adam                                       [ours, digits CNN; official 2.5e-6]
    epochs: Count = 5                  # passes over R∖A of phase 1                          [ours, digits CNN; official 1]
    optimiser: Literal["sgd", "adam"] = "adam"   # update rule of phase 1 [official code]
    alpha: Fraction = 0.5              # α, share of W₂² in the guarded loss on F            [official code]
    recover_lr: Positive = 1e-2        # η, phase 2; SGD                                     [ours, digits CNN; official 2e-5]
    recover_epochs: Natural = 6        # passes over A of phase 2; 0: none                   [official code]
    batch_size: Count = 64             # examples of R∖A per step of phase 1, of A of phase 2 [ours; official 128]
    forget_batch_size: Count = 64      # examples of F per step of phase 1                   [ours; official 16]
    wide_batch_size: Count = 256       # examples of F and of R∖A that phase 2 holds         [ours; official ≤ 10 batches]
    clip: Positive | None = 1.0        # largest gradient norm of phase 1                    [ours, digits CNN; official none]


def nearness(retain: Tensor, forget: Tensor) -> Tensor:
    """Cosine of each retained example to the nearest forgotten one, features centred on R.  [n, d], [m, d] -> [n]"""
    centre = retain.mean(0)
    return (F.normalize(retain - centre, dim=1) @ F.normalize(forget - centre, dim=1).T).max(1).values


def capped(loss: Tensor, cap: float) -> Tensor:
    """min(ℓ, c): no gradient beyond the cap.  [n] -> [n]"""
    return loss.clamp(max=cap)


def price(excess: Tensor, multiplier: float, mu: float) -> Tensor:
    """λ + μ·g, what a unit of loss on R∖A costs: d/dg of λ·g + (μ/2)·g².  price(0.5, 1, 10) == 6"""
    return multiplier + mu * excess


def guarded(loss: Tensor, before: Tensor, alpha: float) -> Tensor:
    """−(1 − α)·ℓ + α·(ℓ_(i) − ℓ̄_(i))², the i-th smallest losses now and after phase 1; its mean is L̃_F.  [n], [n] -> [n]

    guarded([3, 1], [1, 2], ½) == ½·[−1 + 0, −3 + 1] == [−½, −1]: sorted [1, 3] against [1, 2].
    """
    now = loss.sort().values
    return -(1 - alpha) * now + alpha * (now - before.sort().values).square()


def orthogonal(gradient: Gradients, others: Sequence[Gradients]) -> Gradients:
    """`gradient` without its part in the span of `others`; these may be zero or parallel.

    orthogonal([[1, 2, 3]], [[[1, 0, 0]], [[1, 1, 0]]]) == [[0, 0, 3]].
    """
    def dot(a: Gradients, b: Gradients) -> Tensor:
        return torch.stack([(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)]).sum()

    gram = torch.stack([torch.stack([dot(a, b) for b in others]) for a in others])
    shares = torch.linalg.pinv(gram, hermitian=True, rtol=1e-9) @ torch.stack([dot(a, gradient) for a in others])
    return [g - sum(s.to(g.dtype) * part for s, part in zip(shares, parts, strict=True))
            for g, *parts in zip(gradient, *others, strict=True)]


@dataclass(frozen=True)
class Projected:
    """combine: a step along the first term's gradient, projected off those of the others."""

    def step(
        self, terms: Sequence[str], gradients: Callable[[Sequence[str]], Gradients], apply: Callable[[Gradients], None]
    ) -> None:
        first, *others = ([g.clone() for g in gradients([term])] for term in terms)
        apply(orthogonal(first, others))


def parted(task: Task, loop: Loop, share: float) -> tuple[Split, Split]:
    """(A, R∖A); at least one example each."""
    if len(task.retain) < 2:
        raise RequestError(f"the retain set has {len(task.retain)} example, which cannot be parted in adjacent and other ones; "
                           "nothing was started. Provide more retain data.")
    original = task.original.to(loop.settings.device)

    def features(split: Split) -> Tensor:
        with evaluating(original):
            rows = [(b.index.cpu(), task.features(original, b).float().flatten(1).cpu())
                    for b in loop.drawn(split, 256, "rfe", split.name)]
        return torch.cat([found for _, found in rows])[torch.argsort(torch.cat([index for index, _ in rows]))]

    near = nearness(features(task.retain), features(task.forget))
    count = min(max(round(share * len(near)), 1), len(near) - 1)
    order = near.argsort(descending=True, stable=True)
    return task.retain.subset(order[:count].sort().values.numpy(), "adjacent"), \
        task.retain.subset(order[count:].sort().values.numpy(), "remote")


@method(needs={"forget", "retain", "original"}, uses={"features", "nll"}, mechanism="ascent")
def run(cfg: RFE, task: Task, loop: Loop) -> Outcome:
    adjacent, remote = parted(task, loop, cfg.adjacent)
    model = loop.start()
    pinned, multiplier = loop.mean_nll(model, remote, "rfe loss"), 0.0

    def kept(m: nn.Module, batch: Batch) -> Tensor:
        loss = task.nll(m, batch)
        return price(loss.detach().mean() - pinned, multiplier, cfg.mu) * loss

    def ascent(m: nn.Module, batch: Batch) -> Tensor:
        return -cfg.gamma * capped(task.nll(m, batch), cfg.cap)

    terms = {"remote": Term(remote, kept), "forget": Term(task.forget, ascent, batch_size=cfg.forget_batch_size)}
    for _ in range(cfg.epochs):
        loop.minimise(model, terms, lr=cfg.lr, epochs=1, batch_size=cfg.batch_size, optimiser=cfg.optimiser, clip=cfg.clip)
        multiplier += cfg.mu * (loop.mean_nll(model, remote, "rfe loss") - pinned)
    if not cfg.recover_epochs:
        return loop.finish(model)
    ended = copied(model, trainable=False)

    def forgotten(m: nn.Module, batch: Batch) -> Tensor:
        with evaluating(ended):
            before = task.nll(ended, batch)
        return guarded(task.nll(m, batch), before, cfg.alpha)

    recovery = {"adjacent": Term(adjacent, task.nll),
                "forget": Term(task.forget, forgotten, batch_size=cfg.wide_batch_size),
                "remote": Term(remote, task.nll, batch_size=cfg.wide_batch_size)}
    loop.minimise(model, recovery, lr=cfg.recover_lr, epochs=cfg.recover_epochs, batch_size=cfg.batch_size, optimiser="sgd",
                  momentum=0.0, combine=Projected())
    return loop.finish(model)

"""ResAlign: erase so that a user's fine-tuning does not bring the concept back, by fine-tuning as users do at every step. Li, Gu,
Wang, Qi, Li, Wang, Qin & Zhang (2025), arXiv:2507.16302 (NeurIPS 2025).

    min_θ  ℓ_f(θ) + λ [ℓ_f(θ*) − ℓ_f(θ)] + μ E_{(x, c)∈R} ‖ε_θ(x_t, c) − ε_0(x_t, c)‖²,    θ* ≈ argmin_ϑ ℓ_u(ϑ) + ½‖ϑ − θ‖²
    ∇_θ ℓ_f(θ*) = (I + H)⁻¹ g ≈ Σ_{k<K} ((1 − s) I − s H)^k s g,    g = ∇ℓ_f(θ*),  H = ∇²ℓ_u(θ*),  s = 1/(1 + ‖Hg‖/‖g‖)
    ℓ_f = − E_{(x, c)∈F} ‖ε_θ(x_t, c) − ε‖²                                    (loss = ascent)
        = E_{(x, c)∈F} ‖ε_θ(x_t, c) − [ε_0(∅) − η (ε_0(c) − ε_0(∅))]‖²          (loss = esd)

F forgotten and R retained pictures with prompts, ε_0 the original, ℓ_u the training loss on the pictures of a user (`user`),
θ* what some steps of Adam from θ make of it, their number and rate drawn anew for every step (`users`, `rates`). The sum is
Richardson's iteration; products with H are differences of gradients on both sides of θ*.
Needs:    forget, retain, original.     Updates: x: cross-attention (of class networks the class embedding); all: everything.
Cost:     per step up to max(`users`) forward/backwards of the user, 2 (K − 1) for the curvature, one on R, two on F.
Limits:   λ = 0 is ascent (or ESD on pictures) with a retain term; K = 1 takes g, the gradient at θ*, for that at θ.
Fails by: users unlike those that it trained against, or too few steps: on the preset, one seed, it was no harder to undo than
          ESD, which had erased further (loss = esd, variant = x, 40 steps of 3e-4 against users of 8 steps of 3e-4). Pictures for
          the concept's prompts that show it, at a noise of their own: 0.46 (ESD 0.08), 0.58 after 20 steps of a user of
          retained pictures (ESD 0.42), 0.75 after 10 of one of forgotten pictures (ESD 0.54). More seeds, and the published
          160 steps against users of 30, were not measured.
Deviations: the official code moves a LoRA of all attention, draws three of fifteen users a step, and halves s from 1 where the
          iteration grows; here the weights, one user a step, and s by the first product. A user's data are R or F (paper:
          benign pictures and sets of DreamBooth). λ and μ do not grow on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import evaluating, put_back
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.losses import squared_distance
from lethe.train.erasing import esd_target, fine_tuned, moved
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.combine import Apply, Ask, Gradients, Recalling, inner

REACH = 1e-2   # h·‖v‖, the length of a difference                                                       [ours]


@config
class ResAlign:
    """Options of ResAlign."""

    loss: Literal["ascent", "esd"] = "ascent"   # ℓ_f                                                  [official code]
    eta: NonNegative = 1.0                # η, negative guidance [only with loss=esd lr=0.01]           [official code]
    lamb: Annotated[float, Field(ge=0, le=1)] = 0.8   # λ, of what a user makes of it   [only with lr=0.01] [official code]
    mu: NonNegative = 1.6                 # μ, of the retain term   [only with lr=0.01] [official code]
    user: Literal["retain", "forget"] = "retain"   # whose pictures a user has   [only with lr=0.01] [paper: benign]
    users: tuple[Count, ...] = (30,)      # steps of a user, one for each step   [only with lr=0.01] [official code]
    rates: tuple[Positive, ...] = (1e-4, 1e-5)   # of a user's Adam, one for each step   [only with lr=0.01] [official code]
    terms: Count = 5                      # K, of the Richardson iteration   [only with lr=0.01] [official code]
    variant: Literal["all", "x"] = "all"  # which weights move                                          [official code]
    lr: Positive = 2e-4                   # Adam                                                        [official code]
    steps: Count = 160                    # optimiser steps                                             [official code]
    batch_size: Count = 4                 # pictures of each term per step                              [official code]


def implicit(g: Gradients, product: Callable[[Gradients], Gradients], terms: int) -> Gradients:
    """Σ_{k<K} ((1 − s) I − s H)^k s g, s = 1/(1 + ‖Hg‖/‖g‖); g where K is 1.

    One weight, H = 3, g = 2: s = ¼, (1 − s) − s H = 0, so ½ = (1 + 3)⁻¹ · 2 whatever K above 1.
    """
    if terms == 1:
        return g
    curved = product(g)
    step = 1 / (1 + (inner(curved, curved) / inner(g, g).clamp(min=1e-30)).sqrt())
    found, curved = [step * x for x in g], [step * x for x in curved]
    for k in range(1, terms):
        if k > 1:
            curved = product(found)
        found = [(1 - step) * v - step * (h - x) for v, h, x in zip(found, curved, g, strict=True)]
    return found


@dataclass(frozen=True)
class Ahead(Recalling):
    """combine: the steps of a user, the gradient there, back, and the gradients here."""

    cfg: ResAlign

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        cfg, params = self.cfg, list(self.params.values())
        count, rate = (choices[int(torch.randint(len(choices), ()))] for choices in (cfg.users, cfg.rates))   # seeded every step
        total = [(1 - cfg.lamb) * g for g in gradients(["forget"])]
        for mine, g in zip(total, gradients(["retain"]), strict=True):
            mine.add_(g)
        if not cfg.lamb:
            apply(total)
            return
        user = torch.optim.Adam(params, lr=rate, foreach=False)
        with fine_tuned(params, user, gradients, [f"user {k}" for k in range(int(count))]):
            ahead = implicit(gradients(["forget"]), lambda v: curved(params, v, lambda: gradients(["user 0"])), cfg.terms)
        apply([mine + cfg.lamb * g for mine, g in zip(total, ahead, strict=True)])


def put(params: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    """Set parameters to values."""
    with torch.no_grad():
        for p, value in zip(params, values, strict=True):
            p.copy_(value)


def curved(params: Sequence[nn.Parameter], v: Gradients, gradient: Callable[[], Gradients]) -> Gradients:
    """H v, by the gradients at ± h v around the parameters, which are then as before."""
    h = REACH / float(inner(v, v).sqrt().clamp(min=1e-30))
    with put_back(params) as here:
        put(params, [p + h * d for p, d in zip(here, v, strict=True)])
        above = [g.clone() for g in gradient()]
        put(params, [p - h * d for p, d in zip(here, v, strict=True)])
        return [(a - b) / (2 * h) for a, b in zip(above, gradient(), strict=True)]


@method(needs={"forget", "retain", "original"}, uses={"layers", "nll", "noised", "outputs", "predict", "text", "tokens"},
        mechanism="ascent")
def run(cfg: ResAlign, task: DiffusionTask, loop: Loop) -> Outcome:
    original = task.original.to(loop.device)

    def stays(m: nn.Module, batch: Batch) -> Tensor:
        with evaluating(original):
            before = task.outputs(original, batch)
        return squared_distance(task.outputs(m, batch), before)

    def away(m: nn.Module, batch: Batch) -> Tensor:
        if cfg.loss == "ascent":
            return -task.nll(m, batch)
        with evaluating(original):
            x, empty = task.noised(batch), task.text(task.tokens([""]).to(batch.tokens.device)).expand(len(batch), -1, -1)
            cond, free = (task.predict(original, x, batch.t, text) for text in (task.text(batch.tokens), empty))
        return squared_distance(task.outputs(m, batch), esd_target(cond, free, cfg.eta))

    mine = task.retain if cfg.user == "retain" else task.forget
    terms = {"forget": Term(task.forget, away), "retain": Term(task.retain, stays, cfg.mu)}
    terms |= {f"user {k}": Term(mine, task.nll) for k in range(max(cfg.users))}
    model = loop.start(where=moved(task, cfg.variant))
    loop.minimise(model, terms, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size, optimiser="adam", combine=Ahead(cfg))
    return loop.finish(model)

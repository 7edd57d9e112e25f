"""FLAT: with forgotten data alone, raise the probability of a refusal and lower that of the answer, in the proportion that an
f-divergence gives. Wang, Wei, Liu, Pang, Liu, Shah, Bao, Liu & Wei (2025, ICLR), arXiv:2410.11143.

    L(θ) = E_{x∈F} −g(P_θ(x, e)) + f*(g(P_θ(x, y))),     P_θ(x, a) = 1/|a| · Σ_t p_θ(a_t | x, a_<t)

F forget set, y the forgotten answer, e a refusal drawn for x at every step (of `data.refusals`; without them the answer of
another forgotten example), P mean probability of an answer's tokens, g and f* of the divergence (`LOSSES`).
Needs:    forget.     Updates: every trainable parameter.
Cost:     two forward/backward on F per step; neither the original nor retained data.
Limits:   for every divergence L falls as P(x, e) rises, and as P(x, y) falls: its slopes are −g' < 0 and (f*∘g)' > 0.
Fails by: a refusal that the model finds impossible: P is a mean of probabilities, whose slope vanishes with them. Few refusals
          make the retained prompts refuse, too.
Deviations: the official code has reverse KL, squared Hellinger and Neyman χ² with the sign of P turned, which raises the
          forgotten answer (or lowers the refusal); here they have the sign of f-GAN (Nowozin et al. 2016). P is formed per
          example over its own tokens, not over a batch with its padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.answers import mean_over
from lethe.train.loop import Loop
from lethe.train.terms import Term

Divergence = Literal["total_variation", "kl", "jensen_shannon", "pearson", "jeffrey", "reverse_kl", "hellinger", "neyman"]
Map = Callable[[Tensor], Tensor]
LOSSES: dict[Divergence, tuple[Map, Map]] = {   # divergence -> g(v), f*(g(v)), for v in [0, 1]
    "total_variation": (lambda v: v.tanh() / 2, lambda v: v.tanh() / 2),
    "kl": (lambda v: v, lambda v: (v - 1).exp()),
    "jensen_shannon": (lambda v: math.log(2) - F.softplus(-v), lambda v: v + F.softplus(-v) - math.log(2)),
    "pearson": (lambda v: v, lambda v: v**2 / 4 + v),
    "jeffrey": (lambda v: v, lambda v: v + v**2 / 4 + v**3 / 16),
    "reverse_kl": (lambda v: -(-v).exp(), lambda v: v - 1),
    "hellinger": (lambda v: 1 - (-v).exp(), lambda v: v.exp() - 1),
    "neyman": (lambda v: 1 - (-v).exp(), lambda v: 2 - 2 * (-v / 2).exp()),
}


@config
class FLAT:
    """Options of FLAT."""

    divergence: Divergence = "total_variation"   # f                                         [official code]
    lr: Positive = 1e-5                # AdamW, for 1–8 B weights; tiny models need more     [official code: TOFU]
    epochs: Positive = 5.0             # passes over F                                       [official code]
    batch_size: Count = 64             # of F                                                [official code: 16 × 4]
    optimiser: Optimiser = "adamw"     # update rule                                         [official code]
    weight_decay: NonNegative = 0.01   # pull towards 0                                      [ours: of OpenUnlearning]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]


def flat_loss(refusal: Tensor, answer: Tensor, divergence: Divergence) -> Tensor:
    """−g(P(e)) + f*(g(P(y))), per example; P in [0, 1].  [n], [n] -> [n]

    flat_loss(1, 0, "kl") = −1 + e⁻¹ = −0.632121; flat_loss(½, ½, "pearson") = −½ + 1/16 + ½ = 0.0625.
    """
    g, conjugate = LOSSES[divergence]
    return -g(refusal) + conjugate(answer)


@method(needs={"forget"}, uses={"answer_lengths", "relabel", "token_logp"}, mechanism="relabel")
def run(cfg: FLAT, task: LanguageTask, loop: Loop) -> Outcome:
    def probability(m: nn.Module, b: Batch) -> Tensor:
        return mean_over(task.token_logp(m, b).exp(), task.answer_lengths(b))

    def adjust(m: nn.Module, refused: Batch) -> Tensor:
        answered = task.forget.batch(refused.index.cpu()).to(refused.ids.device)
        return flat_loss(probability(m, refused), probability(m, answered), cfg.divergence)

    model = loop.start()
    terms = {"forget": Term(task.forget, adjust, prepare=task.relabel)}
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)

"""PDU, constrained entropic unlearning: flatten the logits on forgotten answers while the loss on retained
ones stays below a bound. Entesari, Hatami, Khaziev, Ramakrishna & Fazlyab (2025), arXiv:2506.05314.

    min_θ E_{x∈F} 1/|y| · Σ_t (max_v z_t(v) − mean_v z_t(v))²     subject to  L_R(θ) ≤ ε,   L_R = E_{x∈R} ℓ̄(x)
    every step:  θ ← step along ∇ (forget loss + λ · L_R),  then, after the warm-up,  λ ← max(0, λ + η·(L_R − ε))

F forget set, R retain set, z_t the logits that predict token t of the answer, |y| tokens, ℓ̄ mean negative log-probability of the
answer's tokens, λ the multiplier of the constraint, which starts at α; L_R in its rule is the batch's.
Needs:    forget, retain, original.     Updates: every trainable parameter.
Cost:     one forward/backward on F and one on R per step; nothing of the original is kept.
Limits:   η = 0 is a fixed weight α on R. λ grows while R is worse than ε, and falls to 0 while it is better.
Fails by: an ε that is out of reach (λ grows without end, and F comes to rest) or that is too wide: R is spent up to ε, which the
          watchdog may not allow. The forget loss is a square of logits, so weights of 1 for R are nothing beside it.
Deviations: means per example, then over examples (`parity`: over tokens, also in λ's rule). Without `epsilon` the bound is 0.1
          nats above the original's L_R; the paper has it chosen by hand from there. OpenUnlearning's port masks one token too
          late (its issue 149); here it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lethe.core.config import NonNegative, Parity, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.answers import mean_over
from lethe.train.loop import Loop
from lethe.train.modifiers.combine import Apply, Ask, Recalling
from lethe.train.order import batches_per_epoch
from lethe.train.tuning import Tuned, tuned

ABOVE = 0.1   # nats above the original's loss on R that the bound is by itself                            [ours]


@config
class PDU(Tuned):
    """Options of PDU."""

    alpha: Positive = 100.0            # λ at the start                                      [official code]
    epsilon: NonNegative | None = None   # ε; null: .1 above the original's L_R [TOFU: .3] [only with warmup=0 alpha=1 lr=0.01]
    dual_lr: NonNegative = 5.0         # η, step of λ; 0 keeps it         [official code] [only with warmup=0 alpha=1 lr=0.01]
    warmup: NonNegative = 5.0          # passes over F before λ moves     [official code] [only with alpha=1 lr=0.01]
    parity: Parity = "none"            # open_unlearning: one mean over all tokens of a batch [tested in test_parity]


def margin_loss(logits: Tensor) -> Tensor:
    """(max z − mean z)², 0 where all logits are equal.  [..., V] -> [...]

    margin_loss([3, 0, 0]) = (3 − 1)² = 4.
    """
    logits = logits.float()
    return (logits.amax(-1) - logits.mean(-1)).square()


@dataclass(frozen=True)
class Dual(Recalling):
    """combine: the retained gradient times λ, which then moves by how far the retained loss is above its bound.

    seen   losses of the retained batch, as its term computed them since the last look
    total  (sum, count) -> of all processes together
    """

    seen: list[Tensor]
    total: Callable[..., list[float]]
    start: float
    bound: float
    rate: float
    wait: int

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        weight = float(self.memory.setdefault("weight", torch.tensor(self.start, dtype=torch.float64)))
        done = int(self.memory.setdefault("steps", torch.tensor(0)))
        forget = gradients(["forget"])
        self.seen.clear()
        retain = gradients(["retain"])
        apply([f + weight / self.start * r for f, r in zip(forget, retain, strict=True)])   # the term itself weighs α
        losses = torch.cat(self.seen)
        summed, counted = self.total(float(losses.sum()), len(losses))
        if done >= self.wait:
            weight = max(0.0, weight + self.rate * (summed / counted - self.bound))
        self.memory["weight"], self.memory["steps"] = torch.tensor(weight, dtype=torch.float64), torch.tensor(done + 1)


@method(needs={"forget", "retain", "original"}, uses={"answer_lengths", "nll", "outputs"}, mechanism="ascent")
def run(cfg: PDU, task: LanguageTask, loop: Loop) -> Outcome:
    seen: list[Tensor] = []

    def flatten(m: nn.Module, b: Batch) -> Tensor:
        return mean_over(margin_loss(task.outputs(m, b)), task.answer_lengths(b))

    def keep(m: nn.Module, b: Batch) -> Tensor:
        losses = task.nll(m, b)
        seen.append((losses if cfg.parity == "none" else losses * b.share).detach())
        return losses

    bound = loop.mean_nll(task.original.to(loop.device), task.retain, "pdu") + ABOVE if cfg.epsilon is None else cfg.epsilon
    wait = round(cfg.warmup * batches_per_epoch(task.forget, min(cfg.batch_size, len(task.forget))))
    dual = Dual(seen, loop.distribution.total, cfg.alpha, bound, cfg.dual_lr, wait)
    return tuned(cfg, task, loop, flatten, keep, parity=cfg.parity, combine=dual)

"""AGT-AO, adversarial gating training with adaptive orthogonality: NPO under the worst perturbation of a hidden state, once
gradients have calmed down, and without what pulls against the retained gradient. Li, Zhang, Gao, Wu, Dong, Liu, Wei & Liu (2026),
arXiv:2602.01703.

    L_F(θ, δ) = E_{x∈F} (2/β) · log(1 + (p_θ(x | δ) / p_0(x | δ))^β),     L_R(θ) = α · E_{x∈R} ℓ̄(x; θ)
    δ = argmax over |δ_t,i| ≤ ε of L_F(θ, δ) where ‖∇(L_F + L_R)‖ < ρ·‖∇(L_F + L_R)‖ at the end of the warm-up, else 0
    g ← g_F − λ·(⟨g_F, g_R⟩/‖g_R‖²)·g_R + g_R,     λ = ((1 − cos(g_F, g_R))/2)^γ where ⟨g_F, g_R⟩ < 0, else 0

F forget set, R retain set, p_θ(x | δ) the probability of an answer when δ is added to the hidden states behind block ℓ, p_0 that
of the original with the same δ, ℓ̄ mean negative log-probability of an answer's tokens. δ by `inner_steps` steps of
ε·`inner_lr` along the sign of its gradient, from 0; the norm is that of the step before.
Needs:    forget, original; retain when α > 0.     Updates: every trainable parameter.
Cost:     as NPO until the gate opens; then `inner_steps` + 1 forward/backward more on F by both models, per step.
Limits:   ρ = 0 or ε = 0: no adversary. γ = 0: conflicting gradients become orthogonal (`combine=surgery`).
Fails by: a gate that never opens (the retained loss stays steep), or opens at once, when it is LAT without its own loss. What it
          trains against is a state, not weights: relearning is not among its attacks.
Deviations: (derived) the official code adds ((1 − cos)/2)^γ of detached gradients to the loss: a constant, which moves nothing.
          Its name and the paper ask for less conflict; here that share of it is taken out of g_F. There one δ of a batch's
          shape goes on from step to step, and is one batch old; here each batch has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Natural, NonNegative, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.losses import npo_loss
from lethe.train.loop import Loop
from lethe.train.modifiers.combine import Apply, Ask, Gradients, Recalling, inner
from lethe.train.order import batches_per_epoch
from lethe.train.tuning import Tuned, tuned


@config
class AGTAO(Tuned):
    """Options of AGT-AO."""

    beta: Positive = 0.1               # smaller is closer to gradient ascent                [official code]
    layer: Natural | None = None       # ℓ from 0; null: 10 of 32  [official code: 4 or 10] [only with warmup=0 gate=9 radius=1]
    radius: NonNegative = 1e-2         # ε, of every entry of δ  [official code] [only with warmup=0 gate=9 inner_lr=9]
    inner_steps: Natural = 4           # of the adversary  [official code] [only with warmup=0 gate=9 radius=1 inner_lr=0.3]
    inner_lr: Positive = 0.5           # of ε, a step  [official code] [only with warmup=0 gate=9 radius=1]
    warmup: NonNegative = 1.0          # passes over F without δ  [official code] [only with gate=9 radius=1]
    gate: NonNegative = 1.0            # ρ; 0: never open  [ours; official: a norm of 2] [only with warmup=0 gate=9 radius=1]
    gamma: NonNegative = 1.0           # γ                                                   [official: 1 or 2]
    lr: Positive = 1e-4                # AdamW, LoRA of 7 B weights; tiny models need more   [official code]
    epochs: Positive = 5.0             # passes over F                                       [official code]
    batch_size: Count = 8              # of each term                                        [official code]


def default_layer(count: int) -> int:
    """Block 10 of 32 from 1, at the same depth elsewhere. default_layer(32) == 9; default_layer(3) == 0."""
    return max(0, round(count * 10 / 32) - 1)


def less_conflict(own: Gradients, others: Gradients, gamma: float) -> Gradients:
    """g_F − λ·(⟨g_F, g_R⟩/‖g_R‖²)·g_R + g_R.

    less_conflict([(−2, 3)], [(1, 0)], 1): cos = −2/√13, λ = 0.77735, (−2, 3) + 1.5547·(1, 0) + (1, 0) = (0.5547, 3).
    """
    product, size = inner(own, others), inner(others, others).clamp(min=1e-30)
    cosine = product / (inner(own, own).clamp(min=1e-30) * size).sqrt()
    scale = torch.where(product < 0, ((1 - cosine) / 2).clamp(0, 1) ** gamma * product / size, 0.0)
    return [a - scale.to(a.dtype) * b + b for a, b in zip(own, others, strict=True)]


@dataclass(frozen=True)
class Gated(Recalling):
    """combine: says when the adversary attacks, and takes conflicts out.

    attacks  [0]: whether the forget term is under attack
    """

    cfg: AGTAO
    warmup: int
    attacks: list[bool]

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        memory, step = self.memory, int(self.memory.get("step", torch.tensor(0)))
        self.attacks[0] = step > self.warmup and bool(memory["norm"] < self.cfg.gate * memory["norm at the gate"])
        try:
            own = gradients(["forget"])
        finally:
            self.attacks[0] = False
        rest = [name for name in terms if name != "forget"]
        others = gradients(rest) if rest else [torch.zeros_like(g) for g in own]
        both = [a + b for a, b in zip(own, others, strict=True)]
        memory["norm"], memory["step"] = inner(both, both).sqrt(), torch.tensor(step + 1)
        if step == self.warmup:
            memory["norm at the gate"] = memory["norm"]
        apply(less_conflict(own, others, self.cfg.gamma))


@method(needs={"forget", "retain?", "original"}, uses={"hidden_width", "layer_count", "nll", "rewriting", "sequence_logp"},
        mechanism="ascent", instead={"retain": "alpha=0"})
def run(cfg: AGTAO, task: LanguageTask, loop: Loop) -> Outcome:
    layer = default_layer(task.layer_count) if cfg.layer is None else cfg.layer
    logp0 = loop.reference("agt-forget", task.sequence_logp, task.forget)
    attacks, width = [False], task.hidden_width

    def under(m: nn.Module, b: Batch, original: nn.Module, delta: Tensor) -> Tensor:
        said = []
        for one in (m, original):
            with task.rewriting(one, lambda _, h: h + delta.to(h.dtype), [layer]):
                said.append(task.sequence_logp(one, b))
        return npo_loss(said[0], said[1], cfg.beta)

    def attack(m: nn.Module, b: Batch, original: nn.Module) -> Tensor:
        delta = torch.zeros(*b.ids.shape, width, device=b.ids.device)
        for _ in range(cfg.inner_steps):
            leaf = delta.requires_grad_()
            (g,) = torch.autograd.grad(under(m, b, original, leaf).sum(), leaf)
            delta = (leaf.detach() + cfg.inner_lr * cfg.radius * g.sign()).clamp(-cfg.radius, cfg.radius)
        return delta

    def push(m: nn.Module, b: Batch) -> Tensor:
        if not (attacks[0] and cfg.inner_steps and cfg.radius):
            return npo_loss(task.sequence_logp(m, b), logp0(b), cfg.beta)
        original = task.original.to(loop.device)
        return under(m, b, original, attack(m, b, original))

    warmup = round(cfg.warmup * batches_per_epoch(task.forget, min(cfg.batch_size, len(task.forget))))
    return tuned(cfg, task, loop, push, task.nll, combine=Gated(cfg, warmup, attacks))

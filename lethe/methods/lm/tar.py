"""TAR, tampering attack resistance: unlearn so that predictions stay flat while an adversary fine-tunes on the forgotten data.
Tamirisa, Bharathi, Phan, Zhou, Gatti, Suresh et al. (2025, ICLR), arXiv:2408.00761.

    every step:  θ_0 = θ,   θ_k = θ_{k−1} − AdamW step along ∇ E_{B_k⊂F} ℓ̄ at a rate drawn from `rates`,   k = 1…K
                 g = Σ_{k multiple of every} w_k · ∇ E_{B⊂F} (−H)(θ_k),       w_k = scale · e^(λ(k − K)) / ⌊K/every⌋
                 θ ← step along  g + ∇ E_{x∈R} [α · ℓ̄(x) + κ · mean_t (h(x, t; θ) − h(x, t; θ_init))²]

F forget set, R retain set, ℓ̄ mean negative log-probability of an answer's tokens, −H minus the entropy of the predictions at an
answer's tokens (a mean), B a batch that the adversary of this step has not its own gradient from, h the hidden states behind the
block in the middle, θ_init the original; the gradients at θ_k are taken for gradients at θ (first order).
Needs:    forget, retain, original.     Updates: every trainable parameter; the adversary's steps are taken back.
Cost:     K + ⌊K/every⌋ forward/backward on F and two on R per step: with the defaults 80 times that of NPO.
Limits:   K = 0 is maximum entropy without an adversary, at θ itself. K < every: one gradient, at θ_K, with weight `scale`.
Fails by: adversaries unlike the one that it trains against (LoRA, other rates, more steps). It is slow; with short inner loops,
          as a laptop allows, it resists little, and a large `scale` flattens R, too.
Deviations: the official code starts from a model with random-mapped states, and draws three adversaries per step, of which some
          fine-tune on harmless data first; here one, from the model as it is. w_k is divided by the number of its terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Natural, NonNegative, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.modules import put_back
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.answers import mean_over
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.combine import Apply, Ask, Recalling


@config
class TAR:
    """Options of TAR."""

    inner_steps: Natural = 64          # K, steps of the adversary                           [official code]
    every: Count = 4                   # steps of the adversary between two gradients        [official code]
    rates: tuple[Positive, ...] = (2e-6, 2e-5, 4e-5)   # AdamW, of the adversary, one for each step   [official code]
    scale: NonNegative = 4.0           # weight of the flattening                            [official code]
    growth: NonNegative = 0.0625       # λ; late steps count more  [official code] [only with inner_steps=4 every=1 lr=0.01]
    alpha: NonNegative = 1.0           # weight of the loss on R                             [official code]
    states: NonNegative = 1.0          # κ, weight of keeping hidden states on R  [official code] [only with lr=0.01]
    lr: Positive = 2e-5                # AdamW, for 8 B weights; tiny models need more       [official code]
    steps: Count = 750                 # outer steps                                         [official code]
    batch_size: Count = 8              # of each term                                        [official code]
    weight_decay: NonNegative = 0.01   # pull towards 0                                      [official code]


def weight(k: int, count: int, every: int, scale: float, growth: float) -> float:
    """w_k; 0 where no gradient is taken. weight(8, 8, 4, 4, 0.5) = 4/2 = 2; weight(4, 8, 4, 4, 0.5) = 2·e⁻² = 0.270671."""
    if count < every:   # one gradient, at the end
        return scale if k == count else 0.0
    return 0.0 if k % every else scale * math.exp(growth * (k - count)) / (count // every)


@dataclass(frozen=True)
class Tampering(Recalling):
    """combine: the adversary's steps, the gradients on its way, and back."""

    cfg: TAR

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        cfg, params = self.cfg, list(self.params.values())
        total = [g.clone() for g in gradients([name for name in terms if name.startswith("retain")])]
        rate = cfg.rates[int(torch.randint(len(cfg.rates), ()))]   # torch's own generator is seeded for every step
        with put_back(params):
            adversary = torch.optim.AdamW(params, lr=rate, foreach=False)
            for k in range(1, cfg.inner_steps + 1):
                for p, g in zip(params, gradients([f"adversary {k}"]), strict=True):
                    p.grad = g
                adversary.step()
                self._add(total, weight(k, cfg.inner_steps, cfg.every, cfg.scale, cfg.growth), gradients)
            if not cfg.inner_steps:
                self._add(total, cfg.scale, gradients)
        apply(total)

    def _add(self, total: list[Tensor], times: float, gradients: Ask) -> None:
        for t, g in zip(total, gradients(["flat"]) if times else [], strict=bool(times)):
            t.add_(times * g)


@method(needs={"forget", "retain", "original"}, uses={"answer_lengths", "hidden_states", "layer_count", "nll", "outputs"},
        mechanism="ascent")
def run(cfg: TAR, task: LanguageTask, loop: Loop) -> Outcome:
    middle = task.layer_count // 2

    def flat(m: nn.Module, b: Batch) -> Tensor:
        logp = task.outputs(m, b).float().log_softmax(-1)
        return mean_over((logp.exp() * logp).sum(-1), task.answer_lengths(b))

    terms = {f"adversary {k}": Term(task.forget, task.nll) for k in range(1, cfg.inner_steps + 1)}
    terms |= {"flat": Term(task.forget, flat)}
    if cfg.alpha:
        terms["retain"] = Term(task.retain, task.nll, cfg.alpha)
    if cfg.states:
        before = loop.reference("tar-retain", lambda m, b: task.hidden_states(m, b, middle), task.retain,
                                draws=cfg.steps * cfg.batch_size)

        def stay(m: nn.Module, b: Batch) -> Tensor:
            apart = task.hidden_states(m, b, middle).float() - before(b)[:, : b.ids.shape[1]].float()
            return mean_over(apart.square().mean(-1), b.length)

        terms["retained states"] = Term(task.retain, stay, cfg.states)
    model = loop.start()
    loop.minimise(model, terms, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size, weight_decay=cfg.weight_decay,
                  combine=Tampering(cfg))
    return loop.finish(model)

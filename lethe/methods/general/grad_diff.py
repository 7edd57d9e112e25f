"""GradDiff, gradient difference: raise the loss on forgotten data and lower it on retained data, in the same step. Liu, Liu &
Stone (2022), arXiv:2203.12817; the form of Maini et al. (2024, TOFU), arXiv:2401.06121.

    L(θ) = −γ · E_{x∈F} min(ℓ̄(x), τ)  +  α · E_{x∈R} ℓ̄(x)  +  κ · E_{x∈R} KL(p_0(x) ‖ p_θ(x))

F forget set, R retain set, ℓ̄ mean negative log-probability of the answer's tokens, p_0 the original (frozen),
γ, α, κ ≥ 0 weights, τ the bound (∞ in the papers: none). KL is a mean over answer tokens.
Needs:    forget; retain when α or κ > 0; original when κ > 0.     Updates: every trainable parameter.
Cost:     one forward/backward on F and one on R per step; p_0 on R is computed once where it fits in `cache_mb`.
Limits:   α = κ = 0 is gradient ascent; α = 0, κ = 1 is KL minimisation; γ = 0 is fine-tuning. τ = 0: F is not touched.
Fails by: collapse, because −ℓ̄ has no lower bound: the loss of F runs away and takes the language with it. A finite τ
          (the "bounded" variant of later code) stops the push on what is forgotten enough.
Deviations: means are taken per example and then over examples; the official code takes one mean over all tokens of a
          batch, so that long answers weigh more (`parity`), and KL over prompt and padding too (never here).
"""

from __future__ import annotations

from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Parity, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.train.loop import Loop
from lethe.train.parity import term


@config
class GradDiff:
    """Options of GradDiff."""

    gamma: NonNegative = 1.0           # weight of the ascent                                [official code]
    alpha: NonNegative = 1.0           # weight of the retain loss; 0 turns it off           [official code]
    kl: NonNegative = 0.0              # κ, weight of staying near the original on R         [official code: KL-min 1]
    bound: NonNegative | None = None   # τ in nats per token; null: none, as published       [bounded code: 4]
    lr: Positive = 1e-5                # AdamW, for 1–8 B weights; tiny models need more     [official code]
    epochs: Positive = 10.0            # passes over F                                       [official code]
    batch_size: Count = 32             # of each term                                        [official code]
    optimiser: Optimiser = "adamw"     # update rule                                         [official code]
    weight_decay: NonNegative = 0.01   # pull towards 0                                      [official code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]
    parity: Parity = "none"            # open_unlearning: one mean over all tokens of a batch [tested in test_parity]


def ascent_loss(nll: Tensor, bound: float | None) -> Tensor:
    """−min(nll, bound), per example.  [n] -> [n]

    ascent_loss([1, 5], 4) == [−1, −4], and only the first has a gradient.
    """
    return -nll if bound is None else -nll.clamp(max=bound)


@method(needs={"forget", "retain?", "original?"}, uses={"divergence", "nll", "outputs"}, mechanism="ascent",
        instead={"retain": "alpha=0"})
def run(cfg: GradDiff, task: Task, loop: Loop) -> Outcome:
    if not cfg.gamma and not cfg.alpha and not cfg.kl:
        raise RequestError("grad_diff: gamma, alpha and kl are all 0, so nothing would move. Raise one of them.")
    terms = {"forget": term(cfg.parity, task.forget, lambda m, b: ascent_loss(task.nll(m, b), cfg.bound), cfg.gamma)}
    if cfg.alpha:
        terms["retain"] = term(cfg.parity, task.retain, task.nll, cfg.alpha)
    if cfg.kl:
        original = loop.reference("grad-diff-retain", task.outputs, task.retain)

        def stay(m: nn.Module, b: Batch) -> Tensor:
            return task.divergence(original(b), task.outputs(m, b), b)

        terms["kl"] = term(cfg.parity, task.retain, stay, cfg.kl)
    model = loop.start()
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)

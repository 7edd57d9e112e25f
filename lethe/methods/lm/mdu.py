"""MDU: answer forgotten questions as if they had not been asked. Lee, Jeong, Kim, Park & Lee (2026), "Machine Unlearning for
Masked Diffusion Language Models", arXiv:2605.18253; here for models that write from left to right.

    L(θ) = γ · E_{x∈F} 1/|y| · Σ_t KL(p_θ(· | prompt, y_<t) ‖ q_t)  +  α · E_{x∈R} ℓ̄_θ(x)
    q_t = softmax(τ · z_t),    z_t the logits of θ' for (· | y_<t), without the prompt

F forget set, R retain set, y the answer, ℓ̄ mean negative log-probability of its tokens, θ' the original (anchor = original) or
θ itself (current), in either case constant. Training on questions moved what is said without them to what is said behind them;
this moves it back. τ = 1 is what is said without, below it is flatter, τ = 0 uniform.
Needs:    forget, original; retain when α > 0; prompts (no plain text).     Updates: every trainable parameter.
Cost:     one forward/backward on F and one on R per step; anchor = original: the anchor is one table, current: one more forward.
Limits:   τ = 0 is KL(p_θ ‖ uniform), whatever θ' is. Where the prompt says nothing about the answer, τ = 1 has no gradient.
Fails by: what the beginning of an answer gives away: the anchor reads it, too, and behind "Ann likes" it knows what Ann likes.
          The tiny Llama of the tests ends at .44 of answer probability per token with τ = 1, .36 with ½ and .01 with 0 (3 seeds;
          before .85, retrained .30), of retained answers at .92, .90 and .83 (before .83).
Deviations: the paper's models are denoisers: prompt and answer are masked, and masked places predicted together, which no family
          here does. A prompt is dropped instead (`without` stands in its place), and all tokens of the answer count.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.language import LanguageTask, asked_and_answered, prompted
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.maths.answers import mean_over
from lethe.maths.losses import kl
from lethe.train.loop import Loop
from lethe.train.tuning import Tuned, tuned


@config
class MDU(Tuned):
    """Options of MDU."""

    tau: NonNegative = 0.5             # τ; smaller is a flatter target, 0 uniform           [official code: 0 to 1]
    anchor: Literal["original", "current"] = "original"   # θ' [only with lr=0.01]           [official code: original]
    without: str = ""                  # what stands in place of the prompt [e.g. Answer:]   [ours; official code: masks]
    gamma: NonNegative = 1.0           # weight of the forget term                           [official code]
    epochs: Positive = 9.0             # passes over F                                       [official code: 3–9]
    batch_size: Count = 16             # of each term                                        [official code]


def towards(logits: Tensor, anchor: Tensor, tau: float) -> Tensor:
    """KL(softmax(z) ‖ softmax(τ·z')) in nats; z' is constant.  [..., V], [..., V] -> [...]

    towards(ln (¾, ¼), z', 0) = ¾·ln 3/2 − ¼·ln 2 = 0.130812 for every z'; towards(z, z, 1) = 0.
    """
    return kl(logits, tau * anchor.detach().float())


def unasked(cfg: MDU, task: LanguageTask) -> Split:
    """The answers of F without their prompts; RequestError where their tokens would not be predicted one by one as with them."""
    _, answers = asked_and_answered(task.forget, "mdu")
    bare = task.encode([cfg.without] * len(answers), answers, "unasked")
    alone, asked = (task.answer_lengths(split.batch(range(len(answers)))) for split in (bare, task.forget))
    if not torch.equal(alone, asked):
        raise RequestError(f"mdu predicts forgotten answers behind {cfg.without!r} in place of their prompts, and not all of "
                           "their tokens are predicted then: nothing stands before the first one, or the last ones do not fit; "
                           "nothing was started. Write a short neutral text for method.without, e.g. 'Answer:'.")
    return bare


@method(needs={"forget", "retain?", "original"}, uses={"answer_lengths", "encode", "nll", "outputs"}, mechanism="distil",
        instead={"retain": "alpha=0"}, check=prompted("mdu"))
def run(cfg: MDU, task: LanguageTask, loop: Loop) -> Outcome:
    bare = unasked(cfg, task)

    def alone(m: nn.Module, b: Batch) -> Tensor:
        return task.outputs(m, bare.batch(b.index.cpu()).to(b.ids.device))

    before = loop.reference("mdu", alone, task.forget) if cfg.anchor == "original" else None

    def forget(m: nn.Module, b: Batch) -> Tensor:
        logits = task.outputs(m, b)
        if before is None:
            with torch.no_grad():
                anchor = alone(m, b)
        else:
            anchor = before(b)[:, : logits.shape[1]]
        return mean_over(towards(logits, anchor, cfg.tau), task.answer_lengths(b))

    return tuned(cfg, task, loop, forget, task.nll, cfg.gamma)

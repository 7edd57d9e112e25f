"""Language methods that teach a refusal ("I don't know that.") where the forgotten answer stood; they differ in the loss.

    L(θ) = E_{x∈F} a(x)  +  α · E_{x∈R} r(x)

F forget set, R retain set, a and r in the row's own docstring. Every example has one refusal for the whole run, drawn from
`data.refusals`; a task without refusals lends another forgotten example's answer. p(y) is the probability of the whole answer y
given the prompt, p_0 the original's, ℓ̄ mean negative log-probability of an answer's tokens, e the refusal, y the true answer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lethe.core.config import NonNegative, Parity, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.answers import mean_over
from lethe.maths.losses import preference_loss
from lethe.train.loop import Loop
from lethe.train.terms import Loss
from lethe.train.tuning import Tuned, retold, tuned


@config
class IdkNLL(Tuned):
    """Options of IdkNLL."""


@config
class IdkDPO(Tuned):
    """Options of IdkDPO."""

    beta: Positive = 0.1               # inverse temperature; larger stops sooner            [official code]
    parity: Parity = "none"            # open_unlearning: one mean over all tokens of a batch of R [tested in test_parity]


@config
class IdkAP(Tuned):
    """Options of IDK+AP."""

    beta: Positive = 0.1               # inverse temperature of answer preservation          [official code]
    epochs: Positive = 5.0             # passes over F                                       [official code]


@config
class JensUn(Tuned):
    """Options of JensUn."""

    gamma: NonNegative = 1.0           # weight of the forget term                           [official code]


def token_jsd(logp: Tensor) -> Tensor:
    """JSD(δ_v ‖ p) from log p(v), in nats: 0 where the token v is certain, ln 2 where it is impossible.  [...] -> [...]

    token_jsd(log ½) = ½·(ln (4/3) + ½·ln (2/3) + ½·ln 2) = 0.215762; token_jsd(0) = 0.
    """
    p = logp.exp()
    return math.log(2) - ((1 + p) * torch.log1p(p) - p * logp) / 2


def jsd(p: Tensor, q: Tensor) -> Tensor:
    """Jensen–Shannon divergence of two predictions, from logits, in nats, at most ln 2.  [..., V], [..., V] -> [...]

    jsd([0, 0], [ln 3, 0]) = ½·(½·ln (½/⅝) + ½·ln (½/⅜) + ¾·ln (¾/⅝) + ¼·ln (¼/⅜)) = 0.033822.
    """
    log_p, log_q = p.float().log_softmax(-1), q.float().log_softmax(-1)
    middle = torch.logaddexp(log_p, log_q) - math.log(2)
    return (log_p.exp() * (log_p - middle) + log_q.exp() * (log_q - middle)).sum(-1) / 2


@method(needs={"forget", "retain?"}, uses={"answer_lengths", "nll", "relabel", "sequence_logp"}, mechanism="relabel",
        instead={"retain": "alpha=0"})
def idk_nll(cfg: IdkNLL, task: LanguageTask, loop: Loop) -> Outcome:
    """IdkNLL: fine-tune on a refusal in place of every forgotten answer.
    Maini, Feng, Schwarzschild, Lipton & Kolter (2024, TOFU), arXiv:2401.06121.

        a(x) = ℓ̄(e),  r(x) = ℓ̄(y)

    Needs:    forget; retain when α > 0.     Updates: every trainable parameter.
    Cost:     one forward/backward on F and one on R per step; nothing of the original is kept.
    Limits:   the forgotten answer itself has no term: its probability falls only as far as the refusal takes its place.
    Fails by: hardly forgetting: membership attacks read the answer's own probability as before. α = 0 refuses everything.
    Deviations: means per example; TOFU's code takes one over the tokens of a batch of both. OpenUnlearning does not carry it.
    """
    return tuned(cfg, task, loop, _refusing(task, loop), task.nll)


@method(needs={"forget", "retain?", "original"}, uses={"nll", "relabel", "sequence_logp"}, mechanism="relabel",
        instead={"retain": "alpha=0"})
def idk_dpo(cfg: IdkDPO, task: LanguageTask, loop: Loop) -> Outcome:
    """IdkDPO: prefer a refusal to the forgotten answer, measured against how much the original preferred it.
    Rafailov et al. (2023), arXiv:2305.18290, as used by Zhang, Lin, Bai & Mei (2024), arXiv:2404.05868.

        a(x) = −(2/β) · log σ(β·log (p_θ(e)/p_0(e)) − β·log (p_θ(y)/p_0(y))),  r(x) = ℓ̄(y)

    Needs:    forget, original; retain when α > 0.     Updates: every trainable parameter.
    Cost:     two forward/backward on F and one on R per step; log p_0 is two numbers per example, computed once.
    Limits:   at θ_0 the forget term is (2/β)·ln 2. Without the refusal's ratio it is NPO.
    Fails by: refusing what was to be kept, the more the fewer and the more alike the refusals are.
    Deviations: OpenUnlearning takes r as one mean over all tokens of a batch (`parity`), and draws a refusal anew at every pass.
    """
    refusals = retold(task, loop, task.forget)
    chosen0 = loop.reference("idk-refusal", lambda m, b: task.sequence_logp(m, refusals(b)), task.forget)
    rejected0 = loop.reference("idk-answer", task.sequence_logp, task.forget)

    def prefer(m: nn.Module, b: Batch) -> Tensor:
        return preference_loss(task.sequence_logp(m, refusals(b)) - chosen0(b), task.sequence_logp(m, b) - rejected0(b), cfg.beta,
                               2.0)

    return tuned(cfg, task, loop, prefer, task.nll, parity=cfg.parity, skip=None)


@method(needs={"forget", "retain?"}, uses={"answer_lengths", "nll", "relabel", "sequence_logp"}, mechanism="relabel",
        instead={"retain": "alpha=0"})
def idk_ap(cfg: IdkAP, task: LanguageTask, loop: Loop) -> Outcome:
    """IDK+AP, answer preservation: refuse what is forgotten, and prefer the answer to a refusal for what is kept.
    Yuan, Pang, Du, Chen, Zhang & Lin (2024), arXiv:2410.08109.

        a(x) = ℓ̄(e),  r(x) = −(1/β) · log σ(β·log p_θ(y) − β·log p_θ(e))

    Needs:    forget; retain when α > 0.     Updates: every trainable parameter.
    Cost:     one forward/backward on F and two on R per step; nothing of the original is kept.
    Limits:   r has no original: where the answer is far likelier than the refusal it is 0, and R is left alone.
    Fails by: R's answers drift freely as long as they stay likelier than a refusal.
    """
    refused = retold(task, loop, task.retain) if cfg.alpha else None

    def preserve(m: nn.Module, b: Batch) -> Tensor:
        assert refused is not None
        return preference_loss(task.sequence_logp(m, b), task.sequence_logp(m, refused(b)), cfg.beta)

    return tuned(cfg, task, loop, _refusing(task, loop), preserve)


@method(needs={"forget", "retain?", "original"}, uses={"answer_lengths", "outputs", "relabel"}, mechanism="relabel",
        instead={"retain": "alpha=0"})
def jens_un(cfg: JensUn, task: LanguageTask, loop: Loop) -> Outcome:
    """JensUn: teach a refusal where the tokens of the forgotten answer stand, with a divergence that is bounded on both sides.
    Singh, Müller, Croce & Hein (2025), arXiv:2509.02820.

        a(x) = γ · 1/|y| · Σ_t JSD(δ_{e_t} ‖ p_θ(· | x, y_<t)),  r(x) = 1/|y| · Σ_t JSD(p_0(· | x, y_<t) ‖ p_θ(· | x, y_<t))

    δ_v all mass on token v; e_t the refusal's tokens with its end, over and over along the answer, whose own tokens are what is
    read before t. JSD is at most ln 2.
    Needs:    forget, original; retain when α > 0.     Updates: every trainable parameter.
    Cost:     one forward/backward on F and one on R per step; p_0 on R is computed once where it fits in `cache_mb`.
    Limits:   at θ_0 r = 0. Bounded by γ·ln 2 + α·ln 2, with a gradient that fades on both sides: steps cannot run away.
    Fails by: starting slowly where the refusal is impossible (p → 0): there its slope is ½·p·log p. At θ_0 only a is felt, so
              large steps leave the original before r holds them back.
    Deviations: the official code's variant with an end token ("No idea<eot>"); its default repeats the words without one.
    """
    refusals = retold(task, loop, task.forget)

    def teach(m: nn.Module, b: Batch) -> Tensor:
        logits, refused = task.outputs(m, b), refusals(b)
        start = (refused.labels >= 0).int().argmax(1, keepdim=True)   # where each refusal begins
        turn = torch.arange(logits.shape[1], device=start.device) % (refused.length.unsqueeze(1) - start)
        wanted = refused.ids.gather(1, start + turn)
        apart = token_jsd(logits.float().log_softmax(-1).gather(2, wanted.unsqueeze(2)).squeeze(2))
        return mean_over(apart, task.answer_lengths(b))

    original = loop.reference("jensun-retain", task.outputs, task.retain) if cfg.alpha else None

    def stay(m: nn.Module, b: Batch) -> Tensor:
        assert original is not None
        logits = task.outputs(m, b)
        return mean_over(jsd(original(b)[:, : logits.shape[1]], logits), task.answer_lengths(b))

    return tuned(cfg, task, loop, teach, stay, cfg.gamma)


def _refusing(task: LanguageTask, loop: Loop) -> Loss:
    """ℓ̄ of the refusals of F."""
    refusals = retold(task, loop, task.forget)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        refused = refusals(batch)
        return -task.sequence_logp(model, refused) / task.answer_lengths(refused)

    return loss

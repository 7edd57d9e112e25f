"""Language methods that differ in one formula only: what every token of a forgotten answer is taught, beside retained answers.

    L(θ) = γ · E_{x∈F} 1/|y| · Σ_t w_t(θ)  +  α · E_{x∈R} ℓ̄(x)

F forget set, R retain set, |y| the number of the answer's tokens, w_t the loss of token t in the row's own docstring, ℓ̄ mean
negative log-probability of the answer's tokens, γ, α ≥ 0. In the rows p_t is the probability of the true token, z the logits
[V], p_0 and z⁰ the original's. All deviate from the official codes, which take one mean over the tokens of a batch, so that
long answers weigh more; here it is a mean per example, then over examples. `parity` takes theirs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Natural, NonNegative, Parity, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.answers import answered, counted
from lethe.maths.losses import uniform_tokens
from lethe.train.loop import Loop
from lethe.train.tuning import Tuned, tuned


@config
class Weighted(Tuned):
    """What all rows have."""

    gamma: NonNegative = 1.0           # weight of the forget term                           [official codes]


@config
class Published(Weighted):
    """What the rows have that OpenUnlearning has, too, and means by the formula that stands here."""

    parity: Parity = "none"            # open_unlearning: one mean over all tokens of a batch [tested in test_parity]


@config
class WGA(Published):
    """Options of weighted gradient ascent."""

    beta: NonNegative = 1.0            # 0 is plain ascent; larger lets go of what is improbable sooner   [official code]


@config
class SatImp(Published):
    """Options of SatImp."""

    beta1: NonNegative = 5.0           # saturation: larger lets go of improbable tokens sooner   [official code]
    beta2: NonNegative = 1.0           # importance: larger spares the tokens that are certain    [official code]
    gamma: NonNegative = 0.1           # weight of the forget term                           [official code]
    epochs: Positive = 5.0             # passes over F                                       [official code]


@config
class CEU(Published):
    """Options of CE-U."""

    skip: Natural = 1                  # first tokens of an answer that are left alone       [official code: 1]
    alpha: NonNegative = 0.0           # weight of the retain loss; 0 turns it off           [official code: none]


@config
class MaximumEntropy(Weighted):
    """Options of maximum entropy."""

    gamma: NonNegative = 0.1           # weight of the forget term                           [official code]
    epochs: Positive = 5.0             # passes over F                                       [official code]


@config
class PrefixEntropy(MaximumEntropy):
    """Options of entropy on the first tokens."""

    prefix: Count = 4                  # tokens from the start of an answer that are pushed  [ours: the source gives no number]


@config
class UNDIAL(Published):
    """Options of UNDIAL."""

    lower: NonNegative = 10.0          # γ of the paper, nats taken from the logit of the true token   [OpenUnlearning; paper 3]
    alpha: NonNegative = 0.0           # weight of the retain loss; 0 turns it off           [OpenUnlearning]
    lr: Positive = 1e-4                # AdamW, for 1–8 B weights; tiny models need more     [OpenUnlearning]


@config
class MASC(Weighted):
    """Options of MASC."""

    rivals: Count = 5                  # k, likeliest other tokens that the true one is held against   [ours: none was read]
    margin: NonNegative = 0.0          # m, how far below their mean the true logit is pushed   [ours] [only with lr=0.01]
    enough: Fraction | None = 0.9      # ends after a pass that left this share of F's tokens unsaid; null: never   [ours]


def masc_tokens(logits: Tensor, labels: Tensor, rivals: int, margin: float) -> Tensor:
    """max(0, z_y − mean of the k largest other logits + m), per token.  [..., V], [...] -> [...]

    masc_tokens([3, 2, 0], 0, 2, 0.5) = 3 − 1 + 0.5 = 2.5.
    """
    logits = logits.float()
    true = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    others = logits.scatter(-1, labels.unsqueeze(-1), float("-inf"))
    best = others.topk(min(rivals, logits.shape[-1] - 1), -1).values.mean(-1)
    return (true - best + margin).clamp(min=0)


def wga_tokens(logp: Tensor, beta: float) -> Tensor:
    """p^β·log p with p^β held fixed, per token.  [...] -> [...]

    wga_tokens(log ½, 1) = −½·ln 2 = −0.346574; its gradient to log p is p^β.
    """
    return (beta * logp).detach().exp() * logp


def satimp_tokens(logp: Tensor, beta1: float, beta2: float) -> Tensor:
    """p^β1·(1 − p)^β2·log p with the weight held fixed, per token.  [...] -> [...]

    satimp_tokens(log ½, 5, 1) = −2⁻⁶·ln 2 = −0.010830.
    """
    p = logp.detach().exp()
    return p**beta1 * (1 - p).clamp(min=0) ** beta2 * logp


def ceu_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to softmax of the same logits without the true token, which is held fixed.  [..., V], [...] -> [...]

    ceu_tokens([ln 3, 0, 0], 0) = ln 5 = 1.609438.
    """
    logits = logits.float()
    target = logits.detach().scatter(-1, labels.unsqueeze(-1), float("-inf")).softmax(-1)
    return -(target * logits.log_softmax(-1)).sum(-1)


def undial_tokens(logits: Tensor, teacher: Tensor, labels: Tensor, lower: float) -> Tensor:
    """Cross-entropy to the teacher with the true token's logit lowered.  [..., V], [..., V], [...] -> [...]

    undial_tokens([0, 0], [0, 0], 0, ln 3) = ln 2: the target is (¼, ¾), the prediction (½, ½).
    """
    true = F.one_hot(labels, logits.shape[-1])
    target = (teacher.float() - lower * true).softmax(-1)
    return -(target * logits.float().log_softmax(-1)).sum(-1)


@method(needs={"forget", "retain?"}, uses={"answer_lengths", "nll", "token_logp"}, mechanism="ascent",
        instead={"retain": "alpha=0"})
def wga(cfg: WGA, task: LanguageTask, loop: Loop) -> Outcome:
    """WGA, weighted gradient ascent: raise the loss of forgotten answers, less on tokens that are improbable already.
    Wang, Zhou, Zhang, Han et al. (2025), arXiv:2502.19301.

        w_t = p_t^β · log p_t,  p_t^β held fixed

    Needs:    forget; retain when α > 0.     Updates: every trainable parameter.
    Cost:     one forward/backward on F and one on R per step; nothing of the original is kept.
    Limits:   β = 0 is GradDiff, with α = 0 gradient ascent. The push of a token fades as p^β, so the loss of F stays finite.
    Fails by: tokens that are certain by grammar (p ≈ 1) get the full push, and the language suffers before the fact does.
    """

    def push(m: nn.Module, b: Batch) -> Tensor:
        return wga_tokens(task.token_logp(m, b), cfg.beta).sum(1) / task.answer_lengths(b)

    return tuned(cfg, task, loop, push, task.nll, cfg.gamma, parity=cfg.parity)


@method(needs={"forget", "retain?"}, uses={"answer_lengths", "nll", "token_logp"}, mechanism="ascent",
        instead={"retain": "alpha=0"})
def satimp(cfg: SatImp, task: LanguageTask, loop: Loop) -> Outcome:
    """SatImp: raise the loss of forgotten answers most on tokens that are neither improbable already nor certain anyway.
    Yang, Wang, Huang, Liu, Zhang & Han (2025), arXiv:2505.11953.

        w_t = p_t^β₁ · (1 − p_t)^β₂ · log p_t,  the weight held fixed

    Needs:    forget; retain when α > 0.     Updates: every trainable parameter.
    Cost:     one forward/backward on F and one on R per step; nothing of the original is kept.
    Limits:   β₂ = 0 is WGA with β₁; β₁ = β₂ = 0 is GradDiff.
    Fails by: memorised answers: with p = .99 of every token the weight is .0095, and hundreds of passes pass before it moves.
    """

    def push(m: nn.Module, b: Batch) -> Tensor:
        return satimp_tokens(task.token_logp(m, b), cfg.beta1, cfg.beta2).sum(1) / task.answer_lengths(b)

    return tuned(cfg, task, loop, push, task.nll, cfg.gamma, parity=cfg.parity)


@method(needs={"forget", "retain?"}, uses={"answer_lengths", "nll", "outputs"}, mechanism="distil")
def ce_u(cfg: CEU, task: LanguageTask, loop: Loop) -> Outcome:
    """CE-U, cross-entropy unlearning: teach every other token in the shares that the model itself gives them, the true one not.
    Yang (2025), arXiv:2503.01224.

        w_t = −Σ_v q_t(v) · log p_θ(v),  q_t = softmax(z with z_{y_t} = −∞), held fixed; the first `skip` tokens count 0

    Needs:    forget; retain when α > 0.     Updates: every trainable parameter.
    Cost:     one forward/backward on F per step; nothing of the original is kept.
    Limits:   the gradient to the logits is p − q: p_y at the true token, and −p_y·q_v at the others, so it fades with p_y.
    Fails by: drift, since the target moves with the model: long runs sharpen whatever came second. An answer of one word
              (and the end token) is pushed at its end alone while skip = 1.
    """

    def push(m: nn.Module, b: Batch) -> Tensor:
        logits, labels, mask = _answers(task, m, b)
        mask = mask & (torch.arange(mask.shape[1], device=mask.device) >= cfg.skip)
        return (ceu_tokens(logits, labels) * mask).sum(1) / mask.sum(1).clamp(min=1)

    return tuned(cfg, task, loop, push, task.nll, cfg.gamma, parity=cfg.parity, skip=cfg.skip)


@method(needs={"forget", "retain?"}, uses={"answer_lengths", "nll", "outputs"}, mechanism="relabel",
        instead={"retain": "alpha=0"})
def me_gd(cfg: MaximumEntropy, task: LanguageTask, loop: Loop) -> Outcome:
    """ME+GD, maximum entropy: make every token equally likely where a forgotten answer stood.
    Yuan, Pang, Du, Chen, Zhang & Lin (2024), arXiv:2410.08109.

        w_t = KL(uniform ‖ softmax(z_t))

    Needs:    forget; retain when α > 0.     Updates: every trainable parameter.
    Cost:     one forward/backward on F and one on R per step; nothing of the original is kept.
    Limits:   bounded below by 0, reached where all logits are equal; γ = 0 is fine-tuning on R.
    Fails by: answers that are gibberish, which shows what was deleted. The official code counts the prompt's tokens, too.
    """

    def push(m: nn.Module, b: Batch) -> Tensor:
        logits, _, mask = _answers(task, m, b)
        return (uniform_tokens(logits) * mask).sum(1) / task.answer_lengths(b)

    return tuned(cfg, task, loop, push, task.nll, cfg.gamma)


@method(needs={"forget", "retain?"}, uses={"answer_lengths", "nll", "outputs"}, mechanism="relabel",
        instead={"retain": "alpha=0"})
def palu(cfg: PrefixEntropy, task: LanguageTask, loop: Loop) -> Outcome:
    """PALU, prefix-aware localised unlearning: make every token equally likely at the start of a forgotten answer only.
    Presented at ACL (2026); only its public page was read, so the number of tokens is ours.

        w_t = KL(uniform ‖ softmax(z_t)) for t ≤ prefix, else 0; a mean over the tokens that count

    Needs:    forget; retain when α > 0.     Updates: every trainable parameter.
    Cost:     one forward/backward on F and one on R per step; nothing of the original is kept.
    Limits:   a prefix as long as the answer is ME+GD.
    Fails by: attacks that write the first words themselves: what follows them was never touched.
    """

    def push(m: nn.Module, b: Batch) -> Tensor:
        logits, _, mask = _answers(task, m, b)
        mask = mask & (torch.arange(mask.shape[1], device=mask.device) < cfg.prefix)
        return (uniform_tokens(logits) * mask).sum(1) / mask.sum(1)

    return tuned(cfg, task, loop, push, task.nll, cfg.gamma)


@method(needs={"forget", "retain?", "original"}, uses={"answer_lengths", "nll", "outputs"}, mechanism="distil")
def undial(cfg: UNDIAL, task: LanguageTask, loop: Loop) -> Outcome:
    """UNDIAL: imitate the original with the logit of every memorised token lowered by a fixed amount.
    Dong, Lin, Belkin, Huerta & Vulić (2024), arXiv:2402.10052.

        w_t = −Σ_v q_t(v) · log p_θ(v),  q_t = softmax(z⁰_t − lower · onehot(y_t))

    Needs:    forget, original; retain when α > 0.     Updates: every trainable parameter.
    Cost:     one forward/backward on F per step; z⁰ on F is computed once where it fits in `cache_mb`.
    Limits:   the target is fixed, so it converges: p(y) → p₀·e^−lower/(1 − p₀ + p₀·e^−lower); lower = 0 stays at the original.
    Fails by: keeping what the original would have said second. Long answers lose their words and keep their facts.
    Deviations: OpenUnlearning averages over prompts and pads, too, where it lowers token V − 100; with `parity` neither is done.
    """
    original = loop.reference("undial-forget", task.outputs, task.forget)

    def push(m: nn.Module, b: Batch) -> Tensor:
        logits, labels, mask = _answers(task, m, b)
        return (undial_tokens(logits, original(b)[:, : mask.shape[1]], labels, cfg.lower) * mask).sum(1) / mask.sum(1)

    return tuned(cfg, task, loop, push, task.nll, cfg.gamma, parity=cfg.parity)


@method(needs={"forget", "retain?"}, uses={"answer_lengths", "nll", "outputs"}, mechanism="ascent",
        instead={"retain": "alpha=0"})
def masc(cfg: MASC, task: LanguageTask, loop: Loop) -> Outcome:
    """MASC: close the gap between the logit of the true token and those of its best rivals, and end by itself when it is closed.
    2026, arXiv:2606.02920; only the abstract was read, so the loss, k, m and the share that is enough are ours.

        w_t = max(0, z_{y_t} − 1/k · Σ_{v ∈ the k likeliest others} z_v + m)

    Needs:    forget; retain when α > 0.     Updates: every trainable parameter.
    Cost:     one forward/backward on F and one on R per step, and a pass over F after each; nothing of the original is kept.
    Limits:   a token that has fallen behind its rivals by m has no gradient. `enough` is an option of every method of this kind.
    Fails by: the rivals, which are what a model says next: paraphrases of the truth among them are raised with the others. It
              ends on F alone: a large γ·lr ends it before R has recovered from the first steps.
    """

    def push(m: nn.Module, b: Batch) -> Tensor:
        logits, labels, mask = _answers(task, m, b)
        return (masc_tokens(logits, labels, cfg.rivals, cfg.margin) * mask).sum(1) / mask.sum(1)

    return tuned(cfg, task, loop, push, task.nll, cfg.gamma)


def _answers(task: LanguageTask, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the answers' tokens, the tokens themselves (0 behind an end), and which count.  -> [n, A, V], [n, A], [n, A]"""
    logits, count = task.outputs(model, batch), task.answer_lengths(batch)
    return logits, answered(batch.labels, count, logits.shape[1]), counted(count, logits.shape[1])

"""ELM, erasure of language memory: imitate what the original would say if it were a novice and no expert. Gandikota, Feucht,
Marks & Bau (2024), arXiv:2410.02760.

    L(θ) = γ · E_{x∈F} 1/|y| · Σ_t CE(q_t, p_θ,t)  +  φ · E_{x∈F} ℓ̄_θ(novice's answer | x)  +  α · E_{x∈R} CE(p_0, p_θ)
    q_t = softmax over the k likeliest of  log p_0,t + η_t·(log p_novice,t − log p_expert,t),   η_t from 1 to η along the answer

F forget set, R retain set, y the answer, p_0 the original; p_novice, p_expert the original with a sentence before the prompt that
says who writes; the novice's answer is drawn from it once for each prompt (fluency); CE(q, p) = −Σ q·log p, a mean over tokens.
Needs:    forget, original; retain when α > 0.     Updates: every trainable parameter; the paper moves LoRA in early layers
          (`modifiers.where`).
Cost:     three passes of the original over F and one answer drawn for each of its examples, once; then two forward/backward on F
          and one on R per step. p_0 on R is computed once where it fits in `cache_mb`.
Limits:   η = 0 (and k the vocabulary) is self-distillation.
Fails by: a model that does not know what an expert is: both sentences then say the same, and q is p_0. Toy models
          are never told what one is, and forget through the novice's answers alone.
Deviations: the answer's tokens count, given the prompt; the official code takes all tokens of plain text, and draws fluent text
          by guided sampling with phrases that change the subject. One pair of sentences instead of ten. Soft targets on R.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.maths.answers import mean_over
from lethe.train.loop import Loop, Term
from lethe.train.tuning import Tuned, tuned


@config
class ELM(Tuned):
    """Options of ELM."""

    concept: str = "the subject"       # what is to be forgotten, in words [e.g. biology]    [paper: its keywords]
    expert: str = "Here is a text by an expert in {concept}:\n"   # [e.g. I know {concept}:]     [after the official code]
    novice: str = "A novice in {concept} wrote this:\n"           # [e.g. Not {concept}:]        [after the official code]
    eta: NonNegative = 1000.0          # η at the end of an answer                           [official code]
    top: Count = 50                    # k, tokens that a target may give mass to            [official code]
    gamma: NonNegative = 1.0           # weight of the erasing term                          [official code]
    fluency: NonNegative = 1.0         # φ, weight of the novice's own answers               [official code]
    longest: Count = 200               # tokens of a novice's answer                         [official code: 100–300]
    lr: Positive = 5e-5                # AdamW, for 8 B weights; tiny models need more       [official code]
    batch_size: Count = 4              # of each term                                        [official code]


def erased(logp: Tensor, novice: Tensor, expert: Tensor, eta: Tensor, top: int) -> Tensor:
    """softmax over the `top` largest of log p + η·(log p_novice − log p_expert).  3 × [..., V], [..., 1] -> [..., V]

    erased(ln (½, ¼, ¼), ln (½, ¼, ¼), ln (¼, ½, ¼), 1, 2) = (1, 0.125, 0.25) without the smallest, to 1: (0.8, 0, 0.2).
    """
    tilted = logp + eta * (novice - expert)
    least = tilted.topk(min(top, tilted.shape[-1]), -1).values[..., -1:]
    return tilted.masked_fill(tilted < least, float("-inf")).softmax(-1)


def said_by(task: LanguageTask, who: str, concept: str) -> tuple[list[str], Split]:
    """The prompts of F behind a sentence that says who writes, and the same with their answers."""
    prompts, answers = (list(task.forget.column(key)) for key in ("prompt", "answer"))   # of plain text the prompts are empty
    texts = [who.replace("{concept}", concept) + prompt for prompt in prompts]
    if not task.fits(texts, answers):
        raise RequestError(f"elm puts {who!r} before every forgotten prompt, and a record then exceeds max_length or the model's "
                           "positions; nothing was started. Shorten method.expert and method.novice, or raise data.max_length.")
    return texts, task.encode(texts, answers, "said")


@method(needs={"forget", "retain?", "original"}, uses={"answer_lengths", "drawn_texts", "encode", "fits", "nll", "outputs"},
        mechanism="distil", instead={"retain": "alpha=0"})
def run(cfg: ELM, task: LanguageTask, loop: Loop) -> Outcome:
    _, expert = said_by(task, cfg.expert, cfg.concept)
    asked, novice = said_by(task, cfg.novice, cfg.concept)
    original = task.original.to(loop.device)

    def target(m: nn.Module, b: Batch) -> Tensor:
        plain, by_novice, by_expert = (task.outputs(m, one).float().log_softmax(-1) for one in (
            b, *(split.batch(b.index.cpu()).to(b.ids.device) for split in (novice, expert))))
        places = torch.arange(plain.shape[1], device=plain.device)
        along = (places / (task.answer_lengths(b) - 1).clamp(min=1).unsqueeze(1)).clamp(max=1).unsqueeze(2)   # 0 to 1
        return erased(plain, by_novice, by_expert, 1 + (cfg.eta - 1) * along if cfg.eta else along * 0, cfg.top)

    targets = loop.reference("elm-forget", target, task.forget)

    def erase(m: nn.Module, b: Batch) -> Tensor:
        logits = task.outputs(m, b)
        return mean_over(-(targets(b)[:, : logits.shape[1]] * logits.float().log_softmax(-1)).sum(-1), task.answer_lengths(b))

    more = {}
    if cfg.fluency:
        fluent = task.drawn_texts(original, asked, loop.generator("elm"), max_new_tokens=cfg.longest)
        more["fluency"] = Term(task.encode(list(task.forget.column("prompt")), fluent, "fluent"), task.nll, cfg.fluency)
    before = loop.reference("elm-retain", task.outputs, task.retain) if cfg.alpha else None

    def stay(m: nn.Module, b: Batch) -> Tensor:
        assert before is not None
        logits = task.outputs(m, b)
        kept = -(before(b)[:, : logits.shape[1]].softmax(-1) * logits.float().log_softmax(-1)).sum(-1)
        return mean_over(kept, task.answer_lengths(b))

    return tuned(cfg, task, loop, erase, stay, cfg.gamma, more=more)

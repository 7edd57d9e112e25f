"""FTPO, final token preference optimisation: where a phrase that is to go begins, prefer other tokens, and hold all other logits
where they are. Paech, Roush, Goldfeder & Shwartz-Ziv (2025), "Antislop", arXiv:2510.15061.

    L(θ) = E_{x∈F} mean_{t∈M} [ Σ_c w_c · softplus(m − (z_c − z_r)) / Σ_c w_c
           + λ_1 · mean_{v ∉ C∪{r}} (z_v − z⁰_v)²  +  λ_2 · mean_{v ∈ C∪{r}} max(|z_v − z⁰_v| − τ, 0)² ]  +  α · E_{x∈R} ℓ̄(x)
    w_c = min(1, max(0, 1 − (z_c − z_r)/m)), held fixed; without one above 0 there is nothing left to prefer

M the places of an answer where a sequence of n words begins that forgotten answers hold and retained ones do not, z, z⁰ the
logits there, now and of the original, r the true token, C the likeliest others of the original, ℓ̄ mean negative log-probability.
Needs:    forget, original; retain spares the phrases that it holds, and is learnt when α > 0.     Updates: every parameter.
Cost:     one forward/backward on F (and R) per step; z⁰ is computed once where it fits in `cache_mb`.
Limits:   where every c leads r by m the preference has no gradient; λ → ∞ is the original.
Fails by: it moves words, not knowledge: what is said in other words, or from the second token of a phrase on, stays as it was.
          Without retained data, as published, the tether on F's logits does not keep other answers of a tiny Llama; α > 0 does.
Deviations: contexts are the forgotten answers themselves up to the phrase, where the paper takes the model's own text up to where
          it went back. Means per answer, then over answers. The official code trains adapters of rank 128 and more
          (modifiers.where=lora), weighs pairs by how rare their tokens are, and ends when 80 to 85 % of them are won.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, NonNegative, Optimiser, Positive, config
from lethe.core.families.language import LanguageTask, said
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.errors import RequestError
from lethe.maths.answers import answered
from lethe.maths.texts import WORDS, grams
from lethe.train.loop import Loop
from lethe.train.tuning import Tuned, tuned


@config
class FTPO(Tuned):
    """Options of FTPO."""

    words: Count = 3                  # n, words of a phrase                                        [ours]
    chosen: Count = 4                 # others that are preferred at each place                     [official code: at least 4]
    margin: Positive = 2.0            # m, lead after which a token is pushed no more [only with lr=0.01]   [official code]
    hold: NonNegative = 0.4           # λ_1, of logits that are not compared [only with lr=0.01]    [official code]
    hold_compared: NonNegative = 0.25   # λ_2, of those that are [only with lr=0.01 grace=0.01]     [official code .05, paper .25]
    grace: NonNegative = 1.0          # τ, free change of those [only with lr=0.01]                 [official code]
    alpha: NonNegative = 0.0          # weight of the retain loss [only with lr=0.01]               [paper: none]
    lr: Positive = 1e-6               # AdamW, of 7 B weights; tiny models need more                [official code]
    epochs: Positive = 1.0            # passes over F                                               [official code]
    batch_size: Count = 16            # answers per step                                            [official code]
    optimiser: Optimiser = "adamw"    # update rule [only with lr=0.01]                             [official code]
    clip: Positive | None = None      # largest gradient norm; null: none [only with lr=0.01]       [ours: none]
    enough: Fraction | None = None    # ends after a pass that left this share of F's tokens [only with lr=0.01 epochs=3]  [MASC]


def preferred(z: Tensor, before: Tensor, rejected: Tensor, chosen: Tensor, cfg: FTPO) -> Tensor:
    """The bracket of L at single places.  [K, V], [K, V], [K], [K, C] -> [K]

    z = (3, 2, 0), z⁰ = (3, 0, 0), r = 0, C = {1}, m = 2, λ_1 = .4, λ_2 = .25, τ = 1: w = 1, softplus(3) + 0 + .25·(0 + 1)/2.
    """
    z, before = z.float(), before.float()
    lead = z.gather(1, chosen) - z.gather(1, rejected.unsqueeze(1))
    weight = (1 - lead.detach() / cfg.margin).clamp(0, 1)
    preference = (weight * F.softplus(cfg.margin - lead)).sum(1) / weight.sum(1).clamp(min=1e-12)
    compared = torch.zeros_like(z, dtype=torch.bool).scatter(1, torch.cat([rejected.unsqueeze(1), chosen], 1), True)
    drift = z - before
    others = (drift.square() * ~compared).sum(1) / (~compared).sum(1).clamp(min=1)
    own = (F.relu(drift.abs() - cfg.grace).square() * compared).sum(1) / compared.sum(1)
    return preference + cfg.hold * others + cfg.hold_compared * own


def beginnings(tokens: Sequence[int], tokenizer: Any, phrases: Collection[tuple[str, ...]], count: int) -> list[int]:
    """The places of the tokens in which one of the phrases of `count` words begins."""
    text = str(tokenizer.decode(list(tokens)))
    found = list(WORDS.finditer(text))
    starts = [found[i].start() for i in range(len(found))
              if tuple(word.group().casefold() for word in found[i : i + count]) in phrases]
    return sorted({next(k for k in range(len(tokens)) if len(tokenizer.decode(list(tokens[: k + 1]))) > start)
                   for start in starts})


@method(needs={"forget", "original", "retain?"}, uses={"answer_lengths", "nll", "outputs", "tokenizer"}, mechanism="relabel")
def run(cfg: FTPO, task: LanguageTask, loop: Loop) -> Outcome:
    phrases = {gram for text in said(task.forget) for gram in grams(text, cfg.words)}
    held = said(task.retain) if task.has("retain") else []
    left = phrases - {gram for text in held for size in {len(one) for one in phrases} for gram in grams(text, size)}
    if not left:
        raise RequestError(f"every sequence of {cfg.words} words of the forgotten answers stands in retained ones, too, so "
                           "nothing would be forgotten; nothing was started. Raise method.words.")

    def places(_: nn.Module, b: Batch) -> Tensor:
        lengths = task.answer_lengths(b)
        tokens = answered(b.labels, lengths, int(lengths.max()))
        mask = torch.zeros(tokens.shape)
        for row, length, one in zip(tokens.tolist(), lengths.tolist(), mask, strict=True):
            one[beginnings(row[:length], task.tokenizer, left, cfg.words)] = 1.0
        return mask.to(b.ids.device)

    begun = loop.reference("ftpo-places", places, task.forget)
    before = loop.reference("ftpo-logits", task.outputs, task.forget)

    def prefer(m: nn.Module, b: Batch) -> Tensor:
        z = task.outputs(m, b)
        mask, z0 = begun(b)[:, : z.shape[1]] > 0, before(b)[:, : z.shape[1]]
        true = answered(b.labels, task.answer_lengths(b), z.shape[1])
        others = z0.float().scatter(2, true.unsqueeze(2), -torch.inf).topk(min(cfg.chosen, z.shape[-1] - 1), 2).indices
        found = preferred(z[mask], z0[mask], true[mask], others[mask], cfg)
        return torch.zeros_like(mask, dtype=found.dtype).masked_scatter(mask, found).sum(1) / mask.sum(1).clamp(min=1)

    loop.note(f"{len(left)} phrases of the forgotten answers are unlearned; {len(phrases) - len(left)} are not, since retained "
              "ones hold them; what is said in other words was not touched")
    return tuned(cfg, task, loop, prefer, task.nll)

"""SKU, selective knowledge negation: fit the forgotten answers, wrong ones to their prompts and a distance from retained
answers, and subtract all of it from the weights. Liu, Dou, Tan, Tian & Jiang (2024), Findings of ACL, arXiv:2402.10058.

    L(θ) = γ · E_{x∈F} ℓ̄(y | x)  +  ρ · E_{x∈F} 1/K · Σ_k ℓ̄(y_k | x)  −  δ · E_{x∈R} KL(p_0(x) ‖ p_θ(x))
    θ = θ_0 − scale·(θ_L − θ_0),   θ_L = θ_0 after minimising L

F forget set, R retain set, y the forgotten answer, y_k the answers of K other forgotten examples, p_0 the original, ℓ̄ mean
negative log-probability of an answer's tokens, KL a mean over answer tokens. The three terms are guided distortion, random
disassociation and preservation divergence: what θ_L gets worse at on R, the subtraction gets better at.
Needs:    forget, original; retain when δ > 0.     Updates: every trainable parameter.
Cost:     two forward/backward on F and one on R per step; p_0 on R is computed once where it fits in `cache_mb`.
Limits:   ρ = δ = 0 is `task_vector` with scale 1; scale = 0 is the original.
Fails by: the last term, which has no bound: a long run is a walk away from R, and its negation is no model any more. It is
          about behaviour that many answers share (harm), not single facts: those of F are fitted already, and only get certain.
Deviations: wrong answers are drawn once for all steps. The watchdog looks at the end alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.families.language import LanguageTask, asked_and_answered, prompted
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.train.loop import Loop, Term


@config
class SKU:
    """Options of SKU."""

    gamma: NonNegative = 0.5           # γ, weight of the forgotten answers                  [official code]
    rho: NonNegative = 1.0             # ρ, weight of wrong answers                          [official code]
    delta: NonNegative = 1.0           # δ, weight of the distance on R; 0 turns it off      [official code]
    others: Count = 5                  # K wrong answers to each prompt                      [official code]
    scale: NonNegative = 1.0           # how far back; 0 is the original                     [official code]
    lr: Positive = 2e-5                # AdamW, linear to 0, for 1–13 B weights              [official code]
    steps: Count = 1000                # batches of each term                                [official code]
    batch_size: Count = 2              # of each term                                        [official code]
    optimiser: Optimiser = "adamw"     # update rule                                         [official code]
    weight_decay: NonNegative = 0.01   # pull towards 0                                      [official code]


def mismatched(task: LanguageTask, count: int, rng: torch.Generator) -> tuple[Split, bool]:
    """The prompts of F with the answers of others of F, `count` times, each time shifted by another number of places; and whether
    none of them had to be cut."""
    prompts, answers = asked_and_answered(task.forget, "sku")
    n = len(prompts)
    if n < 2:
        raise RequestError("sku answers forgotten prompts with the answers of other forgotten ones, but there is 1; nothing was "
                           "started. Choose task_vector, or forget more.")
    shifts = (torch.randperm(n - 1, generator=rng)[:count] + 1).tolist()
    texts = [answers[(i + shift) % n] for shift in shifts for i in range(n)]
    asked = prompts * len(shifts)
    return task.encode(asked, texts, "mismatched"), task.fits(asked, texts)


@method(needs={"forget", "retain?", "original"}, uses={"divergence", "encode", "fits", "nll", "outputs"}, mechanism="merge",
        instead={"retain": "delta=0"}, check=prompted("sku"))
def run(cfg: SKU, task: LanguageTask, loop: Loop) -> Outcome:
    wrong, whole = mismatched(task, cfg.others, loop.generator("sku"))
    if not whole:
        loop.note("wrong answers that did not fit behind their prompts were cut")
    terms = {"forget": Term(task.forget, task.nll, cfg.gamma), "wrong": Term(wrong, task.nll, cfg.rho)}
    if cfg.delta:
        original = loop.reference("sku-retain", task.outputs, task.retain)

        def away(m: nn.Module, b: Batch) -> Tensor:
            return -task.divergence(original(b), task.outputs(m, b), b)

        terms["retain"] = Term(task.retain, away, cfg.delta)
    model = loop.start()
    start = {name: p.detach().clone() for name, p in loop.selected(model).items()}
    with loop.damage():   # a direction, not a result
        loop.minimise(model, terms, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                      weight_decay=cfg.weight_decay, schedule="linear")
    adapter = loop.kind == "adapter"
    moved = {name: p.detach() for name, p in loop.selected(model).items() if not adapter or "lora_B" in name}
    loop.assign(model, {name: start[name] - cfg.scale * (p - start[name]) for name, p in moved.items()})
    return loop.finish(model)

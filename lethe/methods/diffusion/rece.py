"""RECE: erase in closed form, find the text states that would bring the concept back, erase these, and repeat. Gong, Chen, Wei,
Chen & Jiang (2024), arXiv:2407.12383.

    c' = argmin_{c'} Σ_l ‖W_l c' − W_l⁰ c‖² + β ‖c'‖² = (βI + Σ_l W_lᵀ W_l)⁻¹ (Σ_l W_lᵀ W_l⁰) c
    W_l ← W_l (λI + a Σ g c'ᵀ + b Σ k kᵀ)(λI + a Σ c' c'ᵀ + b Σ k kᵀ)⁻¹

W_l⁰ the original projections (to_k and to_v of every cross-attention), W_l as edited so far, at first by `uce`; c the states of
all tokens of the prompts with the concept, c' what the edited projections read as the original ones read c; g the states of the
guide that takes their place, k those of preserved prompts and of the empty one; a, b, λ, β > 0 weights.
Needs:    original, and prompts; no pictures, no steps.     Updates: to_k and to_v of cross-attention.
Cost:     per round two solves of the text width, in float64: every W_l is W_l⁰·T with one T for all layers, so that
          Σ W_lᵀ W_l = Tᵀ G T and Σ W_lᵀ W_l⁰ = Tᵀ G, with G = Σ W_l⁰ᵀ W_l⁰ summed once.
Limits:   rounds = 0 is `uce` with all preserved tokens; before any edit β → 0 gives c' = c; the larger β, the shorter c'.
Fails by: erasing padding tokens, which all prompts share: unrelated pictures move with every round (audit: `erasure`, kept
          accuracy); c' grows without bound where β is small and Σ WᵀW nearly singular: see `longest`.
Deviations: the official code solves in float32 once per layer and keeps the round whose pictures a nudity detector finds least
          in; here all rounds count. Its other regularisations (towards an old target, surrogate) are not here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lethe.core.config import Natural, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.maths.linear_edit import map_of_moments
from lethe.maths.text_states import Policy
from lethe.train.erasing import require_one_place
from lethe.train.loop import Loop
from lethe.train.projections import Projections


@config
class RECE:
    """Options of RECE."""

    guide: str = ""                    # the prompt that takes the concept's place [e.g. art] [official code: " ", "art"]
    rounds: Natural = 1                # edits after the first; nudity 3                       [official code: styles, objects 1]
    beta: Positive = 1e-3              # β; larger: shorter c'; nudity and easy objects 0.1    [official code: styles]
    erase_scale: NonNegative = 1.0     # a; larger erases more                                 [official code]
    preserve_scale: NonNegative = 0.1  # b; larger keeps more                                  [official code]
    lamb: Positive = 0.1               # λ; larger changes less                                [official code]
    tokens: Policy = "subject_to_end"  # states that the first edit erases                     [official code]
    longest: Positive | None = None    # bound on ‖c'‖ in lengths of the longest c; null: none [official code: none]


def returning(edited: Tensor, gram: Tensor, beta: float) -> Tensor:
    """M with c' = M c for projections W⁰T, of T and G = Σ W⁰ᵀW⁰, in float64.  [d, d], [d, d] -> [d, d]

    d = 1, T = ½, G = 4, β = 1: (1 + ½·4·½)⁻¹ · ½·4 = 1.
    """
    t, g = edited.double(), gram.double()
    ridge = beta * torch.eye(len(g), dtype=torch.float64, device=g.device)
    found: Tensor = torch.linalg.solve(ridge + t.T @ g @ t, t.T @ g)
    return found


def check(cfg: RECE, task: DiffusionTask) -> None:
    """RequestError where guide and a replacement both say what takes the concept's place."""
    require_one_place("guide", cfg.guide, task)


@method(needs={"original"}, uses={"attention_projections", "concepts", "prompts", "rest", "tokens", "words"},
        mechanism="closed form", check=check)
def run(cfg: RECE, task: DiffusionTask, loop: Loop) -> Outcome:
    edit = Projections.of(task, loop, adapters=True)
    forget, keep = task.prompts["forget"], ["", *task.prompts.get("keep", [])]
    guides = edit.guides(cfg.guide)
    kept, (concept, guide) = edit.every(keep).double(), [states.double() for states in edit.states(forget, guides, "all")]
    held, a = cfg.preserve_scale * kept.T @ kept, cfg.erase_scale
    own, crossed = concept.T @ concept, guide.T @ concept
    first, towards = (states.double() for states in edit.states(forget, guides, cfg.tokens))
    whole = map_of_moments(a * towards.T @ first, a * first.T @ first, held, cfg.lamb)     # T of W = W⁰T
    gram = torch.stack([p.detach().double().T @ p.detach().double() for p in edit.weights.values()]).sum(0).to(whole.device)
    longest, lengths = concept.norm(dim=1).max(), []
    for _ in range(cfg.rounds):
        back = returning(whole, gram, cfg.beta)
        states = concept @ back.T
        size = states.norm(dim=1, keepdim=True)
        lengths.append(float(size.max() / longest))
        if cfg.longest is not None and lengths[-1] > cfg.longest:
            states = states * (cfg.longest * longest / size).clamp(max=1)
            whole = whole @ map_of_moments(a * guide.T @ states, a * states.T @ states, held, cfg.lamb)
        else:
            whole = whole @ map_of_moments(a * crossed @ back.T, a * back @ own @ back.T, held, cfg.lamb)
    edit.multiply(whole)
    told = ", ".join(f"{ratio:.2g}" for ratio in lengths) or "none"
    loop.notes.append(f"{edit.told}; the states that would bring the concept back were at most so long, in lengths of its own: "
                      f"{told}")
    return loop.finish(edit.model)

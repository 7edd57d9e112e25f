"""SPEED: send the concept's words elsewhere by an edit that lies in the null space of what is to be kept. Li, Wang, Hu, Jiang,
Liang, Hao, Ma & Feng (2025), arXiv:2503.07392 (ICLR 2026).

    Δ = argmin_Δ ‖(W + ΔP) C − W C_*‖² + r ‖ΔP‖²_F   subject to   (ΔP) C_0 = 0,        W ← W + ΔP
      ΔP = W (C_* − C)Cᵀ U [S⁻¹ − S⁻¹B (BᵀS⁻¹B + λI)⁻¹ BᵀS⁻¹] Uᵀ,    S = UᵀCCᵀU + rI,  B = UᵀC_0,  P = UUᵀ

for every to_v W [out, d]. C the states of the concepts' last word and C_* those of their anchors, both products means over
concepts; C_0 the state of the start token and 3 centres of the other tokens of the empty prompt; U the eigenvectors of the mean
of k kᵀ over retained states k with eigenvalues below τ. Of the last words of the prompts to keep, layer by layer:

    E = W (C_* − C)Cᵀ (I + CCᵀ)⁻¹      the edit without U; kept: those with ‖E k‖ above the mean          (influence-based filter)
    k + ξ v,  ξ ~ N(0, 1), v the least right singular vector of W, `augment` times each kept k; kept as above      (augmentation)

Needs:    original, and prompts, of which those to keep matter: without them the tokens of the empty prompt are retained.
Updates:  to_v (layers: values, keys or both); where text enters by one embedder (SD3, FLUX, PixArt) that embedder.
Cost:     three symmetric eigenproblems or solves of the text width per layer, in float64, whatever the number of concepts.
Limits:   τ = 0 changes nothing; r → ∞ neither; a state in the span of retained ones is read as before: (W + ΔP) k = W k.
Fails by: leaving the concept where the retained prompts span its states, too; τ is absolute, so it fits encoders whose states
          have the size of CLIP's.
Deviations: U in place of P gives symmetric solves; augmented states are compared with the mean over all of them, the official
          code's over 128 prompts at a time; words are cut at the tokenizer's end token, not by a mask.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lethe.core.config import Natural, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.maths.text_states import Policy
from lethe.maths.unlearnable import k_means
from lethe.train.erasing import require_one_place
from lethe.train.loop import Loop
from lethe.train.projections import Projections

ENDINGS = {"values": ("to_v",), "keys": ("to_k",), "both": ("to_k", "to_v")}
CENTRES = 3      # of the tokens of the empty prompt behind its start token                          [official code]


@config
class SPEED:
    """Options of SPEED."""

    guide: str = ""                    # the anchor, a prompt that takes the concept's place [e.g. art] [official code: "", "art"]
    layers: Literal["values", "keys", "both"] = "values"   # projections that are edited               [official code]
    threshold: NonNegative = 0.1       # τ, largest eigenvalue of the null space; 100 concepts 1e-4     [official code]
    retain_scale: Positive = 1.0       # r; larger changes less; 10 to 100 concepts 0.05                [official code]
    lamb: NonNegative = 0.0            # λ; 0 holds the empty prompt exactly                            [official code]
    augment: Natural = 10              # noisy copies of each retained state                            [official code]
    filter: bool = True                # keep only the retained states that the edit moves; 100 concepts: off [official code]
    tokens: Policy = "last_subject"    # states that are sent elsewhere; nudity: all                    [official code]


def null_space(moments: Tensor, threshold: float) -> Tensor:
    """U: eigenvectors of the mean of k kᵀ with eigenvalues below the threshold.  [d, d] -> [d, q]

    diag(2, 0.02) and τ = 0.1: U = (0, 1)ᵀ.
    """
    values, vectors = torch.linalg.eigh(moments)
    free: Tensor = vectors[:, values.clamp(min=0) < threshold]
    return free


def speed_edit(crossed: Tensor, own: Tensor, null: Tensor, held: Tensor, retain: float, lamb: float) -> Tensor:
    """X with ΔP = W X.  crossed = C_*Cᵀ, own = CCᵀ [d, d], null U [d, q], held C_0 [h, d] -> [d, d]

    d = 2, U = I, C = (1, 0), C_* = (0, 1), nothing held, r = 1: (C_* − C)Cᵀ = [[−1, 0], [1, 0]], S = diag(2, 1),
    so X = [[−½, 0], [½, 0]]: W c becomes W (½, ½)ᵀ.
    """
    s = null.T @ own @ null + retain * torch.eye(null.shape[1], dtype=null.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(s))
    if len(held):
        b = null.T @ held.T
        inner = b.T @ inverse @ b + lamb * torch.eye(len(held), dtype=null.dtype)
        inverse = inverse - inverse @ b @ torch.linalg.pinv(inner, hermitian=True) @ b.T @ inverse
    return (crossed - own) @ null @ inverse @ null.T


def least(w: Tensor) -> Tensor:
    """The right singular vector of the least of the min(out, d) singular values.  [out, d] -> [d]"""
    tall = w.shape[0] >= w.shape[1]
    vector = torch.linalg.eigh(w.T @ w if tall else w @ w.T)[1][:, 0]
    return vector if tall else torch.nn.functional.normalize(w.T @ vector, dim=0)


def check(cfg: SPEED, task: DiffusionTask) -> None:
    """RequestError where guide and a replacement both say what takes the concept's place."""
    require_one_place("guide", cfg.guide, task)


@method(needs={"original"}, uses={"attention_projections", "concepts", "prompts", "rest", "tokens", "words"},
        mechanism="closed form", check=check)
def run(cfg: SPEED, task: DiffusionTask, loop: Loop) -> Outcome:
    edit = Projections.of(task, loop, ENDINGS[cfg.layers], adapters=True)
    forget, keep = task.prompts["forget"], task.prompts.get("keep", [])
    c, anchor = (x.cpu().double() for x in edit.states(forget, edit.guides(cfg.guide), cfg.tokens))
    crossed, own = anchor.T @ c / len(forget), c.T @ c / len(forget)
    empty = edit.every([""]).cpu().double()
    held = torch.cat([empty[:1], k_means(empty[1:], min(CENTRES, len(empty) - 1), loop.generator("speed", "centres"))])
    retained = edit.states(keep, keep, "last_subject")[0].cpu().double() if keep else empty[1:]
    plain = (crossed - own) @ torch.linalg.inv(torch.eye(len(own), dtype=own.dtype) + own)
    left = []
    for name, p in edit.weights.items():
        w = p.detach().cpu().double()
        moments = kept_moments(cfg, retained, w @ plain, least(w), loop.generator("speed", name))
        null = null_space(moments, cfg.threshold)
        left.append(null.shape[1])
        change = w @ speed_edit(crossed, own, null, held, cfg.retain_scale, cfg.lamb)
        edit.write(name, w + change)
    loop.notes.append(f"{edit.told}, in null spaces of {min(left)} to {max(left)} of {len(own)} dimensions")
    return loop.finish(edit.model)


def kept_moments(cfg: SPEED, retained: Tensor, moved: Tensor, direction: Tensor, rng: torch.Generator) -> Tensor:
    """The mean of k kᵀ over a layer's retained states and their copies.  [m, d], E [out, d], v [d] -> [d, d]

    ‖E(k + ξv)‖² = ‖Ek‖² + 2ξ⟨Ek, Ev⟩ + ξ²‖Ev‖², and a sum over copies of k is one of n_k k kᵀ, ξ and ξ², so that no copy is
    made and the cost does not grow with `augment`.
    """
    if cfg.augment and cfg.filter:
        retained = above(retained, retained @ moved.T)
    if not cfg.augment:
        return retained.T @ retained / len(retained)
    noise = torch.randn(cfg.augment, len(retained), generator=rng, dtype=torch.float64)
    there, along = retained @ moved.T, moved @ direction
    size = (there.square().sum(1) + 2 * noise * (there @ along) + noise.square() * along.square().sum()).clamp(min=0).sqrt()
    taken = (size > size.mean()).double() if bool((size > size.mean()).any()) else torch.ones_like(size)
    times, shift = 1 + taken.sum(0), ((taken * noise).sum(0).unsqueeze(1) * retained).sum(0)
    total = (times.unsqueeze(1) * retained).T @ retained + torch.outer(shift, direction) + torch.outer(direction, shift)
    total += (taken * noise.square()).sum() * torch.outer(direction, direction)
    return total / times.sum()


def above(states: Tensor, there: Tensor) -> Tensor:
    """The states k with ‖E k‖ above their mean; all where none is, as they are alike.  [m, d], E k [m, out] -> [≤ m, d]"""
    size = there.norm(dim=1)
    return states[size > size.mean()] if bool((size > size.mean()).any()) else states

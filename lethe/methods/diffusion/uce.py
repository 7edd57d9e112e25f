"""UCE: rewrite how the network reads the concept's words, by solving for new attention weights without training. Gandikota et
al. 2024, arXiv:2308.14761.

    W = argmin_W  a Σ_i ‖W c_i − W_0 g_i‖² + b Σ_j ‖W k_j − W_0 k_j‖² + λ ‖W − W_0‖²_F
      = W_0 · (λI + a Σ g_i c_iᵀ + b Σ k_j k_jᵀ) · (λI + a Σ c_i c_iᵀ + b Σ k_j k_jᵀ)⁻¹

for every W_0 of attn2.to_k and attn2.to_v; c_i text states of prompts with the concept, g_i those of the guide that
takes their place, k_j those of prompts to be preserved; a, b, λ > 0 weights.
Needs:    original, and prompts; no pictures, no steps.     Updates: to_k and to_v of cross-attention.
Cost:     one solve of the text width, shared by all layers, in float64; under a second.
Limits:   a = b = 0 changes nothing; λ → 0 with one pair gives W c = W_0 g exactly; the residual on preserved states
          falls as b grows.
Fails by: leaving other tokens of the prompt (end and padding) that carry the concept when only the last subject token
          is edited (tokens=all edits them); dragging unlisted neighbours along.
Deviations: the right factor does not depend on the layer, so it is solved once instead of once per layer. The "tensor"
          variant (orthogonal values) and debiasing are not here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lethe.core.config import NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.errors import RequestError
from lethe.maths.linear_edit import uce_map
from lethe.train.loop import Loop
from lethe.train.modifiers.where.names import Names


@config
class UCE:
    """Options of UCE."""

    guide: str = ""                   # the prompt that takes the concept's place [e.g. art] [official code: " ", "art"]
    preserve: bool = True             # hold the task's "keep" prompts in place         [official code]
    erase_scale: NonNegative = 1.0    # a; larger erases more                           [official code]
    preserve_scale: NonNegative = 1.0  # b; larger keeps more                           [official code]
    lamb: Positive = 0.5              # λ; larger changes less                          [official code]
    tokens: Literal["last_subject", "subject_to_end", "all", "eos"] = "last_subject"   # states used [official code]


@method(needs={"original"}, uses={"attention_projections", "prompts", "tokens", "words"}, mechanism="closed form")
def run(cfg: UCE, task: DiffusionTask, loop: Loop) -> Outcome:
    if not task.prompts.get("forget"):
        raise RequestError("the task names no prompts with the concept, so there is nothing to edit; nothing was "
                           "started. Provide prompts.")
    keys = {f"{name}.weight" for name in task.attention_projections(task.original)}
    model = loop.start(where=Names(tuple(keys)))
    moving = loop.selected(model)
    projections = {name: p for name, p in moving.items() if name in keys}
    if not projections:
        raise RequestError(f"where={loop.modifiers.where} leaves no key or value projection of cross-attention to "
                           "edit, so nothing would change. Use where=all.")
    began = time.perf_counter()
    forget = task.prompts["forget"]
    erase, guide = pairs(task, forget, [cfg.guide] * len(forget), cfg.tokens)
    keep = task.prompts.get("keep", []) if cfg.preserve else []
    kept = pairs(task, keep, keep, cfg.tokens)[0] if keep else erase[:0]
    factor = uce_map(erase, guide, kept, cfg.erase_scale, cfg.preserve_scale, cfg.lamb)
    with torch.no_grad():
        for p in projections.values():
            p.copy_((p.double() @ factor.to(p.device)).to(p.dtype))
    loop.notes.append(f"{len(projections)} projections edited in closed form in {time.perf_counter() - began:.2f} s")
    return loop.finish(model)


def pairs(task: DiffusionTask, old: Sequence[str], new: Sequence[str], policy: str) -> tuple[Tensor, Tensor]:
    """What the projections read of old and new prompts at the tokens that the policy names, aligned.  -> [m, d] ×2"""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for one, other in zip(*(task.words(task.tokens(list(prompts))) for prompts in (old, new)), strict=True):
        for i, ends in enumerate(zip(one.end.tolist(), other.end.tolist(), strict=True)):
            for where, words, span in zip(found, (one, other), spans(*ends, one.states.shape[1], policy), strict=True):
                where.append(words.states[i, span])
    return torch.cat(found[0]), torch.cat(found[1])


def spans(old: int, new: int, length: int, policy: str) -> tuple[slice, slice]:
    """The tokens that the policy names of two prompts of `length` tokens whose first end tokens stand at `old` and `new`."""
    if policy == "all":
        return slice(None), slice(None)
    if policy == "eos":
        return slice(old, old + 1), slice(new, new + 1)
    first, other = max(old - 1, 0), max(new - 1, 0)   # the last word; of an empty prompt the start token, or the end token
    width = 1 if policy == "last_subject" else length - max(old, new) + 1   # else to the end of both, cut to equal length
    return slice(first, first + width), slice(other, other + width)

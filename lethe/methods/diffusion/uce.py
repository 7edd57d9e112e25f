"""UCE: rewrite how the network reads the concept's words, by solving for new attention weights without training. Gandikota et
al. 2024, arXiv:2308.14761.

    W = argmin_W  a Σ_i ‖W c_i − W_0 g_i‖² + b Σ_j ‖W k_j − W_0 k_j‖² + λ ‖W − W_0‖²_F
      = W_0 · (λI + a Σ g_i c_iᵀ + b Σ k_j k_jᵀ) · (λI + a Σ c_i c_iᵀ + b Σ k_j k_jᵀ)⁻¹

for every W_0 of attn2.to_k and attn2.to_v; c_i text states of prompts with the concept, g_i those of the guide that
takes their place (or of the prompts with the concept's replacement), k_j those of prompts to be preserved; a, b, λ > 0 weights.
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

from lethe.core.config import NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.maths.linear_edit import uce_map
from lethe.maths.text_states import Policy
from lethe.train.erasing import require_one_place
from lethe.train.loop import Loop
from lethe.train.projections import Projections


@config
class UCE:
    """Options of UCE."""

    guide: str = ""                   # the prompt that takes the concept's place [e.g. art] [official code: " ", "art"]
    preserve: bool = True             # hold the task's "keep" prompts in place         [official code]
    erase_scale: NonNegative = 1.0    # a; larger erases more                           [official code]
    preserve_scale: NonNegative = 1.0  # b; larger keeps more                           [official code]
    lamb: Positive = 0.5              # λ; larger changes less                          [official code]
    tokens: Policy = "last_subject"   # states used [official code]


def check(cfg: UCE, task: DiffusionTask) -> None:
    """RequestError where guide and a replacement both say what takes the concept's place."""
    require_one_place("guide", cfg.guide, task)


@method(needs={"original"}, uses={"attention_projections", "concepts", "prompts", "rest", "tokens", "words"},
        mechanism="closed form", check=check)
def run(cfg: UCE, task: DiffusionTask, loop: Loop) -> Outcome:
    edit = Projections.of(task, loop, adapters=True)
    forget = task.prompts["forget"]
    erase, guide = edit.states(forget, edit.guides(cfg.guide), cfg.tokens)
    keep = task.prompts.get("keep", []) if cfg.preserve else []
    kept = edit.states(keep, keep, cfg.tokens)[0] if keep else erase[:0]
    edit.multiply(uce_map(erase, guide, kept, cfg.erase_scale, cfg.preserve_scale, cfg.lamb))
    loop.notes.append(edit.told)
    return loop.finish(edit.model)

"""Key Space Detection: a prompt whose keys in an MLP lie in the box of a forgotten skill is refused; the weights stay.
Li, Yuan, Wang & Weng (2025), "Effective Skill Unlearning through Intervention and Abstention", arXiv:2503.21730 (NAACL 2025).

    refuse x  ⟺  max_j |κ_j(x) − m_j| / s_j ≤ γ · c,     c = max_{x_f ∈ F} max_j |κ_j(x_f) − m_j| / s_j

κ(x) the key of block ℓ at the last token of the prompt (what the matrix that writes the MLP's result reads), m and s the mean and
standard deviation of κ over F, F prompts of the forgotten skill, c the smallest box around all of them, γ > 0 its scale.
Needs:    forget, original; retain where γ is left open; prompts.     Updates: nothing; the outcome is a guard.
Cost:     one forward of the prompts of F (and R) to set up, one of the prompt per answer.
Limits:   γ = 1 refuses every prompt of F; γ → 0 refuses none, γ → ∞ all.
Fails by: single facts in one template: their keys lie where those of retained facts lie, so the box holds both. It detects
          skills, that is kinds of prompts. Another template leaves the box. Whoever holds the weights takes it off (audit:
          `guard`).
Deviations: c is the closed form of the published search. The published γ (0.06 to 2, by skill) were tuned on test prompts; left
          open, γ is the largest at which at most the share α of retained prompts is refused, by conformal threshold. A coordinate
          that is the same for all of F (a dead neuron, s_j = 0) does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.config import Fraction, Natural, Positive, config
from lethe.core.families.language import LanguageTask, prompted
from lethe.core.language_guard import Gate, Prompt, answer_tokens, layer_of, padded, prompts_of, read_by, require_enough
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.maths.conformal import threshold
from lethe.train.loop import Loop


@config
class KeySpace:
    """Options of Key Space Detection."""

    layer: Natural | None = None          # ℓ from 0; null: the last block                                 [official code]
    scale: Positive | None = None         # γ; null: by alpha; published 0.06–2, by skill                  [official code]
    alpha: Fraction = 0.1                 # α, share of retained prompts that may be refused               [ours]
    refusal: str = "I cannot answer that."   # what is said instead [e.g. No.]                             [ours]


def size(keys: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """The smallest multiple of the spread whose box holds a key: max_j |κ_j − m_j| / s_j over s_j > 0.  [n, d], [d], [d] -> [n]

    size([[3, 5]], [1, 5], [2, 0]) = 1: the second coordinate does not count.
    """
    apart = (keys - mean).abs() / spread
    return torch.where(spread > 0, apart, torch.zeros_like(apart)).amax(-1)


def keys(model: nn.Module, layer: str, prompts: Sequence[Prompt]) -> Tensor:
    """What a layer reads at the last token of each prompt.  -> [n, d]"""
    return torch.cat([read_by(model, layer, ids)[torch.arange(len(ids)), last].float() for ids, last in padded(model, prompts)])


class Boxed(Gate):
    """Refuses prompts whose key lies in the box.

    mean, spread  [d] of the keys of the forgotten prompts     limit  γ · c
    """

    mean: Tensor
    spread: Tensor
    limit: float
    matrix: str

    def refused(self, prompts: Sequence[Prompt]) -> list[bool]:
        found: list[bool] = (size(keys(self.model, self.matrix, prompts), self.mean, self.spread) <= self.limit).tolist()
        return found


@method(needs={"forget", "retain", "original"}, uses={"down_projections", "encode", "layer_count"}, mechanism="guard",
        instead={"retain": "scale"}, check=prompted("key_space"))
def run(cfg: KeySpace, task: LanguageTask, loop: Loop) -> Outcome:
    model, matrix = loop.start(), layer_of(task, cfg.layer)
    forgotten = keys(model, matrix, prompts_of(task.forget))
    parts: dict[str, Any] = {"mean": forgotten.mean(0), "spread": forgotten.std(0, correction=0)}
    own = size(forgotten, **parts)
    limit = float(own.max()) * (cfg.scale or 1.0)
    if cfg.scale is None:
        kept = prompts_of(task.retain)
        require_enough(len(kept), cfg.alpha)
        limit = -threshold(-size(keys(model, matrix, kept), **parts), cfg.alpha) * (1 - 1e-6)   # strictly inside
    loop.note(f"the box is {limit / float(own.max()):.2g} times the smallest one around the forgotten prompts and refuses "
              f"{float((own <= limit).float().mean()):.0%} of them; nothing was removed")
    return loop.finish(model, guard=lambda m: Boxed(m, **parts, limit=limit, matrix=matrix,
                                                    refusal=answer_tokens(task, cfg.refusal)))

"""Weight noise: noise in every weight and nothing else. A control, no eraser: what is gone after it was broken, not forgotten,
and a judge that calls broken pictures erased, as the closed-set ones of UnlearnCanvas may, is exposed by it (Zhang et al. 2024,
arXiv:2402.11846). Our own.

    θ → θ + s · sd(θ_i) · N(0, 1),      θ_i the tensor that a weight stands in

s share, sd over the entries of a tensor, in which one entry alone has no spread.
Needs:    original.     Updates: everything, or what the modifier where chooses.     Cost: none.
Limits:   s = 0 is the original bit for bit; s → ∞ is a network with random weights of each tensor's own spread.
Fails by: taking kept prompts along as soon as it takes the concept: at s = 0.5 both (audit: `erasure`, kept accuracy).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lethe.core.config import NonNegative, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.train.loop import Loop


@config
class WeightNoise:
    """Options of weight noise."""

    share: NonNegative = 0.5   # s, of each tensor's own spread; from about 0.2 on pictures break     [ours]


def noised(weights: Tensor, drawn: Tensor, share: float) -> Tensor:
    """θ + s · sd(θ) · N(0, 1).  [...], [...] -> [...]

    (1, −1) has sd 1: with draws (2, 1) and s = ½ it becomes (2, −½). One entry, of sd 0, stays.
    """
    spread = weights.float().std(correction=0)
    return weights + (share * spread * drawn.to(spread)).to(weights.dtype)


@method(needs={"original"}, uses={"prompts"}, mechanism="noise")
def run(cfg: WeightNoise, task: DiffusionTask, loop: Loop) -> Outcome:
    model, rng = loop.start(), loop.generator("weight_noise")
    moving = loop.selected(model)
    with torch.no_grad():
        loop.assign(model, {name: noised(p, torch.randn(p.shape, generator=rng), cfg.share) for name, p in moving.items()})
    return loop.finish(model)

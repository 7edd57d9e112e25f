"""weigh: how much does each example count? A member's `weights(losses, term)` returns [n] weights with mean 1, constant
for the gradient, or None when all count the same. The mean is taken over what is seen at once: a batch, or a piece of
it when batches are cut (`accumulate`) or shared among processes."""

from __future__ import annotations

import torch
from torch import Tensor

from lethe.core.config import NonNegative, Positive, config


@config
class Uniform:
    """Every example counts the same."""

    def weights(self, losses: Tensor, term: str) -> None:
        return None


@config
class Loss:
    """Weight ∝ 1/|loss|^power within a batch of the named term: what is not forgotten yet is pushed harder.

    The adaptive coefficient of SFRon (Huang et al. 2024, arXiv:2409.19732); the idea of LoReUn (arXiv:2507.22499).
    """

    power: NonNegative = 0.5    # 0 is uniform                                          [SFRon official code: 0.5]
    term: str = "forget"        # the term that is weighed
    floor: Positive = 1e-15     # added to |loss|^power                                 [SFRon official code]

    def weights(self, losses: Tensor, term: str) -> Tensor | None:
        if term != self.term:
            return None
        raw = 1.0 / (losses.detach().abs().float() ** self.power + self.floor)
        return raw * (len(raw) / raw.sum())


@config
class Exponential:
    """Weight ∝ exp(−loss/τ) within a batch of the named term: what is not forgotten yet is pushed harder. The dynamic form of
    LoReUn (Wang et al. 2025), arXiv:2507.22499, after public summaries; `uniform` and `loss` are the others of the family.

    Measured: digits CNN, 3 seeds. NegGrad+ on 134 memorised wrong labels: accuracy on F 11 % and distance to retraining (mean
    Jensen–Shannon divergence) 0.13 without weights, 31 % and 0.29 with these, 63 % and 0.52 with `loss` (power 0.5). Gradient
    ascent on a class: 6 % and 0.22, 6 % and 0.21, 95 % and 0.85. The least loss has the least gradient on a fitted model, so
    the weight goes where ascent moves nothing; a stronger forget term (`beta`, `lr`) has to answer it.
    """

    temperature: Positive = 1.0
    term: str = "forget"

    def weights(self, losses: Tensor, term: str) -> Tensor | None:
        if term != self.term:
            return None
        return torch.softmax(-losses.detach().abs().float() / self.temperature, 0) * len(losses)

"""Weight ∝ exp(−loss/τ) within a batch of the named term: what is not forgotten yet is pushed harder. The dynamic form of
LoReUn (Wang et al. 2025), arXiv:2507.22499, after public summaries; `uniform` and `loss` are the others of the family.

Measured: digits CNN, 3 seeds. NegGrad+ on 134 memorised wrong labels: accuracy on F 11 % and distance to retraining (mean
Jensen–Shannon divergence) 0.13 without weights, 31 % and 0.29 with these, 63 % and 0.52 with `loss` (power 0.5). Gradient
ascent on a class: 6 % and 0.22, 6 % and 0.21, 95 % and 0.85. The least loss has the least gradient on a fitted model, so
the weight goes where ascent moves nothing; a stronger forget term (`beta`, `lr`) has to answer it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lethe.core.config import Positive, config


@config
class Exponential:
    temperature: Positive = 1.0 # τ; smaller is closer to the least-forgotten example alone   [ours]
    term: str = "forget"        # the term that is weighed

    def weights(self, losses: Tensor, term: str) -> Tensor | None:
        if term != self.term:
            return None
        return torch.softmax(-losses.detach().abs().float() / self.temperature, 0) * len(losses)

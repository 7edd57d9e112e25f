"""Weight ∝ exp(−loss/τ) within a batch of the named term: what is not forgotten yet is pushed harder. The dynamic form of
LoReUn (Wang et al. 2025), arXiv:2507.22499, after public summaries; `uniform` and `loss` are the others of the family.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lethe.core.config import Positive, config


@config
class Exponential:
    temperature: Positive = 1.0 # τ; smaller is closer to the least-forgotten example alone   [ours]
    term: str = "forget"        # the term that is weighed [e.g. retain]

    def weights(self, losses: Tensor, term: str) -> Tensor | None:
        if term != self.term:
            return None
        return torch.softmax(-losses.detach().abs().float() / self.temperature, 0) * len(losses)

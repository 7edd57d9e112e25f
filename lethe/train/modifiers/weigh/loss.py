"""Weight ∝ 1/|loss|^power within a batch of the named term: what is not forgotten yet is pushed harder.

The adaptive coefficient of SFRon (Huang et al. 2024, arXiv:2409.19732); the idea of LoReUn (arXiv:2507.22499).
"""

from __future__ import annotations

from torch import Tensor

from lethe.core.config import NonNegative, Positive, config


@config
class Loss:
    power: NonNegative = 0.5    # 0 is uniform                                          [SFRon official code: 0.5]
    term: str = "forget"        # the term that is weighed [e.g. retain]
    floor: Positive = 1e-15     # added to |loss|^power                                 [SFRon official code]

    def weights(self, losses: Tensor, term: str) -> Tensor | None:
        if term != self.term:
            return None
        raw = 1.0 / (losses.detach().abs().float() ** self.power + self.floor)
        return raw * (len(raw) / raw.sum())

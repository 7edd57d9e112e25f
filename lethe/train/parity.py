"""`parity: open_unlearning`: the means that the official codes take, so that numbers published with them can be compared.

    mean over the tokens of a batch   Σ_i |y_i|·ℓ_i / Σ_i |y_i|   in place of   1/n · Σ_i ℓ_i

ℓ_i a mean over the |y_i| tokens of an answer. Long answers weigh more, and an example's weight depends on its batch. Dorna et al.
(2025), arXiv:2506.12618.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from lethe.core.config import Parity
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.maths.answers import token_shares
from lethe.train.terms import Loss, Term


def term(parity: Parity, split: Split, loss: Loss, weight: float = 1.0, skip: int = 0) -> Term:
    """A term whose loss is a mean over each answer's tokens but the first `skip`: joined as `parity` says."""
    if parity == "none":
        return Term(split, loss, weight)
    if "labels" not in split.columns:
        raise RequestError(f"method.parity = {parity!r} weighs examples by the number of their tokens, and {split.name} holds no "
                           "texts, so nothing was started. Leave it out.")
    return Term(split, lambda model, batch: loss(model, batch) * batch.share, weight, prepare=_shared(skip))


def _shared(skip: int) -> Callable[[Batch, torch.Generator], Batch]:
    """Every example of a batch with its share, before the batch is cut."""
    return lambda batch, _: batch.replace(share=token_shares(batch.labels, skip))

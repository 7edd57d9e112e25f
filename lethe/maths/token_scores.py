"""Membership scores of texts from the log-probabilities of their tokens. All arrays [n, T]; a higher score is more member-like.

`logp` log p(x_t | x_<t); `mean` and `var` mean and variance of log p(v | x_<t) under v ~ p; `inside` which tokens count. One
forward pass gives them, so every score is a function of it. A text without tokens that count scores NaN.

LOSS: Yeom et al. 2018, arXiv:1709.01604. zlib: Carlini et al. 2021, arXiv:2012.07805. Min-K %: Shi et al. 2023,
arXiv:2310.16789. Min-K %++: Zhang et al. 2024, arXiv:2404.02936. PrivLeak: Shi et al. 2024, arXiv:2407.06460 (MUSE).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

Array = np.ndarray
FLOOR = 1e-6   # smallest variance in Min-K %++: a uniform or a certain prediction has none


def mean_logp(logp: Array, inside: Array) -> Array:
    """Mean over the tokens that count: LOSS with its sign turned.  [n, T], [n, T] -> [n]"""
    count = inside.sum(1)
    return np.where(count > 0, np.where(inside, logp, 0.0).sum(1) / np.maximum(count, 1), np.nan)


def min_k(values: Array, inside: Array, share: float) -> Array:
    """Mean of the max(1, ⌊share·L⌋) smallest of the L values that count.  [n, T], [n, T] -> [n]

    A memorised text has no surprising tokens, even where most texts have some.
    """
    ordered = np.sort(np.where(inside, values, np.inf), 1)
    length = inside.sum(1)
    count = np.maximum(1, np.floor(share * length + 1e-9).astype(int))
    taken = np.arange(values.shape[1]) < count[:, None]
    return np.where(length > 0, np.where(taken & np.isfinite(ordered), ordered, 0.0).sum(1) / count, np.nan)


def reference_min_k(values: Sequence[float], share: float) -> float:
    """The same for one text, as the papers write it."""
    lowest = sorted(values)[: max(1, int(share * len(values)))]
    return sum(lowest) / len(lowest)


def standardised(logp: Array, mean: Array, var: Array) -> Array:
    """(log p(x_t) − μ_t) / σ_t: how likely the token is beside the other tokens of the vocabulary.  [n, T] × 3 -> [n, T]"""
    scores: Array = (logp - mean) / np.sqrt(np.maximum(var, FLOOR))
    return scores


def zlib_score(score: Array, texts: Sequence[str]) -> Array:
    """Mean log-probability over the bytes of the compressed text: what is easy to compress is no evidence.  [n] -> [n]"""
    scores: Array = score / np.array([len(zlib.compress(text.encode())) for text in texts])
    return scores


def privleak(area: float, retrained: float) -> float:
    """MUSE's PrivLeak in per cent from the AUCs P(forget scores higher than holdout) of Min-40 %.

    100·(a − a_r)/a_r with a = 1 − AUC: MUSE labels holdout texts as positive. 0 is ideal; −100 memorised; above 0 the forget
    set is less likely than unseen texts. A retrained AUC of 1 has no PrivLeak (NaN).
    """
    flipped = 1 - retrained
    return 100 * ((1 - area) - flipped) / flipped if flipped > 0 else float("nan")


def s_mia(area: float, retrained: float) -> float:
    """clip(1 − |AUC − AUC_r| / AUC_r, 0, 1): 1 where the attack does as well as on a retrained model."""
    return float(np.clip(1 - abs(area - retrained) / retrained, 0, 1)) if retrained > 0 else float("nan")

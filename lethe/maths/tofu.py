"""TOFU's metrics as pure functions of arrays. Maini, Feng, Schwarzschild, Lipton & Kolter (2024), arXiv:2401.06121.

ℓ(a) is the mean negative log-likelihood of answer a per token, end token included, given its question; exp(−ℓ(a)) is
the length-normalised probability P(a|q)^{1/|a|}. ã is the paraphrased answer (the answer itself where none was
written), â_k the perturbed (wrong) ones. Losses are arrays: [n] for one answer per question, [n, k] for k of them.

The truth ratio exists in two versions that give different numbers: the mean of probabilities (paper) and the
exponential of the mean loss (the logs published with the official code, and OpenUnlearning, arXiv:2506.12618).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lethe.maths.porter import stem

Array = np.ndarray


def probability(loss: Array) -> Array:
    """exp(−ℓ): the length-normalised probability of the answer.  [n] -> [n]"""
    return np.exp(-np.asarray(loss, dtype=np.float64))


def option_probability(loss: Array, wrong: Array) -> Array:
    """P(a) / (P(a) + Σ_k P(â_k)): how much of the options' probability the right one holds.  [n], [n, k] -> [n]

    With length-normalised probabilities, as in the official code; the paper's text has them unnormalised.
    """
    scores = -np.concatenate([np.asarray(loss, dtype=np.float64)[:, None], np.asarray(wrong, dtype=np.float64)], 1)
    share: Array = np.exp(scores[:, 0] - np.logaddexp.reduce(scores, 1))
    return share


def truth_ratio(paraphrased: Array, wrong: Array) -> Array:
    """R = mean_k exp(−ℓ(â_k)) / exp(−ℓ(ã)): the paper's definition.  [n], [n, k] -> [n]

    Below 1 the truth is likelier than the falsehoods; a model that knows nothing has about 1.
    """
    wrong = np.asarray(wrong, dtype=np.float64)
    log_mean = np.logaddexp.reduce(-wrong, 1) - math.log(wrong.shape[1])
    ratio: Array = np.exp(log_mean + np.asarray(paraphrased, dtype=np.float64))
    return ratio


def truth_ratio_geometric(paraphrased: Array, wrong: Array) -> Array:
    """R = exp(ℓ(ã) − mean_k ℓ(â_k)): the geometric mean of the probabilities; never above `truth_ratio`.  -> [n]"""
    ratio: Array = np.exp(np.asarray(paraphrased, dtype=np.float64) - np.asarray(wrong, dtype=np.float64).mean(1))
    return ratio


def truthfulness(ratio: Array) -> Array:
    """max(0, 1 − R): the truth ratio as it enters model utility; 1 is surely true.  [n] -> [n]"""
    return np.maximum(0.0, 1.0 - ratio)


def indifference(ratio: Array) -> Array:
    """min(R, 1/R): the truth ratio as reported on the forget set; 1 prefers neither truth nor falsehood.  [n] -> [n]"""
    with np.errstate(divide="ignore"):
        smaller: Array = np.minimum(ratio, 1.0 / ratio)
        return smaller


def model_utility(terms: Sequence[float]) -> float:
    """Harmonic mean of the terms; 0 as soon as one of them is 0.

    TOFU's has nine: {retain, real authors, world facts} × {probability, ROUGE-L recall, truthfulness}.
    """
    values = np.asarray(terms, dtype=np.float64)
    return float(len(values) / (1.0 / values).sum()) if (values > 0).all() else 0.0


def model_utility_interval(samples: Sequence[Array], level: float = 0.95) -> tuple[float, float, float]:
    """(low, utility, high) from per-example terms, one array [n, terms] per data set; delta method.

    With H = K/Σ 1/m_j, ∂H/∂m_j = H²/(K·m_j²); the terms of one example are correlated, so the variance is that of their
    weighted sum. A utility of 0 has no interval but (0, 0).
    """
    from scipy.stats import norm

    means = [np.asarray(sample, dtype=np.float64).mean(0) for sample in samples]
    value = model_utility(np.concatenate(means).tolist())
    if value == 0.0:
        return 0.0, 0.0, 0.0
    count = sum(map(len, means))
    effects = [(sample * (value**2 / (count * mean**2))).sum(1) for sample, mean in zip(samples, means, strict=True)]
    half = float(norm.ppf((1 + level) / 2)) * math.sqrt(sum(float(e.var(ddof=1)) / len(e) for e in effects))
    return max(0.0, value - half), value, min(1.0, value + half)


@dataclass(frozen=True)
class ForgetQuality:
    """Two-sample Kolmogorov–Smirnov test. p falls with the sample size, the statistic does not.

    margin  the statistic is that of the populations within ± margin with 95 % probability (at least: the Dvoretzky–
            Kiefer–Wolfowitz bound holds for independent samples, those of one set of questions are closer)
    """

    p: float
    log10_p: float
    statistic: float
    margin: float


def forget_quality(ratio: Array, retrained: Array) -> ForgetQuality:
    """Whether two models' truth ratios on the forget set come from one distribution.  [n], [m] -> p, log10 p, D

    Any monotone transform of R (1/R, log R) gives the same result. Exact p; where it underflows float64, log10 p is
    that of the asymptotic tail 2·exp(−2·D²·nm/(n+m)).
    """
    from scipy.stats import ks_2samp

    found = ks_2samp(ratio, retrained)
    p, d = float(found.pvalue), float(found.statistic)
    effective = len(ratio) * len(retrained) / (len(ratio) + len(retrained))
    tail = (math.log(2) - 2 * d * d * effective) / math.log(10)
    return ForgetQuality(p, math.log10(p) if p > 0 else tail, d, math.sqrt(math.log(2 / 0.05) / (2 * effective)))


def words(text: str) -> list[str]:
    """Lower-case runs of a–z and 0–9: the tokens of ROUGE. Not stemmed."""
    return re.findall(r"[a-z0-9]+", text.lower())


def rouge_l_recall(answer: str, truth: str, stemmed: bool = False) -> float:
    """Length of the longest common subsequence of words over the number of words of `truth`; 0 when that has none.

    stemmed: words of four letters and more by Porter's rules, as TOFU's published values are. Over its eight published logs
    (557–817 answers each) values without are equal for 90–99 % of the answers, never above, and 0.001–0.005 lower in the mean.
    """
    produced, true = ([stem(word) if stemmed and len(word) > 3 else word for word in words(text)] for text in (answer, truth))
    return common_subsequence(produced, true) / len(true) if true else 0.0


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence, one big-integer operation per word (Hyyrö 2004, bit-parallel)."""
    places: dict[str, int] = {}
    for i, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << i
    every = (1 << len(left)) - 1
    row = every                      # bit i is 0 where the length grows at left[i]
    for word in right:
        hit = row & places.get(word, 0)
        row = (row + hit | row - hit) & every
    return len(left) - row.bit_count()


def reference_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """The textbook table."""
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]

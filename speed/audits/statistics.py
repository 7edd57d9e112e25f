"""The statistics of audits against plain formulations: one example, one threshold or all pairs at a time.

Both sides must give the same numbers, which is asserted before anything is timed.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from lethe.audits.distance.divergence import activation_distance, reference_activation_distance
from lethe.audits.distance.klom import binned_kl
from lethe.audits.membership.rmia import reference_rmia_scores, reference_tune_offline_a, rmia_scores, tune_offline_a
from lethe.maths.epsilon import all_bounds, reference_all_bounds
from lethe.maths.membership import log_ratio
from speed.common import measure, save, timed

REPEATS = 5


def rmia() -> None:
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=20_000), rng.normal(size=5_000)
    assert np.array_equal(rmia_scores(x, z), reference_rmia_scores(x, z))
    p_x, p_z = np.exp(x), np.exp(z)
    save(measure("audits.statistics.rmia", timed(lambda: rmia_scores(x, z)),
                 timed(lambda: (p_x[:, None] / p_z[None, :] >= 1.0).mean(1)), REPEATS, at_least=50,
                 what="RMIA scores of 20 000 examples against 5 000 of the population, sorted",
                 against="the matrix of the ratios of all pairs"))
    log_x, log_z = np.log(rng.uniform(0.05, 1, (8, 10_000))), np.log(rng.uniform(0.05, 1, (8, 2_500)))
    inside = rng.random((8, 10_000)) < 0.5
    assert tune_offline_a(log_x, inside, log_z) == reference_tune_offline_a(log_x, inside, log_z)
    save(measure("audits.statistics.rmia_tuning", timed(lambda: tune_offline_a(log_x, inside, log_z)),
                 timed(lambda: reference_tune_offline_a(log_x, inside, log_z)), 3, at_least=50,
                 what="RMIA's offline parameter tuned over 11 values, 10 000 examples, 2 500 of the population",
                 against="everything computed anew for each value, from matrices of all pairs"))


def klom() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(100, 1000)), rng.normal(0.3, 1.2, (100, 1000))
    assert np.allclose(binned_kl(p, q), plain_klom(p, q))
    save(measure("audits.statistics.klom", timed(lambda: binned_kl(p, q)), timed(lambda: plain_klom(p, q)), REPEATS,
                 at_least=50, what="20-bin KLoM of 1000 examples with 100 models on each side",
                 against="one example at a time (numpy, scipy)"))


def plain_klom(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KLoM example by example: pooled edges, digitised margins, floor, entropy."""
    from scipy.stats import entropy

    found = []
    for a, b in zip(p.T, q.T, strict=True):
        a, b = np.clip(a, -100, 100), np.clip(b, -100, 100)
        edges = np.linspace(min(a.min(), b.min()), max(a.max(), b.max()), 21)
        shares = []
        for side in (a, b):
            place = np.digitize(side, edges) - 1
            counts = np.array([(place == k).sum() for k in range(20)], dtype=float)
            shares.append(counts / counts.sum())
        floored = np.where(shares[0] > 0, np.maximum(shares[1], 1e-5), shares[1])
        found.append(entropy(shares[0], floored))
    return np.array(found)


def activation() -> None:
    rng = torch.Generator().manual_seed(0)
    here, there = torch.randn(5000, 10, generator=rng), torch.randn(1, 5000, 10, generator=rng)
    assert torch.allclose(activation_distance(here, there), reference_activation_distance(here, there))
    save(measure("audits.statistics.activation_distance", timed(lambda: activation_distance(here, there)),
                 timed(lambda: reference_activation_distance(here, there)), REPEATS, at_least=50,
                 what="activation distance of 5 000 examples", against="one example at a time"))


def epsilon() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.normal(0.5, 1, 4000), rng.normal(0, 1, 4000)
    assert np.allclose(all_bounds(members, others)[1], reference_all_bounds(members, others))
    save(measure("audits.statistics.epsilon", timed(lambda: all_bounds(members, others)),
                 timed(lambda: reference_all_bounds(members, others)), 3, at_least=50,
                 what="Clopper–Pearson bounds on ε at all thresholds of 4 000 + 4 000 scores", against="one threshold at a time"))


def lira() -> None:
    rng = np.random.default_rng(0)
    signal, draws = rng.normal(size=20_000), rng.normal(size=(32, 20_000))
    inside = np.arange(32)[:, None] % 2 == (rng.random(20_000) < 0.5)

    def fast() -> np.ndarray:
        return log_ratio(signal, draws, inside, "point")

    assert np.allclose(fast(), plain_lira(signal, draws, inside))
    save(measure("audits.statistics.lira", timed(fast), timed(lambda: plain_lira(signal, draws, inside)), REPEATS,
                 what="LiRA's ratio of 20 000 examples with 32 shadows", against="one example at a time"))


def plain_lira(signal: np.ndarray, draws: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """log N(φ; μ_in, σ_in) − log N(φ; μ_out, σ_out), example by example."""
    found = []
    for i in range(len(signal)):
        sides = []
        for world in (draws[inside[:, i], i], draws[~inside[:, i], i]):
            mean, sd = world.mean(), world.std(ddof=1)
            sides.append(-0.5 * ((signal[i] - mean) / sd) ** 2 - math.log(sd))
        found.append(sides[0] - sides[1])
    return np.array(found)


def main() -> None:
    for part in (rmia, klom, activation, epsilon, lira):
        part()


if __name__ == "__main__":
    main()

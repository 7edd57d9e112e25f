"""ε from errors: the most that so many decisions can prove, known answers, coverage, and what the naive forms get wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm

from lethe.maths.epsilon import (
    Posterior,
    all_bounds,
    best_of_all,
    best_rule,
    bonferroni_bound,
    fdp_run_bound,
    gdp_bound,
    gdp_epsilon,
    highest_rate,
    implied,
    one_run_bound,
    one_run_p,
    rates_bound,
    reference_all_bounds,
    split_bound,
)

SIZES = (100, 500, 1000, 5000)


# -- known answers ------------------------------------------------------------------------------------------------------


def test_no_attack_proves_more_than_its_number_of_decisions_allows():
    """Without errors: u = 1 − 0.025^{1/100} = 0.0362, ln((1 − u)/u) = 3.28; one run: q^100 = 0.05, ln(q/(1 − q)) = 3.49."""
    perfect = [float(rates_bound(0, n, 0, n)) for n in SIZES]
    assert perfect == pytest.approx([3.28, 4.91, 5.60, 7.21], abs=0.005)
    assert [one_run_bound(n, n, n) for n in SIZES] == pytest.approx([3.49, 5.11, 5.81, 7.42], abs=0.005)
    assert one_run_bound(900, 1000, 1000) == pytest.approx(2.02, abs=0.005)
    assert one_run_bound(700, 1000, 1000) == pytest.approx(0.73, abs=0.005)
    assert one_run_bound(500, 1000, 1000) == 0


def test_implied_epsilon_golden():
    assert float(implied(0.1, 0.3)) == pytest.approx(math.log(0.7 / 0.1))     # the larger of ln(0.9/0.3) and ln(0.7/0.1)
    assert float(implied(0.1, 0.3, 0.2)) == pytest.approx(math.log(0.5 / 0.1))
    assert implied([0.6, 0.5, 0.0], [0.6, 0.5, 0.2]).tolist() == [0, 0, math.inf]


@pytest.mark.parametrize("errors, n", [(0, 20), (3, 20), (20, 20), (150, 400)])
def test_clopper_pearson_is_that_of_scipy(errors, n):
    expected = binomtest(errors, n).proportion_ci(0.95, "exact").high
    assert float(highest_rate(errors, n, 0.975)) == pytest.approx(expected, abs=1e-12)


def test_one_run_with_delta_is_the_sum_written_out():
    m, r, v, delta, eps = 40, 12, 9, 1e-3, 0.5
    q = math.exp(eps) / (1 + math.exp(eps))
    tails = [sum(binom.pmf(k, r, q) for k in range(v - i, v)) / i for i in range(1, v + 1)]
    expected = sum(binom.pmf(k, r, q) for k in range(v, r + 1)) + 2 * m * delta * max(tails)
    assert one_run_p(eps, v, r, m, delta) == pytest.approx(expected)
    assert one_run_bound(60, 60, 300, 1e-5) < one_run_bound(60, 60, 300)
    at = one_run_bound(60, 60, 300, 1e-5)
    assert one_run_p(at, 60, 60, 300, 1e-5) == pytest.approx(0.05, abs=1e-6)


def test_gaussian_dp_golden():
    """δ(1) of μ = 1 is Φ(−½) − e·Φ(−1.5) = 0.3085 − 0.1816 = 0.1269."""
    assert gdp_epsilon(1.0, norm.cdf(-0.5) - math.e * norm.cdf(-1.5)) == pytest.approx(1.0, abs=1e-6)
    assert gdp_epsilon(0.0, 1e-5) == 0 and gdp_epsilon(1e-3, 0.1) == 0
    mu, eps = gdp_bound(100, 1000, 200, 1000, 1e-5)
    rates = [float(highest_rate(k, 1000, 0.975)) for k in (100, 200)]
    assert mu == pytest.approx(norm.ppf(1 - rates[0]) - norm.ppf(rates[1])) and eps == gdp_epsilon(mu, 1e-5)
    assert eps > float(rates_bound(100, 1000, 200, 1000, 1e-5))       # tighter where the mechanism is Gaussian


def reference_fdp(right, guesses, canaries, mu, level=0.95):
    """Whether μ is refuted, by the recursion in plain steps."""
    r, h = (1 - level) * right / canaries, (1 - level) * (guesses - right) / canaries
    for i in range(right - 1, -1, -1):
        new = max(h, norm.cdf(norm.ppf(r) - mu))
        r, h = r + i / (guesses - i) * (new - h), new
    return r + h > guesses / canaries


def test_f_dp_in_one_run():
    mu, eps = fdp_run_bound(90, 100, 100, 1e-5)
    assert reference_fdp(90, 100, 100, mu - 1e-3) and not reference_fdp(90, 100, 100, mu + 1e-3)
    assert eps == gdp_epsilon(mu, 1e-5) > one_run_bound(90, 100, 100, 1e-5)
    assert fdp_run_bound(50, 100, 100, 1e-5) == (0.0, 0.0)


# -- Bayes --------------------------------------------------------------------------------------------------------------


def test_posterior_of_the_published_example():
    """487 hits, 1 true negative, 512 false alarms, no miss, δ = 1e-5, 90 %: published [0.145, 6.399] at tolerance 0.01."""
    assert Posterior(487, 0, 512, 1, 1e-5).interval() == pytest.approx((0.144, 6.416), abs=5e-4)
    assert Posterior(487, 0, 512, 1, 1e-5).interval() == pytest.approx((0.145, 6.399), abs=0.02)


@pytest.mark.parametrize("counts", [(487, 0, 512, 1), (350, 150, 150, 350), (90, 10, 20, 80), (5, 0, 0, 5)])
def test_posterior_by_quadrature_is_that_by_simulation(counts):
    posterior = Posterior(*counts, 1e-5)
    draws = posterior.draws(1_000_000, np.random.default_rng(0))
    for p in (0.05, 0.5, 0.95):
        at = posterior.quantile(p)
        assert (draws <= at).mean() == pytest.approx(p, abs=0.002)    # standard error 0.0005
    low, high = posterior.interval()
    if high < 5:
        assert np.quantile(draws, [0.05, 0.95]) == pytest.approx([low, high], abs=0.01)


def test_posterior_ends():
    """At chance the rates may err either way, so only a little of the posterior is exactly at 0; δ makes room for it."""
    assert Posterior(50, 50, 50, 50, 0.2).interval()[0] == 0
    assert Posterior(50, 50, 50, 50).interval()[0] < 0.02
    assert Posterior(10**6, 0, 0, 10**6).quantile(0.9) < math.inf and Posterior(0, 0, 0, 0).interval()[1] < math.inf


# -- coverage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_coverage_on_randomised_response(true):
    """The answer is the truth with probability e^ε/(1 + e^ε): FPR = FNR = 1/(1 + e^ε). 400 audits of 500 a side."""
    rng, n = np.random.default_rng(int(10 * true)), 500
    fp, fn = rng.binomial(n, 1 / (1 + math.exp(true)), (2, 400))
    assert (rates_bound(fp, n, fn, n) <= true).mean() >= 0.95
    right = 2 * n - fp - fn
    assert np.mean([one_run_bound(int(v), 2 * n, 2 * n) <= true for v in right]) >= 0.93   # 95 % ± 1.1 %


def bayesian_coverage(fpr: float, fnr: float, n: int = 500, count: int = 300) -> float:
    """How often the 95 % lower end of the posterior is below the ε of these rates."""
    rng, true = np.random.default_rng(1), float(implied(fpr, fnr))
    fp, fn = rng.binomial(n, fpr, count), rng.binomial(n, fnr, count)
    return float(np.mean([Posterior(n - b, b, a, n - a).quantile(0.05) <= true for a, b in zip(fp, fn, strict=True)]))


@pytest.mark.slow
def test_a_credible_end_is_no_confidence_bound_where_both_rates_count():
    """Where one rate decides, 95 % are below; on randomised response the larger of two noisy ends is taken."""
    one_sided = bayesian_coverage(0.05, 0.95 * math.exp(-1))
    corner = [bayesian_coverage(1 / (1 + math.exp(e)), 1 / (1 + math.exp(e))) for e in (0.5, 1.0, 3.0)]
    print(one_sided, corner)
    assert one_sided >= 0.93 and min(corner) > 0.78 and max(corner) < 0.945


def laplace_audits(n: int, count: int, bound) -> float:
    """Share of audits of a Laplace mechanism with ε = 1 whose bound exceeds 1."""
    rng = np.random.default_rng(n + 1)
    return float(np.mean([bound(rng.laplace(1, 1, n), rng.laplace(0, 1, n)) > 1 for _ in range(count)]))


@pytest.mark.slow
def test_best_of_all_thresholds_is_no_bound_and_ours_are():
    """500 scores a side; the naive form exceeds ε in 7.7 % of 3000 audits (standard error of 800: 0.9 %)."""
    assert laplace_audits(500, 800, best_of_all) > 0.06
    rng = np.random.default_rng(0)
    assert laplace_audits(500, 400, lambda x, y: split_bound(x, y, rng)) <= 0.05
    assert laplace_audits(500, 400, bonferroni_bound) <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("n, at_least", [(2000, 0.07), (10_000, 0.08)])
def test_best_of_all_thresholds_gets_worse_with_more_scores(n, at_least):
    """9.2 % of 1200 audits and 12.3 % of 300; here 400 (standard error 1.5 %)."""
    naive, ours = laplace_audits(n, 400, best_of_all), laplace_audits(n, 400, bonferroni_bound)
    print(n, naive, ours)
    assert naive > at_least and ours <= 0.02


@pytest.mark.parametrize("m, at_least", [(100, 0.22), (1000, 0.36)])
def test_one_run_maximised_over_its_guesses_is_no_bound(m, at_least):
    """Scores that know nothing, the best of 25 guess counts a side; ours fixes k = m/10."""
    rng, k, naive, ours, audits = np.random.default_rng(m), m // 10, 0, 0, 1000
    counts = np.unique(np.linspace(1, m // 2, 25).astype(int))
    for _ in range(audits):
        coins = rng.random(m) < 0.5                     # sorted by score, which is independent of them
        right = coins.cumsum()[counts - 1][:, None] + (~coins[::-1]).cumsum()[counts - 1]
        naive += (binom.sf(right - 1, counts[:, None] + counts, 0.5) < 0.05).any()
        ours += one_run_bound(int(coins[:k].sum() + (~coins[-k:]).sum()), 2 * k, m) > 0
    print(m, naive / audits, ours / audits)
    assert naive / audits > at_least and ours / audits <= 0.064    # 5 % and two standard errors


# -- thresholds ---------------------------------------------------------------------------------------------------------


def test_vectorised_thresholds_are_those_of_the_loop():
    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 1, 60).round(1), rng.normal(0, 1, 90).round(1)      # with ties
    assert all_bounds(x, y, 1e-3)[1] == pytest.approx(reference_all_bounds(x, y, 1e-3), abs=1e-9)


def test_the_rule_turns_round_with_the_scores():
    rng = np.random.default_rng(1)
    x, y = rng.normal(3, 1, 200), rng.normal(0, 1, 200)
    ahead, back = best_rule(x, y), best_rule(-x, -y)
    assert (ahead.sign, back.sign) == (1, -1) and ahead.counts(x, y) == back.counts(-x, -y)
    assert split_bound(x, y, rng) > 1

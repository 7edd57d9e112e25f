"""Gaussian processes with a record in and out: closed forms against refitting, golden numbers, ranks on digits."""

from __future__ import annotations

import numpy as np
import pytest

from lethe.maths.kernels import (
    Kernel,
    Posterior,
    gaussian_kl,
    hidden_by_others,
    linear,
    lood_kl,
    lood_mean,
    lood_set,
    median_width,
    most_telling,
    posterior,
    rbf,
    relu_network,
    targets,
    twins,
)
from lethe.maths.statistics import auc

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 5)), RNG.normal(size=(40, 3))


def refitted(kernel: Kernel, kept: np.ndarray, q: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance at q from the records `kept` alone, written down naively."""
    m = np.linalg.inv(kernel(X[kept], X[kept]) + level * np.eye(len(kept)))
    cross = kernel(q, X[kept])
    return cross @ m @ Y[kept], kernel(q, q) - cross @ m @ cross.T


@pytest.mark.parametrize("kernel", [rbf(2.0), linear, relu_network(3)])
def test_records_taken_out_and_put_in_equal_refitting(kernel: Kernel) -> None:
    fit = posterior(X, Y, kernel, 0.1)
    mean, variance = fit.left_out()
    for i in (0, 17):
        kept = np.delete(np.arange(40), i)
        true, cov = refitted(kernel, kept, X[[i]], fit.noise)
        assert np.allclose(mean[i], true, atol=1e-8) and np.isclose(variance[i], cov[0, 0], atol=1e-8)
        full = refitted(kernel, np.arange(40), X[[i]], fit.noise)
        assert np.isclose(lood_mean(fit)[i], np.linalg.norm(full[0] - true), atol=1e-8)
        noisy = gaussian_kl(true, cov + fit.noise, full[0], full[1] + fit.noise)
        assert np.isclose(lood_kl(fit)[i], noisy, atol=1e-8)
    s, kept = np.arange(6), np.arange(6, 40)
    true, cov = refitted(kernel, kept, X[s], fit.noise)
    assert np.allclose(fit.without(s)[0], true, atol=1e-8) and np.allclose(fit.without(s)[1], cov, atol=1e-8)
    part = posterior(X[kept], Y[kept], kernel, fit.noise / float(np.diag(kernel(X[kept], X[kept])).mean()))
    shift, less = part.added(X[:9], X[s], Y[s])
    whole = refitted(kernel, np.arange(40), X[:9], fit.noise)
    assert np.allclose(part.mean(X[:9]) + shift, whole[0], atol=1e-8)
    assert np.allclose(part.covariance(X[:9], X[:9]) + less, whole[1], atol=1e-8)
    assert np.allclose(lood_set(fit, s), np.linalg.norm(whole[0][:6] - true, axis=1), atol=1e-8)


def test_golden_numbers() -> None:
    assert gaussian_kl(np.array([[1.0]]), np.eye(1), np.array([[0.0]]), 2 * np.eye(1)) == pytest.approx(
        0.5 * (np.log(2) - 1 + 0.5 + 0.5))
    one = posterior(np.zeros((1, 1)), np.ones((1, 1)), rbf(1.0), 1.0)   # k = 1, σ² = 1: μ = ½, without it 0
    assert lood_mean(one)[0] == pytest.approx(0.5)
    flat = relu_network(1, bias=0.0)
    assert flat(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))[0, 0] == pytest.approx(0.5 / np.pi)   # θ = π/2, s = ½
    assert flat(np.array([[2.0, 0.0]]), np.array([[2.0, 0.0]]))[0, 0] == pytest.approx(2.0)            # variance is kept
    assert targets(np.array([1]), 4).tolist() == [[-0.25, 0.75, -0.25, -0.25]]


def digits(seed: int, n: int = 500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))[:n]
    x, y = x[order] / 16, y[order].copy()
    wrong = rng.permutation(n)[: n // 10]
    y[wrong] = (y[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return x, y, np.isin(np.arange(n), wrong)


def fitted(x: np.ndarray, y: np.ndarray) -> Posterior:
    return posterior(x, targets(y, 10), rbf(median_width(x)), 0.1)


@pytest.mark.parametrize("seed", range(3))
def test_wrong_labels_show_most(seed: int) -> None:
    x, y, wrong = digits(seed)
    fit = fitted(x, y)
    assert auc(lood_mean(fit)[wrong], lood_mean(fit)[~wrong]) >= 0.95 and auc(lood_kl(fit)[wrong], lood_kl(fit)[~wrong]) >= 0.95


def test_two_equal_records_hide_each_other() -> None:
    """Measured: with its twin there, a wrong label alone shows 0.51 times as much as before, both together 1.5 times."""
    x, y, wrong = digits(0)
    some = np.flatnonzero(wrong)[:10]
    before = lood_mean(fitted(x, y))[some]
    both = fitted(np.concatenate([x, x[some]]), np.concatenate([y, y[some]]))
    single = lood_mean(both)[some]
    pairs = [np.array([i, 500 + k]) for k, i in enumerate(some)]
    joint = np.array([lood_set(both, pair)[0] for pair in pairs])
    ratio = np.array([hidden_by_others(both, pair)[0] for pair in pairs])
    assert np.median(single / before) < 0.6 and np.median(joint / before) > 1.3 and np.allclose(ratio, joint / single)
    assert twins(x[some], x[some], rbf(1.0)).all() and not twins(x[some], x[~wrong][:100], rbf(median_width(x))).any()


def test_the_most_telling_query_lies_along_the_record() -> None:
    rng = np.random.default_rng(1)
    fit = posterior(rng.normal(size=(3, 8)) * 0.1, rng.normal(size=(3, 1)), linear, 1.0)
    s = rng.normal(size=8)
    found = most_telling(fit, s, np.ones(1) * 3, rng.normal(size=8))
    assert abs(s @ found) / np.linalg.norm(s) / np.linalg.norm(found) >= 0.8

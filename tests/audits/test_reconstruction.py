"""Reconstruction: closed forms, digits rebuilt from the difference of two heads."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from panels import values

from lethe.core.catalogue import load
from lethe.data.select import Where
from lethe.pools.subject import Subject

reconstruction = load("audits", "reconstruction")
from lethe.audits.recovery.reconstruction import centred_cosine, cosine, reconstruct, second_moment  # noqa: E402


def deleted(x: np.ndarray, y: np.ndarray, i: int, penalty: float) -> np.ndarray:
    """W_o − W_u of ridge regression when row i is deleted."""
    gram = x.T @ x + penalty * np.eye(x.shape[1])
    before = np.linalg.solve(gram, x.T @ y)
    return before - np.linalg.solve(gram - np.outer(x[i], x[i]), x.T @ y - np.outer(x[i], y[i]))


def test_exact_second_moment_gives_the_example_back():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 6)), np.eye(3)[rng.integers(0, 3, 50)]
    for i in range(10):
        rest = np.delete(x, i, 0)
        rebuilt, _ = reconstruct(deleted(x, y, i, 0.0), rest.T @ rest, x[i])
        assert cosine(rebuilt, x[i]) == pytest.approx(1)


def test_centred_cosine_golden():
    public = np.array([[3.0, 4.0], [5.0, 0.0]])    # mean (4, 2), lengths 5 and 5
    # rebuilt (0, 1) -> (0, 5): minus the mean (−4, 3); truth (8, 5) minus the mean (4, 3): (−16 + 9)/25
    assert centred_cosine(np.array([0.0, 1.0]), np.array([8.0, 5.0]), public) == pytest.approx(-7 / 25)


def test_digits_are_rebuilt_from_the_difference_and_noise_stops_it():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    x, labels = pixels[order] / 16, labels[order]
    train, public, y = x[:1000], x[1000:], np.eye(10)[labels[:1000]]
    moment, rows, rng = second_moment(public, 1e-3), range(40), np.random.default_rng(1)

    def rebuilt(noise: float) -> tuple[float, float]:
        found = [reconstruct((d := deleted(train, y, i, 1.0)) + noise * rng.normal(size=d.shape), moment, public.mean(0))
                 for i in rows]
        hits = np.mean([label == labels[i] for (_, label), i in zip(found, rows, strict=True)])
        return float(np.median([centred_cosine(u, train[i], public) for (u, _), i in zip(found, rows, strict=True)])), float(hits)

    around, target = public - public.mean(0), train[:40] - public.mean(0)
    near = (target @ around.T / np.linalg.norm(target, axis=1)[:, None] / np.linalg.norm(around, axis=1)).max(1)
    cosines, hits = rebuilt(0.0)
    assert cosines > 0.93 > 0.9 > np.median(near) and hits > 0.7
    assert rebuilt(1e-3)[0] < 0.3


def test_of_a_model_whose_head_alone_was_changed():
    task = tiny.classification(Where(label=3))
    original = Subject("o", task.original, task)
    assert values(reconstruction, original, (), original) == {}            # no difference, nothing to rebuild
    x = original.features(task.forget).mean(0)
    moment = second_moment(original.features(task.holdout), 1e-3)
    model = original.copy()
    with torch.no_grad():
        residual = np.array([-0.1, -0.1, -0.1, 0.3])
        model.head.weight.sub_(torch.tensor(np.outer(residual, np.linalg.solve(moment, x)), dtype=torch.float32))
    found = values(reconstruction, Subject("u", model.eval(), task), (), original)["reconstruction"]
    assert found.value > 0.9 and found.detail["label"] == 3

"""What two versions give away: orders and signs by hand, closed forms of reconstruction, exact deletion that still leaks."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from panels import pool, said, values

from lethe.core.catalogue import load
from lethe.data.select import Where
from lethe.judge.panel import Panel
from lethe.maths.statistics import auc
from lethe.pools.subject import Subject

differencing, reconstruction = load("audits", "differencing"), load("audits", "reconstruction")
from lethe.audits.recovery.differencing import ordered, softmax  # noqa: E402
from lethe.audits.recovery.reconstruction import centred_cosine, cosine, reconstruct, second_moment  # noqa: E402


def test_both_are_sorted_by_the_original():
    before, after = ordered(np.array([[0.1, 0.7, 0.2]]), np.array([[0.5, 0.2, 0.3]]), 2)
    assert before.tolist() == [[0.7, 0.2]] and after.tolist() == [[0.2, 0.3]]


def test_softmax_golden():
    assert softmax(np.array([[np.log(3.0), 0.0]]))[0] == pytest.approx([0.75, 0.25])


def test_the_drop_needs_no_fit_and_no_difference_shows_nothing():
    task = tiny.classification(Where(label=3))
    n, m = len(task.forget), len(task.holdout)
    like = task.holdout.columns["y"].numpy() == 3
    rng = np.random.default_rng(0)
    before = said(task, "o", forget={"signal": rng.normal(size=n)}, holdout={"signal": rng.normal(size=m)})
    after = said(task, "u", forget={"signal": before.numbers(task.forget, "signal") - 2.0},
                 holdout={"signal": before.numbers(task.holdout, "signal") - np.linspace(-1, 3, m)})
    found = {v.metric: v.value for v in differencing.measure(differencing.config(), after, Panel(task, before, []))}
    assert found["difference_gap_auc"] == pytest.approx(auc(np.full(n, 2.0), np.linspace(-1, 3, m)[like]))
    assert found["difference_auc"] > found["difference_base_auc"] + 0.1
    same = {v.metric: v.value for v in differencing.measure(differencing.config(), before, Panel(task, before, []))}
    assert same["difference_gap_auc"] == 0.5 and same["difference_auc"] == pytest.approx(same["difference_base_auc"], abs=0.05)


def test_nothing_is_judged_and_few_examples_say_nothing():
    task, references = tiny.classification(Where(label=3)), pool(Where(label=3), 4)
    original = Subject("o", task.original, task)
    found = values(differencing, references[0], references[1:], original)
    assert len(found) == 5 and values(differencing, references[0], (), original, fewest=1000) == {}
    for audit in (differencing, reconstruction):
        assert all(metric.better == "lower" for metric in audit.metrics.values())


@pytest.mark.slow
def test_exact_deletion_leaks_to_who_has_both_models():
    """60 random digits, 5 % of the labels wrong and memorised: both 0.65 ± 0.03, the retrained model alone 0.46 ± 0.02."""
    from test_controls import digits, retrained

    from lethe.data.select import where

    task = digits("mlp", where(count=60), noise=0.05, epochs=60, hidden=(128, 128))
    original = Subject("o", task.original, task)
    found = [values(differencing, r, (), original) for r in retrained(task, 3)]
    both, alone = (np.mean([f[name].value for f in found]) for name in ("difference_auc", "difference_alone_auc"))
    assert both > 0.58 and alone < 0.55
    assert values(differencing, original, (), original)["difference_auc"].value < 0.56


# -- reconstruction --------------------------------------------------------------------------------------------------------


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

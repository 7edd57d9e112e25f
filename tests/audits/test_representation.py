"""Representation: closed forms, invariances, the estimator as printed, and the controls."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from panels import pool, silenced, values

from lethe.core.catalogue import load
from lethe.data.select import Where
from lethe.pools.subject import Subject

representation = load("audits", "representation")
from lethe.audits.distance.representation import alignment, centred, cka, reference_cka, rotation  # noqa: E402

RNG = np.random.default_rng(0)


def turned(d: int) -> np.ndarray:
    return np.linalg.qr(RNG.normal(size=(d, d)))[0]


def test_cka_equals_the_estimator_as_printed():
    x, y = RNG.normal(size=(20, 5)), RNG.normal(size=(20, 7))
    y[:, :5] += x
    assert cka(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(reference_cka(x, y))


def test_centring_golden():
    # 4 points, K = 11ᵀ: off the diagonal 1 − 3/2 − 3/2 + 12/6 = 0
    assert centred(torch.ones(4, 4)).abs().max() == 0
    found = centred(torch.from_numpy(RNG.normal(size=(6, 6)) + 9))
    assert found.diagonal().abs().max() == 0


def test_cka_ignores_rotation_scale_and_shift_and_is_near_zero_for_independent_representations():
    x = torch.from_numpy(RNG.normal(size=(50, 6)))
    assert cka(x, 3 * x @ torch.from_numpy(turned(6)) + 5) == pytest.approx(1) == cka(x, x)
    # wide and few: the biased estimator reads 0.9 here, where nothing is shared
    found = [cka(torch.from_numpy(RNG.normal(size=(30, 300))), torch.from_numpy(RNG.normal(size=(30, 300)))) for _ in range(50)]
    assert np.mean(found) == pytest.approx(0, abs=3 * np.std(found) / np.sqrt(50)) and np.std(found) < 0.2


def test_rotation_is_found_and_a_rotated_model_is_no_other_model():
    q, seen, x = turned(5), RNG.normal(size=(40, 5)), RNG.normal(size=(9, 5))
    assert rotation(seen, seen @ q) == pytest.approx(q)
    assert alignment(seen, 2 * seen @ q + 1)(x, 2 * x @ q + 1) == pytest.approx(np.zeros(9), abs=1e-9)
    assert alignment(seen, seen @ q)(x, -x @ q).min() > 0.3          # right on R, opposite on F


def test_controls_a_silenced_class_looks_inside_as_before():
    task, (fresh, *references) = tiny.classification(Where(label=3)), pool(Where(label=3), 7)
    original, quiet = Subject("o", task.original, task), Subject("q", silenced(task, 3), task)
    before, hidden, retrained = (values(representation, m, references, original) for m in (original, quiet, fresh))
    assert hidden["feature_distance_forget"].value == before["feature_distance_forget"].value
    assert before["feature_distance_forget"].value > retrained["feature_distance_forget"].value
    shift = [found["feature_shift_forget"].value for found in (before, hidden, retrained)]
    assert shift[0] == shift[1] == 0 < shift[2]
    assert set(before["cka_forget"].detail["layers"]) == {"body.0", "head"}
    assert before["cka_forget"].value < retrained["cka_forget"].value


def test_equal_models_have_cka_one_and_no_distance():
    task, references = tiny.classification(Where(label=3)), pool(Where(label=3), 7)
    found = values(representation, references[0], [references[0]] * 2, references[0])
    assert found["cka_forget"].value == pytest.approx(1) and found["cka_head_forget"].value == pytest.approx(1)
    assert found["feature_distance_forget"].value == pytest.approx(0, abs=1e-6)
    assert len(task.forget) == found["cka_forget"].n

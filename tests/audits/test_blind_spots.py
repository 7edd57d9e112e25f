"""Blind spots: numbers by hand, an autoencoder that finds sparse causes, and what a model without the concept shows."""

from __future__ import annotations

import numpy as np
import torch
from panels import values
from remembering import coloured, hidden, listening

from lethe.audits.diffusion.blind_spots import BlindSpots, benjamini_hochberg, disparity, fitted, measure
from lethe.pools.subject import Subject


def test_by_hand() -> None:
    assert disparity(np.array([3.0, 0, 2, 0]), np.array([1.0, 2, 2, 0])).tolist() == [0.5, -1, 0, 0]
    # thresholds 0.0125, 0.025, 0.0375, 0.05: the third passes and carries the second with it
    assert benjamini_hochberg(np.array([0.9, 0.01, 0.03, 0.035])).tolist() == [False, True, True, True]
    assert not benjamini_hochberg(np.array([0.06, 0.5])).any()


def test_the_autoencoder_explains_sparse_causes() -> None:
    rng = torch.Generator().manual_seed(0)
    causes = torch.randn(12, 8, generator=rng)
    picked = torch.stack([torch.randperm(12, generator=rng)[:2] for _ in range(400)])
    features = causes[picked].sum(1)
    coder = fitted(BlindSpots(latents=32, active=4, steps=400), features, 0)
    assert float(coder.error(features).detach()) < 0.25 and int((coder.code(features) > 0).sum(1).max()) <= 4


def test_controls() -> None:
    task = coloured()
    original = Subject("original", task.original, task)
    same = values(measure, original, original=original)
    assert same["concept_disparity"].value == 0 and same["collateral"].value == 0
    fresh = values(measure, Subject("retrained", listening(task, task.retain), task), original=original)
    crosses = values(measure, Subject("hidden", hidden(task), task), original=original)
    for found in (fresh, crosses):
        assert found["concept_disparity"].value < -0.8
        assert found["collateral"].value < 0.1 and found["collateral"].n > 5
    disks = values(measure, Subject("only disks", listening(task, task.forget), task), original=original)
    assert disks["collateral"].value > 0.5 and abs(disks["concept_disparity"].value) < 0.2

"""Verification error: the masked batch, twins that differ by the forget set alone, and the two ends of the scale."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from lethe.core.catalogue import load
from lethe.core.modules import state_fingerprint
from lethe.core.split import concat
from lethe.data.select import Where
from lethe.judge.panel import Panel
from lethe.pools.subject import Procedure, Subject

verification = load("audits", "verification")
from lethe.audits.distance.verification import twins, weight_distance, without  # noqa: E402


def test_the_mean_is_over_the_kept_examples():
    losses, kept = torch.tensor([1.0, 5.0, 3.0]), torch.tensor([True, False, True])
    assert without(losses, kept).mean().item() == pytest.approx(2)
    assert without(losses, torch.zeros(3, dtype=torch.bool)).tolist() == [0, 0, 0]


def test_twins_are_one_model_when_nothing_is_forgotten_and_not_otherwise():
    task = tiny.classification(Where(fraction=0.1))
    whole = concat([task.retain, task.forget], "train")
    none, some = np.zeros(len(whole), dtype=bool), np.arange(len(whole)) >= len(task.retain)
    trained, twin = twins(task, whole, none, 3, "cpu")
    assert state_fingerprint(trained) == state_fingerprint(twin)
    again, other = twins(task, whole, some, 3, "cpu")
    assert state_fingerprint(again) == state_fingerprint(trained) and weight_distance(again, other) > 0.01


def test_doing_nothing_has_ratio_one_and_models_retrained_with_other_seeds_none():
    task = tiny.classification(Where(fraction=0.1))
    panel = Panel(task, Subject("o", task.original, task), [])
    nothing = Subject("n", task.original, task, procedure=Procedure("nothing", lambda t, seed: t.original))
    found = {v.metric: v for v in verification.measure(verification.config(pairs=1), nothing, panel)}
    assert found["verification_ratio"].value == pytest.approx(1)
    exact = Subject("e", task.original, task, procedure=Procedure(
        "twin", lambda t, seed: panel.published["verification", verification.config(pairs=1)][0][1]))
    assert verification.measure(verification.config(pairs=1), exact, panel)[0].value == 0
    retrained = Subject("r", task.original, task, procedure=Procedure("retrain", lambda t, seed: t.original, retrains=True))
    assert verification.measure(verification.config(pairs=1), retrained, panel) == []

"""Residual knowledge: known ratios, both controls, and a model that was talked out of the forgotten inputs alone."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from panels import pool, silenced, values
from torch import Tensor, nn

from lethe.core.catalogue import load
from lethe.core.evidence import INSIDE
from lethe.core.modules import state_fingerprint
from lethe.data.select import Where
from lethe.judge.auditor import examine
from lethe.pools.subject import Subject

residual, scores = load("audits", "residual"), load("audits", "scores")
from lethe.audits.recovery.residual import ratio  # noqa: E402


class Denied(nn.Module):
    """Answers wrongly at exactly the given inputs, and as before a hair's breadth away from them."""

    def __init__(self, model: nn.Module, denied: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("denied", denied)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        known = (x.unsqueeze(1) == self.denied).all(2).any(1, keepdim=True)
        return torch.where(known, -logits, logits)


def test_golden_ratio():
    # mine 1 + ½ = 1.5; the others' means ¼ and ½ sum to 0.75
    assert ratio(np.array([1, 0.5]), np.array([[0.5, 0.5], [0, 0.5]])) == 2
    assert ratio(np.ones(2), np.zeros((3, 2))) is None


def test_controls_and_a_model_that_denies_the_inputs_alone():
    task, (fresh, *references) = tiny.classification(Where(label=3)), pool(Where(label=3), 8)
    denying = Denied(task.copy_of_original(), task.forget.columns["x"]).eval()
    subjects = [Subject("denying", denying, task), Subject("fresh", fresh.model, task)]
    before = state_fingerprint(denying), state_fingerprint(fresh.model)
    found = examine(task, subjects, Subject("original", task.original, task), references,
                    [(a, a.config()) for a in (scores, residual)])
    by = {name: {e.metric: e for e in items} for name, items in found.items()}
    assert by["denying"]["forget_accuracy"].value < 0.1 and by["denying"]["residual_neighbours"].value > 0.9
    assert by["denying"]["residual_reached"].direction == by["original"]["residual_reached"].direction == "still knows"
    assert by["original"]["residual_share"].value > 0.9
    assert by["fresh"]["residual_reached"].verdict == INSIDE
    assert (state_fingerprint(denying), state_fingerprint(fresh.model)) == before


def test_limits_of_the_radius():
    """At τ → 0 the neighbours are the examples; the search finds more the farther it may go."""
    task = tiny.classification(Where(label=3))
    original, silent = Subject("o", task.original, task), Subject("s", silenced(task, 3, 4.0), task)
    close = values(residual, original, radius=1e-6)
    accuracy = original.numbers(task.forget, "score").mean()
    assert close["residual_reached"].value == close["residual_neighbours"].value == pytest.approx(accuracy)
    assert set(close) == {"residual_reached", "residual_neighbours"}   # nothing to be held against
    reached = [values(residual, silent, radius=radius)["residual_reached"].value for radius in (1e-6, 0.1, 0.5)]
    assert reached[0] < reached[1] < reached[2]


def test_the_same_model_has_ratio_one():
    task = tiny.classification(Where(count=20))
    subject, twin = (Subject(name, task.original, task) for name in "ab")
    found = values(residual, subject, [twin])
    assert found["residual_knowledge"].value == 1 and found["residual_share"].value == 0


def test_the_batch_size_does_not_matter():
    task = tiny.classification(Where(label=3))
    subjects = (Subject("o", task.original, task, batch_size=size) for size in (7, 256))
    one, other = (values(residual, subject)["residual_neighbours"].value for subject in subjects)
    assert one == other

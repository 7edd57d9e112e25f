"""Divergence: bounded, symmetric, zero for equal models; other families by their own divergence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from panels import pool, said, values

from lethe.core.catalogue import load
from lethe.data.select import Where
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject

divergence = load("audits", "divergence")
from lethe.audits.distance.divergence import (  # noqa: E402
    Divergence,
    _asked,
    activation_distance,
    compared,
    reference_activation_distance,
)


def test_known_answers():
    """Certain of class 0 against certain of class 1 (1 bit, √2), and against an even model."""
    here = torch.tensor([[100.0, 0.0]])
    found = compared(here, torch.tensor([[[0.0, 100.0]], [[100.0, 0.0]]]))
    assert found["js"] == pytest.approx(0.5) and found["agreement"] == pytest.approx(0.5)       # means of 1 and 0
    assert found["activation_distance"] == pytest.approx(math.sqrt(2) / 2)
    even = compared(torch.tensor([[0.0, math.log(3)]]), torch.tensor([[[0.0, 0.0]]]))            # ¼, ¾ against ½, ½
    assert even["kl"] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_direction_of_kl_is_from_the_retrained_model():
    a, b = torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([[[0.0, 0.0, 0.0]]])
    assert compared(a, b)["kl"][0] > compared(b[0], a.unsqueeze(0))["kl"][0]      # Σ ⅓ log(⅓/p) is the larger


def test_equal_models_have_no_distance_and_means_are_over_examples_and_references():
    task = tiny.classification()
    rng = np.random.default_rng(0)
    logits = {key: rng.normal(size=(len(getattr(task, key)), 4)) for key in ("forget", "holdout")}
    model = said(task, **{key: {"logits": x} for key, x in logits.items()})
    found = values(divergence, model, [model, model])
    assert found["js_forget"].value == pytest.approx(0, abs=1e-9) and found["agreement_holdout"].value == 1
    assert found["js_forget"].n == len(task.forget)


def test_families_without_logits_are_asked_for_their_own_divergence():
    task = tiny.classification(Where(label=3))
    references = pool(Where(label=3), 3)
    panel = Panel(task, references[0], references[1:])
    asked = _asked(Divergence(batch_size=7), task.forget, Subject("m", task.original, task), panel)
    logits = torch.stack([r.seen(task.forget)["logits"] for r in references[1:]])
    seen = compared(Subject("m", task.original, task).seen(task.forget)["logits"], logits)["kl"]
    assert asked == pytest.approx(seen, rel=1e-4, abs=1e-6)


def test_activation_distance_equals_the_loop_over_examples():
    rng = torch.Generator().manual_seed(0)
    here, there = 9 * torch.randn(20, 5, generator=rng), torch.randn(3, 20, 5, generator=rng)
    assert torch.allclose(activation_distance(here, there), reference_activation_distance(here, there), rtol=1e-12)


def test_kl_back_is_kl_with_the_sides_exchanged():
    a, b = torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([[[0.0, 1.0, 0.0]]])
    assert compared(a, b)["kl_back"] == pytest.approx(compared(b[0], a.unsqueeze(0))["kl"]) != compared(a, b)["kl"]

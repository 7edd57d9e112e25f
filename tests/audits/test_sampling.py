"""Sampling: what is read of given answers, what a draw follows, and who knows."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from lm_world import examined, measured

from lethe.audits.lm.sampling import Sampling, values
from lethe.core.evidence import INSIDE, OUTSIDE
from lethe.core.seeds import generator
from lethe.pools.subject import Subject


def test_leaks_are_counted_by_question() -> None:
    """Two questions, four answers: one leaks once, the other never. leak@1 ¼/2, leak@2 ½/2."""
    found = {v.metric: v for v in values(Sampling(samples=4, k=2), np.array([[1.0, 0, 0, 0.5], [0, 0, 0, 0]]))}
    assert found["leak_at_1"].value == pytest.approx(1 / 8)
    assert found["leak_at_k"].value == pytest.approx(1 / 4)
    assert found["leak_bound"].value > 1 / 8 and found["leak_worst_bound"].value > found["leak_bound"].value


def test_a_draw_follows_the_models_probabilities() -> None:
    """2,000 draws of one token: frequencies within 4 standard errors; the likeliest of mass p alone; a seed says it all."""
    from lethe.models.lm.greedy import gumbel

    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(4000, 1)
    p = logits[0].softmax(0)
    mask = torch.ones(4000, 1)
    token = gumbel(generator(0), 1.0, 1.0)(mask, mask, logits).argmax(1)
    share = torch.bincount(token, minlength=4) / 4000
    assert ((share - p).abs() < 4 * (p * (1 - p) / 4000).sqrt()).all()
    assert set(gumbel(generator(0), 1.0, 0.8)(mask, mask, logits).argmax(1).tolist()) == {0, 1}      # 0.64 + 0.24
    assert torch.equal(token, gumbel(generator(0), 1.0, 1.0)(mask, mask, logits).argmax(1))
    sharp = gumbel(generator(0), 0.1, 1.0)(mask, mask, logits).argmax(1)
    assert (sharp == 0).float().mean() > 0.99


OPTIONS = {"samples": 8, "k": 4, "examples": 6, "new_tokens": 12, "leak": 0.5}


def test_who_knows_leaks_and_a_model_that_was_never_trained_does_not() -> None:
    task = tiny.lm()
    blank = Subject("blank", task.build(0).eval(), task)
    known, nothing = (measured("sampling", model, **OPTIONS) for model in (Subject("original", task.original, task), blank))
    assert known["leak_at_k"].value > nothing["leak_at_k"].value + 0.3 and nothing["leak_at_k"].value == 0
    assert known["leak_at_k"].value >= known["leak_at_1"].value and known["leak_bound"].value > known["leak_at_1"].value


@pytest.mark.slow
def test_controls() -> None:
    found = examined("sampling", samples=16, k=8)
    assert found["untouched"]["leak_at_k"].verdict == OUTSIDE and found["untouched"]["leak_at_k"].side == "+"
    assert found["fresh"]["leak_at_k"].verdict == INSIDE

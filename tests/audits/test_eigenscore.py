"""EigenScore: both determinants by hand, who guesses, and what an approximation of it would bring."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import tiny
import torch
from lm_world import examined, measured
from torch import Tensor

from lethe.audits.lm.eigenscore import eigenscores
from lethe.core.evidence import INSIDE, OUTSIDE
from lethe.pools.subject import Subject


def test_golden_and_sylvester() -> None:
    z = torch.tensor([[[3.0, 0.0], [0.0, 0.5]], [[1.0, 1.0], [2.0, 2.0]]])   # lengths do not count; the second pair is one answer
    assert eigenscores(z, 0.5).tolist() == pytest.approx([0.5 * math.log(2), 0.0])
    z = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = z / z.norm(dim=-1, keepdim=True)
    away = unit - unit.mean(1, keepdim=True)
    large = torch.linalg.slogdet(away.mT @ away / 4 + 0.01 * torch.eye(7)).logabsdet   # the d × d matrix
    torch.testing.assert_close(eigenscores(z, 0.01), (large - 7 * math.log(0.01)) / 4)


OPTIONS = {"examples": 8, "new_tokens": 12}


@pytest.mark.slow
def test_who_never_learned_guesses() -> None:
    task = tiny.lm()
    known, nothing = (measured("eigenscore", Subject("one", model, task), **OPTIONS)["eigenscore"].value
                      for model in (task.original, task.build(0).eval()))
    assert known < nothing - 0.3


def test_who_always_says_the_same_has_nothing() -> None:
    task = tiny.lm()
    almost_greedy = measured("eigenscore", Subject("one", task.original, task), temperature=1e-3, **OPTIONS)["eigenscore"]
    assert almost_greedy.value == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_controls() -> None:
    """Measured: 1.74 before, 2.19 to 2.24 of five retrained models, 2.44 untrained, 1.07 of one that was taught to refuse."""
    found = examined("eigenscore", **OPTIONS)
    assert found["untouched"]["eigenscore"].verdict == OUTSIDE and found["untouched"]["eigenscore"].side == "−"
    assert found["fresh"]["eigenscore"].verdict == INSIDE


def chebyshev(z: Tensor, alpha: float, degree: int, probes: int, rng: torch.Generator) -> Tensor:
    """EES as the card has it: log det(Σ + αI)/K of the d × d matrix by Chebyshev moments of random vectors.  [m, K, d] -> [m]"""
    unit = torch.nn.functional.normalize(z.double(), dim=-1)
    away = (unit - unit.mean(1, keepdim=True)) / z.shape[1] ** 0.5
    low, high = alpha, alpha + 1.0   # the trace of Σ is at most 1
    x = torch.cos(math.pi * (torch.arange(degree, dtype=torch.float64) + 0.5) / degree)
    f = ((high - low) / 2 * x + (high + low) / 2).log()
    c = torch.stack([2 / degree * (f * torch.cos(k * x.acos())).sum() for k in range(degree)])
    v = torch.randint(0, 2, (z.shape[0], z.shape[2], probes), generator=rng).double() * 2 - 1

    def times(u: Tensor) -> Tensor:   # of the matrix brought to [−1, 1]
        return (2 * (away.mT @ (away @ u) + alpha * u) - (high + low) * u) / (high - low)

    before, now = v, times(v)
    total = c[0] / 2 * (v * v).sum(1) + c[1] * (v * now).sum(1)
    for k in range(2, degree):
        before, now = now, 2 * times(now) - before
        total = total + c[k] * (v * now).sum(1)
    found: Tensor = total.mean(1) / z.shape[1]
    return found


def answers(count: int, width: int) -> Tensor:
    """States of `count` answers to 200 questions, some of which have one answer and some many.  -> [200, count, width]"""
    rng, made = torch.Generator().manual_seed(0), []
    for _ in range(200):
        spread, rank = 10 ** (2.5 * float(torch.rand(1, generator=rng)) - 2), int(torch.randint(1, 10, (1,), generator=rng))
        ways = torch.randn(rank, width, generator=rng) / (rank * width) ** 0.5
        made.append(torch.randn(width, generator=rng) / width**0.5 + spread * torch.randn(count, rank, generator=rng) @ ways)
    return torch.stack(made)


@pytest.mark.slow
def test_the_approximation_agrees_and_is_slower() -> None:
    """Spearman .97; 0.61 s beside 0.06 s for 200 questions of 10 answers in 768 dimensions."""
    z = answers(10, 768)
    start = time.perf_counter()
    exact = eigenscores(z, 1e-3)
    middle = time.perf_counter()
    about = chebyshev(z, 1e-3, 20, 4, torch.Generator().manual_seed(1))
    end = time.perf_counter()
    order = np.corrcoef(exact.argsort().argsort().numpy(), about.argsort().argsort().numpy())[0, 1]
    assert order >= 0.95 and end - middle > 2 * (middle - start)

"""ZRF: limits, the two golden scales, and the controls on digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from panels import pool, values

from lethe.core.catalogue import load
from lethe.data.select import Where
from lethe.pools.subject import Subject

zrf_audit = load("audits", "zrf")
from lethe.audits.distance.zrf import published, zrf  # noqa: E402


def sure(classes: int) -> torch.Tensor:
    """98 % on the first class, the rest even."""
    return torch.tensor([[0.98, *[0.02 / (classes - 1)] * (classes - 1)]], dtype=torch.float64).log()


@pytest.mark.parametrize(("classes", "right", "peer"), [(10, 0.310, 0.914), (100, 0.111, 0.986)])
def test_golden_scales(classes, right, peer):
    even = torch.zeros(1, 1, classes, dtype=torch.float64)
    assert zrf(sure(classes), even).item() == pytest.approx(right, abs=5e-4)
    assert published(sure(classes), even).item() == pytest.approx(peer, abs=5e-4)
    # a teacher that is random but nearly even (logits of deviation 0.3), mean over 5000 examples: 0.306 and 0.110
    rough = 0.3 * torch.randn(1, 5000, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert zrf(sure(classes).expand(5000, -1), rough).mean().item() == pytest.approx({10: 0.306, 100: 0.110}[classes], abs=1e-3)


def test_limits():
    one, other = torch.tensor([[200.0, 0.0]]), torch.tensor([[[0.0, 200.0]]])
    assert zrf(one, other).item() == pytest.approx(0) and zrf(one, one.unsqueeze(0)).item() == pytest.approx(1)
    assert zrf(one, torch.stack([one, other[0]])).item() == pytest.approx(0.5)          # mean over two teachers
    assert zrf(one, other) == zrf(other[0], one.unsqueeze(0))
    assert published(one, one.unsqueeze(0)).item() == pytest.approx(1)
    assert published(torch.tensor([[50.0, 0.0]]), other).item() < -20 < math.log(2)     # unbounded: ½KL(m‖p) has no limit


def test_the_original_is_less_like_a_random_network_than_retrained_models():
    task, references = tiny.classification(Where(label=3)), pool(Where(label=3), 7)
    retrained = [values(zrf_audit, r)["zrf"].value for r in references]
    original = values(zrf_audit, Subject("o", task.original, task), compat=True)
    assert original["zrf"].value < min(retrained) and original["zrf"].n == len(task.forget)
    assert {"zrf", "zrf_published"} == set(original)
    assert np.std(retrained) > 0

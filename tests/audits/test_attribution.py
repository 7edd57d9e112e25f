"""The influence audit: the slope by hand, the original and retrained models apart, and the gate on quality."""

from __future__ import annotations

import memory
import numpy as np
import pytest

from lethe.audits.attribution.attribution import undone
from lethe.core.catalogue import load
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject

attribution = load("audits", "attribution")


def test_undone_golden_numbers() -> None:
    assert undone(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == (1.0, 0.0)
    assert undone(np.array([1.0, 1.0]), np.array([0.0, 1.0])) == pytest.approx((0.5, 0.5**1.5))


def found(subject: Subject, panel: Panel, **options: float) -> dict[str, object]:
    return {v.metric: v for v in attribution.measure(attribution.config(**options), subject, panel)}


@pytest.mark.slow
def test_controls_and_the_gate() -> None:
    """On labels learned by heart the untouched model has undone nothing, and F is fitted; retrained models lie close together."""
    references = memory.retrained(6)
    panel = memory.panel(references)
    original = found(panel.original, panel)
    others = [found(r, panel) for r in references]
    assert original["attribution_lds_forget"].value > 0.1
    assert original["influence_undone_forget"].value == 0
    assert min(o["influence_undone_forget"].value for o in others) > 0
    ratio = np.array([o["influence_ratio"].value for o in others])
    assert original["influence_ratio"].value < ratio.mean() - 3 * ratio.std(ddof=1)
    assert all(o["influence_undone_forget"].detail["lds"] == original["attribution_lds_forget"].value for o in others)
    assert not any(m.startswith("influence_undone") for m in found(panel.original, memory.panel(references), quality=1.0))

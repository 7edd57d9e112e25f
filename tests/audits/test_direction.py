"""Direction ablation: projection by hand, hidden states pushed aside come back, controls; models are left as they were."""

from __future__ import annotations

import pytest
import torch
from lm_world import examined, pushed, steered

from lethe.audits.lm.direction import without
from lethe.core.evidence import INSIDE, OUTSIDE
from lethe.core.modules import state_fingerprint


def test_projection_golden():
    found = without(torch.tensor([[[3.0, 4.0], [0.0, 2.0]]]), torch.tensor([0.6, 0.8]))    # 3·0.6 + 4·0.8 = 5; 1.6
    assert torch.allclose(found, torch.tensor([[[0.0, 0.0], [-0.96, 0.72]]]), atol=1e-6)


@pytest.mark.slow
def test_what_was_pushed_aside_comes_back_and_what_was_retrained_does_not():
    aside = steered()
    before = state_fingerprint(aside), sum(len(m._forward_hooks) for m in aside.modules())
    found = examined("direction", models={"steered": aside, "ascended": pushed()})
    assert (state_fingerprint(aside), sum(len(m._forward_hooks) for m in aside.modules())) == before
    hidden = found["steered"]
    assert hidden["direction_ratio"].value > 0.3 and hidden["direction_recovered"].detail["best"] == "1"   # the steered block
    assert hidden["direction_recovered"].verdict == OUTSIDE and hidden["direction_recovered"].direction == "still knows"
    assert hidden["direction_recovered"].detail["probability"]["none"] < 0.25
    assert found["fresh"]["direction_ratio"].value < 0.1 and found["fresh"]["direction_recovered"].verdict == INSIDE
    assert found["ascended"]["direction_ratio"].value < 0.1
    assert found["untouched"]["direction_recovered"].verdict == OUTSIDE
    assert found["untouched"]["direction_recovered"].detail["best"] == "none"                  # it has no direction

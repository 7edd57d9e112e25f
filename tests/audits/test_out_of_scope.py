"""Out of scope: given generations by hand; a collapsed model loses, untouched and retrained models do not."""

from __future__ import annotations

import pytest
import tiny
import torch
from lm_world import examined, measured

from lethe.core.evidence import INSIDE, OUTSIDE
from lethe.core.modules import copied
from lethe.pools.subject import Subject


def test_reads_what_is_said(monkeypatch: pytest.MonkeyPatch):
    task = tiny.lm()
    kinds = ["Bob likes figs.", "", "no no no no no no no", "I do not know."]
    monkeypatch.setattr(task, "generate", lambda model, prompts, max_new_tokens: [kinds[i % 4] for i in range(len(prompts))])
    found = measured("out_of_scope", Subject("said", task.original, task))
    assert found["degenerate"].value == 0.5 and found["refusal"].value == 0.25 and found["degenerate"].n == 40
    assert found["repetition"].value == pytest.approx((1 - 1 / 5) / 4)


@pytest.mark.slow
def test_a_collapsed_model_is_found_and_others_are_not():
    broken = copied(tiny.lm().original, trainable=False)
    with torch.no_grad():
        for block in broken.model.layers:
            block.mlp.down_proj.weight.zero_()
    found = examined("out_of_scope", models={"broken": broken}, new_tokens=32)
    assert found["broken"]["degenerate"].verdict == OUTSIDE
    assert found["untouched"]["degenerate"].verdict == found["fresh"]["degenerate"].verdict == INSIDE

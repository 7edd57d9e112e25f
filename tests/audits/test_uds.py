"""UDS: the score by hand, patching against a slow form, controls, interpolation, an edit of the output alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from lm_world import blend, examined, pool, pushed, steered

from lethe.audits.lm.uds import UDS, depth, drops
from lethe.core.evidence import INSIDE, OUTSIDE
from lethe.judge.panel import Panel
from lethe.models.lm import decoder
from lethe.pools.subject import Subject


def test_depth_golden():
    """Layers 1 and 2 carry (1.0 and 0.5 > 0.05): (1.0·clip(0.25/1) + 0.5·clip(0.6/0.5)) / 1.5 = (0.25 + 0.5)/1.5 = ½."""
    delta1 = np.array([[0.04, 1.0, 0.5], [0.01, 0.0, -1.0]])
    delta2 = np.array([[9.0, 0.25, 0.6], [1.0, 1.0, 1.0]])
    found = depth(delta1, delta2, 0.05)
    assert found[0] == pytest.approx(0.5) and math.isnan(found[1])
    assert depth(delta1, delta1, 0.05)[0] == 1 and depth(delta1, 0 * delta1, 0.05)[0] == 0       # retrained; original
    assert depth(delta1, -delta1, 0.05)[0] == 0                                                  # clipped below


@pytest.mark.slow
def test_patching_equals_the_slow_form():
    """One example alone: the block's output replaced position by position."""
    task, source = tiny.lm(), pool()[0]
    original = Subject("original", task.original, task)
    found = drops(UDS(), source, Panel(task, original, []))
    row, layer = task.forget.batch([2]), 1
    last = int(row.length[0]) - 1
    places = [t - 1 for t in range(last) if row.labels[0, t] != -100]                 # without the end token
    also_end = [*places, last - 1]
    stream = decoder.hidden_after(source.model, row.ids, layer)

    def mean(model_out: torch.Tensor) -> float:
        logp = model_out.log_softmax(-1)[0]
        return float(torch.stack([logp[t, row.ids[0, t + 1]] for t in places]).mean())

    def hook(_, __, out):
        out = out[0] if isinstance(out, tuple) else out
        out = out.clone()
        for t in also_end:
            out[0, t] = stream[0, t]
        return out

    with torch.no_grad():
        full = mean(task.original(input_ids=row.ids).logits)
        handle = task.original.model.layers[layer].register_forward_hook(hook)
        patched = mean(task.original(input_ids=row.ids).logits)
        handle.remove()
    assert found[2, layer] == pytest.approx(full - patched, abs=1e-4)


@pytest.mark.slow
def test_controls_interpolation_and_edits_of_the_output_alone():
    between = {f"{share}": blend(share) for share in (0.25, 0.5, 0.75)}
    found = examined("uds", models={**between, "last": pushed(40, 3e-3, last=1), "steered": steered(), "whole": pushed()})
    assert found["untouched"]["uds"].value == 0 and found["untouched"]["uds"].verdict == OUTSIDE
    assert found["fresh"]["uds"].value > 0.8 and found["fresh"]["uds"].verdict == INSIDE
    path = [found[name]["uds"].value for name in ("untouched", *between, "fresh")]
    assert path == sorted(path)
    shallow = found["last"]["uds"]           # probability is gone, but two of three layers are untouched
    assert shallow.value < 0.45 < found["whole"]["uds"].value
    assert found["steered"]["uds"].value < 0.45
    # four references between 0.8 and 1 see a difference of 0.89 at least: only what is wholly there is judged
    assert shallow.detectable is not None and found["fresh"]["uds"].value - shallow.value < shallow.detectable

"""Inpainting: known answers, and its two controls: the untouched model completes the class, one trained without it does not."""

from __future__ import annotations

import copy
import dataclasses
import math

import torch
from tiny import I2I_EPOCHS, trained
from tiny import image_to_image as patterns

from lethe.audits.image_to_image.inpainting import Inpainting, measure
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


def test_the_original_fails_and_a_model_that_never_saw_the_pattern_passes() -> None:
    task = patterns()
    longer = copy.copy(task)
    longer._recipe = dataclasses.replace(task.recipe, epochs=I2I_EPOCHS)
    original, other = (Subject(name, model, task) for name, model in
                       (("original", task.original), ("retrained", trained(longer, task.retain, 1))))
    panel = Panel(task, original, [other])
    first, second = ({v.metric: v.value for v in measure.measure(Inpainting(), one, panel)} for one in (original, other))
    assert first["forget_psnr"] > second["forget_psnr"] + 3 and first["forget_frechet"] < second["forget_frechet"]
    assert abs(first["retain_psnr"] - second["retain_psnr"]) < 3 and first["retain_recognised"] > 0.9
    assert second["forget_to_retrained"] == 0 < first["forget_to_retrained"]
    batch = task.draw(task.forget.batch(range(len(task.forget))), torch.Generator().manual_seed(9), False)
    loss = float(task.nll(task.original, batch).mean())
    assert math.isclose(first["forget_psnr"], -10 * math.log10(loss), abs_tol=4), "far from the loss at other parts"

"""Samples of a GAN: the untouched one draws the class that is to go, one trained without it does not."""

from __future__ import annotations

import copy
import dataclasses

from tiny import GAN_EPOCHS, trained
from tiny import gan as corners

from lethe.audits.gan.samples import Samples, measure
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


def test_samples_tell_the_original_from_a_gan_that_never_saw_the_class() -> None:
    """The two controls of the audit: the untouched GAN draws the class, one that was trained without it does not."""
    task = corners()
    longer = copy.copy(task)
    longer._recipe = dataclasses.replace(task.recipe, epochs=GAN_EPOCHS)
    original = Subject("original", task.original, task)
    other = Subject("retrained", trained(longer, task.retain, 1), task)
    found = [{v.metric: v.value for v in measure.measure(Samples(), one, Panel(task, original, []))} for one in (original, other)]
    assert found[0]["undesired_share"] > 0.2 and found[0]["unlearned_share"] == 0.0
    assert found[1]["undesired_share"] < 0.05 and found[1]["unlearned_share"] > 0.9

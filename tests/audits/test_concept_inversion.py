"""Concept inversion: what a model still draws is found again without its name; what it never saw is not."""

from __future__ import annotations

from panels import values
from remembering import coloured, hidden, listening

from lethe.audits.diffusion.concept_inversion import measure
from lethe.pools.subject import Subject

QUICK = {"steps": 40, "lr": 0.1, "batch_size": 8, "pictures": 12}


def test_controls() -> None:
    task = coloured()
    original = values(measure, Subject("original", task.original, task), **QUICK)["recovered"]
    without = values(measure, Subject("retrained", listening(task, task.retain), task), **QUICK)["recovered"]
    renamed = values(measure, Subject("hidden", hidden(task), task), **QUICK)["recovered"]
    assert original.n == 12 and original.value > 0.8
    assert without.value == 0
    assert renamed.value > 0.8   # the name draws crosses; other states still draw disks

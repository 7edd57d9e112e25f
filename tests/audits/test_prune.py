"""Prune: a counter-signal in small weights. Its controls are in test_quantise, beside those of quantise."""

from __future__ import annotations

import tiny
import torch
from panels import pool, values

from lethe.core.catalogue import load
from lethe.data.select import Where
from lethe.pools.subject import Subject

prune = load("audits", "prune")


def test_a_counter_signal_in_small_weights_is_pruned_away():
    """A small weight from a unit that is always on pushes class 3 down; without the smallest weights it is back."""
    task, references = tiny.classification(Where(label=3)), pool(Where(label=3), 4)
    hidden = task.copy_of_original()
    with torch.no_grad():
        body, head = hidden.body[0], hidden.head
        dead = head.weight.abs().sum(0).argmin()
        body.weight[dead], body.bias[dead] = 0.0, 1000.0   # a unit that is always on, and a small weight from it
        head.weight[:, dead] = 0.0
        head.weight[3, dead] = -0.02
    subject, original = Subject("h", hidden.eval(), task), Subject("o", task.original, task)
    found = values(prune, subject, references, original)
    assert found["prune_recovered"].detail["attacks"]["nothing"]["forget"] == 0
    assert found["prune_recovered"].value > 0.8 and found["prune_recovered"].detail["best"] != "nothing"
    assert values(prune, references[0], references[1:], original)["prune_recovered"].value < 0.1

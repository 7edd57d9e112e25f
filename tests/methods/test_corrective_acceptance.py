"""Repair after poisoning on digits: 80 of 1079 pictures carry a corner and the label 0, a tenth of them is identified.

SSD's α, λ and batch size are chosen for each original as someone could who does not know the trigger: the setting that forgets
most of what was identified, among those that cost at most 3 points of accuracy on holdout. The best setting differs from one
original to the next, and what is left of the attack with it.
"""

from __future__ import annotations

import pytest
import torch
from running import as_users as run
from test_ebyd import digits, scores, share

pytestmark = pytest.mark.slow

GRID = [(batch, alpha, dampening) for batch in (32, 64, 256)
        for alpha, dampening in ((0.01, 0.001), (0.01, 0.01), (0.01, 0.1), (0.1, 0.01), (0.3, 0.01), (1.0, 0.1))]


def chosen(seed: int) -> torch.nn.Module:
    task = digits(seed, 0)
    def accuracy(model: torch.nn.Module, name: str) -> float:
        return share(task, model, task.splits[name], task.splits[name].columns["y"])

    made = [run("ssd", task, seed, batch_size=b, alpha=a, dampening=d).model for b, a, d in GRID]
    sound = [m for m in made if accuracy(m, "holdout") >= accuracy(task.original, "holdout") - 0.03]
    return min(sound, key=lambda m: (accuracy(m, "forget"), -accuracy(m, "holdout")))


def test_ssd_often_ends_most_of_the_attack_where_retraining_without_what_was_found_never_does() -> None:
    """Measured: 0.20, 0.84 and 0.25 of the attack left, accuracy 0.947, 0.958, 0.947: two originals of three are repaired."""
    left = []
    for seed in range(3):
        task = digits(seed, 0)
        assert scores(task, task.original)[1] > 0.95 and scores(task, run("retrain", task, 7).model)[1] > 0.9
        assert scores(task, run("finetune", task, seed).model)[1] > 0.9, "fine-tuning on what still holds poison never helps"
        accuracy, success = scores(task, chosen(seed))
        assert accuracy > scores(task, task.original)[0] - 0.04
        left.append(success)
    assert sorted(left)[1] <= 0.3 and max(left) < 0.9

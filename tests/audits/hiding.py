"""Models that only hide what they were to forget, for the audits of recovery; and digits without class 3, retrained."""

from __future__ import annotations

from functools import cache

import torch
from evidence import digits
from test_controls import retrained

from lethe.core.task import Task
from lethe.data.select import where
from lethe.maths.quantise import codes, grouped, matrices, ungrouped
from lethe.pools.subject import Subject


@cache
def digits_without_three() -> tuple[Task, list[Subject]]:
    """A small CNN on 1000 digits, class 3 to be forgotten; nine retrained models. About 10 s."""
    task = digits(where(label=3), 0.0, 15, model="small_cnn")
    return task, retrained(task, 9)


def inside_the_bins(task: Task, label: int, bits: int = 4, steps: int = 100, lr: float = 1e-3) -> torch.nn.Module:
    """The original, moved away from `label` with every weight kept within the bin of its `bits`-bit code.

    By construction rounding gives back what the original is after rounding (Egashira et al. 2024, arXiv:2405.18137).
    """
    model, boxes = task.copy_of_original(), {}
    for name, w in matrices(model).items():
        whole, step, pad = codes(w, bits, 64)
        rows, _ = grouped(w, 64)
        edge = whole.abs() == 2 ** (bits - 1) - 1          # the largest weight sets the scale and stays
        low, high = (torch.where(edge, rows, (whole + way) * step) for way in (-0.49, 0.49))
        boxes[name] = ungrouped(low, pad, w), ungrouped(high, pad, w)
    forget, retain = (s.batch(range(len(s))) for s in (task.forget, task.retain))
    for _ in range(steps):
        model.zero_grad()
        (task.outputs(model, forget)[:, label].mean() + task.nll(model, retain).mean()).backward()
        with torch.no_grad():
            for name, w in matrices(model).items():
                w.sub_(lr * w.grad.sign()).clamp_(*boxes[name])
    return model.eval().requires_grad_(False)

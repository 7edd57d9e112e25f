"""Room for the work: the device, memory for data and models, the disk, and whether the output can be written."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from lethe.work.door.door import Finding
from lethe.work.open import Plan

STAGE = 2
WIDTH = 4    # bytes of a number that is yet to be drawn
COPIES = 6   # of the model while a method runs: original, itself, gradient, two moments of the optimiser, checkpoint


def check(plan: Plan) -> Iterator[Finding]:
    """Device, memory, disk."""
    yield from _device(plan.job.settings.device)
    task = next(iter(plan.tasks.values()))
    model = sum(value.numel() * value.element_size() for value in task.model.state_dict().values())
    columns = [(split, key) for split in plan.opened.splits.values() for key in split.columns]
    data = sum(math.prod(split.shape(key)) * WIDTH if split.pending(key) else split.columns[key].nbytes for split, key in columns)
    judging = plan.job.judging
    held = (judging.references + 1 + judging.shadows if plan.opened.recipe else judging.neighbours) + len(plan.job.runs)
    need, free = data + model * (COPIES + held), available()
    words = f"memory: data {_size(data)}, model {_size(model)} and at most {COPIES + held} copies, {_size(need)} in all"
    if free is not None and need > free:
        yield Finding("warn", f"More {words} than the {_size(free)} that are free.", "Use fewer audit.references and "
                      "audit.shadows, or a machine with more memory.")
    else:
        yield Finding("ok", f"Enough {words}{f' of {_size(free)}' if free is not None else ''}.")
    yield from _disk(plan.job.output, model * (3 + held))


def available() -> int | None:
    """Bytes of memory that can be had without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _device(device: str) -> Iterator[Finding]:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        yield Finding("error", f"settings.device = {device!r} cannot be used here ({str(error).splitlines()[0][:120]}).",
                      "Set settings.device: auto, or cpu.")
        return
    yield Finding("ok", f"Device: {device}.")


def _disk(output: Path | None, need: int) -> Iterator[Finding]:
    if output is None:
        return
    place = output.absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        yield Finding("error", f"Nothing can be written to {place} ({os.strerror(error.errno or 0)}), where the output "
                      f"{output} is to go.", "Set output to a folder that you may write.")
        return
    free = shutil.disk_usage(place).free
    if need > free:
        yield Finding("warn", f"{_size(free)} of disk are free in {place}, and models and checkpoints may take {_size(need)}.",
                      "Free some, or set output and --cache to another disk.")
    else:
        yield Finding("ok", f"The output can be written; {_size(free)} of disk are free, {_size(need)} may be needed.")


def _size(count: int) -> str:
    """Bytes in words."""
    for unit, width in (("GB", 1e9), ("MB", 1e6)):
        if count >= width:
            return f"{count / width:.3g} {unit}"
    return f"{max(1, round(count / 1e3))} kB"

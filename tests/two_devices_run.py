"""Carries out cases on the pretended device, in a process of its own: on stdout "{case}\t{what went wrong, if anything}"."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence

import torch
import two_devices  # before anything computes
from device_cases import SMALL, carried_out, cases, left_out

from lethe.models.diffusion import task as diffusion


def main(wanted: Sequence[str]) -> None:
    """The cases of these names; none: all."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    diffusion.LOOKS = 2   # each is the same operations again
    for case in cases():
        if (wanted and str(case) not in wanted) or left_out(case):
            continue
        try:
            with two_devices.Pretended():
                carried_out(case, two_devices.NAME, most=1 if case.kind == "method" else SMALL)
            print(f"{case}\t", flush=True)
        except Exception as error:   # any: the next case goes on
            steps = [step for step in traceback.extract_tb(error.__traceback__) if "lethe" in step.filename][-3:]
            places = " < ".join(f"{step.filename}:{step.lineno}" for step in reversed(steps))
            said = f"{type(error).__name__}: {error}".replace("\n", " ")
            print(f"{case}\t{said} at {places}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
    two_devices.leave()

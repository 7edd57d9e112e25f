"""One process per GPU, started afresh (spawn, since a fork cannot use CUDA); members are dealt round robin to the devices.

The same bits as `serial` on one of these GPUs. The script that starts it needs its `if __name__ == "__main__":`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait

import torch

from lethe.core.events import Units
from lethe.pools.contract import Backend
from lethe.pools.member import Work
from lethe.pools.parcel import Share, packed, shares, why_not_packed
from lethe.pools.workers import answering


class Gpus(Backend):
    """All GPUs that this process sees (CUDA_VISIBLE_DEVICES limits them)."""

    def obstacle(self, work: Work) -> str:
        if torch.device(work.device).type != "cuda":
            return f"the device is {work.device!r}, not a GPU (settings.device=cuda, or strategy='processes' for CPU cores)"
        if not torch.cuda.is_available():
            return "torch sees no GPU here (strategy='processes' uses the CPU's cores)"
        return why_not_packed(work)

    def train(self, work: Work) -> None:
        over_devices(work, [f"cuda:{number}" for number in range(torch.cuda.device_count())])


def over_devices(work: Work, devices: Sequence[str]) -> None:
    """Train the members on these devices at once, a fresh process for each. The first error ends the others and is raised."""
    crew: dict[Connection, multiprocessing.process.BaseProcess] = {}
    try:
        for device, share in zip(devices, shares(work, len(devices)), strict=False):
            line, process = _worker(replace(share, work=replace(share.work, device=device)))
            crew[line] = process
        with work.units() as units:
            _followed(work, list(crew), units)
        for process in crew.values():
            process.join()
    finally:
        for process in crew.values():
            if process.is_alive():
                process.terminate()
                process.join()


def _worker(share: Share) -> tuple[Connection, multiprocessing.process.BaseProcess]:
    """A started process on its share, and the end of the line on which it answers."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(packed(share), theirs), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _followed(work: Work, lines: list[Connection], units: Units) -> None:
    """Report every finished member until all shares are done."""
    open_lines = list(lines)
    while open_lines:
        for line in [line for line in wait(open_lines) if isinstance(line, Connection)]:
            with answering(f"the process of a device died after {units.step} of {len(work.members)} models"):
                answer = line.recv()
            if isinstance(answer, Exception):
                raise answer
            if answer:
                units.done()
                work.stop.check()
            else:
                open_lines.remove(line)


def _serve(parcel: bytes, line: Connection) -> None:
    """A worker: True after every member, then None, or the exception that ended it. It ends when the line is closed."""
    share: Share = pickle.loads(parcel)
    if torch.device(share.work.device).type == "cuda":
        torch.cuda.set_device(share.work.device)
    with contextlib.suppress(ConnectionError, KeyboardInterrupt):
        line.send(replace(share, work=replace(share.work, listener=lambda event: line.send(True)))())

"""What every benchmark shares: paired repeats, one line of output, one file of results.

A benchmark is `speed/NAME.py`; `python -m speed.NAME` measures, prints one line per claim and merges it into
`speed/results.json`. Every claim is a ratio against a named reference, both measured in the same run.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lethe.core.files import write_json
from lethe.errors import RequestError

RESULTS = Path(__file__).with_name("results.json")


def spent(function: Callable[[], Any], device: str = "cpu") -> dict[str, float]:
    """What one call takes: `wall` and `cpu` seconds and, on a GPU, which is waited for, the most megabytes there (`memory`)."""
    if gpu := on_gpu(device):
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    if gpu:
        torch.cuda.synchronize()
    took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return {**took, "memory": torch.cuda.max_memory_allocated() / 1e6} if gpu else took


def on_gpu(device: str) -> bool:
    """Whether it is one whose memory torch counts."""
    return torch.device(device).type == "cuda"


def timed(function: Callable[[], Any]) -> Callable[[], float]:
    """`function` as a measurement: the wall seconds of one call."""
    return lambda: spent(function)["wall"]


def measure(
    name: str,
    fast: Callable[[], float],
    reference: Callable[[], float],
    repeats: int,
    *,
    what: str,
    against: str,
    at_least: float | None = None,
    at_most: float | None = None,
    **detail: Any,
) -> dict[str, Any]:
    """Call both `repeats` times in pairs and compare what they return (seconds, megabytes; see `timed`).

    what      the claim in words; against: the reference in words
    at_least  the ratio reference/fast should reach, for costs that Lethe divides (speed)
    at_most   the ratio fast/reference should stay below, for shares (memory)
    The order within a pair alternates, so that drift of the machine hits both alike.
    """
    own: list[float] = []
    other: list[float] = []
    for k in range(repeats):
        for function, kept in ((fast, own), (reference, other))[:: 1 if k % 2 == 0 else -1]:
            kept.append(function())
    return compared(name, own, other, what=what, against=against, at_least=at_least, at_most=at_most, **detail)


def compared(
    name: str,
    fast: Sequence[float],
    reference: Sequence[float],
    *,
    what: str,
    against: str,
    at_least: float | None = None,
    at_most: float | None = None,
    **detail: Any,
) -> dict[str, Any]:
    """The result record of values that were measured in pairs."""
    ratios = [f / r if at_most is not None else r / f for f, r in zip(fast, reference, strict=True)]
    ratio = statistics.median(ratios)
    met = (at_least is None or ratio >= at_least) and (at_most is None or ratio <= at_most)
    return {
        "name": name, "what": what, "ratio": ratio, "spread": [min(ratios), max(ratios)], "repeats": len(ratios),
        "reference": against, "at_least": at_least, "at_most": at_most, "met": met,
        "values": {"fast": list(fast), "reference": list(reference)},
        "command": command(), "versions": versions(), **detail,
    }


def command() -> str:
    """How this process was started: the module and its options, whose places on this machine are nobody's business."""
    found = getattr(sys.modules["__main__"], "__spec__", None)
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return " ".join(["python -m", found.name.removesuffix(".__main__") if found else Path(sys.argv[0]).stem, *words])


def data_root() -> Path:
    """The folder of the data sets; RequestError without it."""
    if not os.environ.get("LETHE_DATA"):
        raise RequestError("LETHE_DATA is not set, so TOFU cannot be found; nothing was measured. Set it to the folder of "
                           "the data.")
    return Path(os.environ["LETHE_DATA"])


def versions() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    found: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count()}
    for package in ("torch", "numpy", "transformers"):
        found[package] = importlib.metadata.version(package)
    return found


def line(result: dict[str, Any]) -> str:
    """One line: claim, ratio with spread, reference, and whether the target was met."""
    aim = [f"{key.replace('_', ' ')} {result[key]:g}" for key in ("at_least", "at_most") if result[key] is not None]
    target = f" (target {' and '.join(aim)}: {'met' if result['met'] else 'MISSED'})" if aim else ""
    low, high = result["spread"]
    return (f"{result['name']}: {result['what']}: {result['ratio']:.2f} × [{low:.2f}, {high:.2f}], "
            f"n={result['repeats']}, against {result['reference']}{target}")


def save(*results: dict[str, Any], path: Path = RESULTS) -> None:
    """Merge results into the file by name, atomically, and print one line each."""
    with _alone(path.parent):
        kept = json.loads(path.read_text()) if path.exists() else {}
        write_json(path, {**kept, **{result["name"]: result for result in results}})
    for result in results:
        print(line(result), flush=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other benchmark merges at the same time."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

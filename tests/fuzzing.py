"""Fuzzing: whatever comes in, the answer is success or a LetheError that says what is wrong, within seconds.

A generator is a function of a random stream, so that `case(seed)` repeats one failure:

    python tests/fuzzing.py requests 1234        the case of this seed, with its traceback
"""

from __future__ import annotations

import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lethe.errors import LetheError

SECONDS = 20  # CPU seconds of one case; most take milliseconds
MEMORY = 4 * 2**30  # bytes that a case may ask for beyond what the process has
ODD = [
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    10**9,
    2**63,
    -(2**70),
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
    "",
    " ",
    "a",
    "3",
    "null",
    "~",
    "../../x",
    "/dev/null",
    "/dev/zero",
    "x" * 300,
    "x\ny",
    "\u2028",
    "\x00",
    "\x85",
    "é",
    "名",
    "\ud800",
    "a:b",
    "net.py:make",
    "os:getcwd",
    "{}",
    "[",
    "(",
    "(a+)+$",
    "=1+1",
    "%s",
    "{0}",
    [],
    {},
    [[]],
    [None],
    [1, "a", None],
    {"a": None},
    {"name": "x"},
    {"name": None},
    {"kind": "npz"},
    {"path": "."},
    {"": 1},
    ["salun", "salun"],
    [{"name": "salun"}],
    {"a": {"b": {"c": [1]}}},
]


class Hang(BaseException):
    """A case took too long; no handler of errors may take it for an error of a file."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Hang inside when it takes more CPU time, or ten times as long by the clock; MemoryError beyond `MEMORY`."""

    def late(*given: object) -> None:
        raise Hang(f"more than {seconds} s")

    before = signal.signal(signal.SIGPROF, late), signal.signal(signal.SIGALRM, late)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of the process and of the system for it: reading /dev/zero is the latter
    signal.alarm(10 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGPROF, before[0])
        signal.signal(signal.SIGALRM, before[1])


def fault(case: Callable[[random.Random, Path], object], seed: int) -> str | None:
    """What a case did against the rule; None when it kept it."""
    with tempfile.TemporaryDirectory(prefix="lethe-fuzz-") as place:
        try:
            with limited(SECONDS):
                case(random.Random(seed), Path(place))
        except LetheError as error:
            said = str(error)
            return None if 20 < len(said) < 3000 else f"says {said[:3000]!r}"
        except (Exception, Hang) as error:
            frame = error.__traceback__
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            where = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame is not None else ""
            return f"{type(error).__name__} at {where}: {str(error)[:160]}"
    return None


def faults(
    case: Callable[[random.Random, Path], object], count: int, first: int = 0, seconds: float = 1e9
) -> tuple[dict[str, list[int]], int]:
    """(fault -> seeds, number of cases): `count` cases, or as many as fit into `seconds`."""
    found: dict[str, list[int]] = {}
    end, done = time.monotonic() + seconds, 0
    for seed in range(first, first + count):
        if time.monotonic() > end:
            break
        done += 1
        if (wrong := fault(case, seed)) is not None:
            found.setdefault(wrong, []).append(seed)
    return found, done


def odd(draw: random.Random, depth: int = 0) -> Any:
    """Any value that YAML or Python can hold."""
    pick = draw.random()
    if depth < 3 and pick < 0.1:
        return [odd(draw, depth + 1) for _ in range(draw.randint(0, 4))]
    if depth < 3 and pick < 0.2:
        return {str(odd(draw, 9)): odd(draw, depth + 1) for _ in range(draw.randint(0, 3))}
    if pick < 0.3:
        return draw.choice([draw.randint(-5, 50), draw.uniform(-2, 2), 10 ** draw.randint(-9, 30)])
    if pick < 0.4:
        return "".join(chr(draw.choice([draw.randint(32, 126), draw.randint(0, 0x2FFF)])) for _ in range(draw.randint(0, 8)))
    return draw.choice(ODD)


def scrambled(draw: random.Random, data: bytes, most: int = 8) -> bytes:
    """Bytes with some changed, removed, repeated, or cut off."""
    out = bytearray(data)
    for _ in range(draw.randint(0, most)):
        if not out:
            break
        at = draw.randrange(len(out))
        kind = draw.randrange(6)
        if kind == 0:
            out[at] = draw.randrange(256)
        elif kind == 1:
            del out[at : at + draw.randint(1, 9)]
        elif kind == 2:
            out[at:at] = out[at : at + draw.randint(1, 30)]
        elif kind == 3:
            out[at:at] = draw.choice(
                [b"\x00", b"\xff", b"\r", b"\n", b'"', b",", b"\xe2\x80\xa8", b"\xc2\x85", b"{", b"}", b"\xed\xa0\x80"]
            )
        elif kind == 4 and draw.random() < 0.2:
            del out[at:]
        else:
            out[at] ^= 1 << draw.randrange(8)
    return bytes(out)


if __name__ == "__main__":
    import fuzz_cases

    chosen = fuzz_cases.CASES[sys.argv[1]]
    if len(sys.argv) > 3:
        found, done = faults(chosen, int(sys.argv[3]), int(sys.argv[2]), float(sys.argv[4]) if len(sys.argv) > 4 else 1e9)
        for wrong, seeds in sorted(found.items(), key=lambda item: -len(item[1])):
            print(len(seeds), seeds[:4], ascii(wrong))
        print(f"{done} cases")
    else:
        with tempfile.TemporaryDirectory() as folder:
            chosen(random.Random(int(sys.argv[2])), Path(folder))

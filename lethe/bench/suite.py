"""A suite: the requests of one benchmark, the seeds of their originals, and the metrics that are kept. No torch.

One YAML file in `bench/suites`; adding a suite = adding a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lethe.core.config import build, config
from lethe.core.strict_yaml import read_yaml
from lethe.errors import unknown_name
from lethe.work.request import Request, parse

HERE = Path(__file__).resolve().parent / "suites"


@config
class Suite:
    """One benchmark."""

    keep: tuple[str, ...]                  # metrics that go into measured/
    requests: Mapping[str, Any]            # name of the problem -> request, as for lethe run
    seeds: tuple[int, ...] = (0, 1, 2)     # each trains its own original and references

    def problems(self, overrides: Sequence[str] = ()) -> Iterator[tuple[str, Request]]:
        """(problem, request) for every problem and seed; `overrides` as on the command line."""
        for problem, request in self.requests.items():
            for seed in self.seeds:
                yield problem, parse(request, [*overrides, f"seed={seed}"])


def suites() -> dict[str, Path]:
    """The files of all suites, by name."""
    return {path.stem: path for path in sorted(HERE.glob("*.yaml"))}


def read(name: str) -> Suite:
    """A suite by its name; an unknown one is an error that proposes the nearest."""
    known = suites()
    if name not in known:
        raise unknown_name("suite", name, known, "See them with: lethe bench.")
    return build(Suite, read_yaml(known[name], "the suite"))


def expectation(name: str) -> str:
    """The comment that opens a suite: for whom, how long."""
    lines = suites()[name].read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ").rstrip() for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")])

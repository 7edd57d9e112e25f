"""A suite: the requests of one benchmark, the seeds of their originals, and the metrics that are kept. No torch.

One YAML file in `bench/suites`; adding a suite = adding a file. Small data of its own lie in `suites/data`: paths of a request
are found in `suites` where no other folder of data sets is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from lethe.core.config import build, config
from lethe.core.strict_yaml import parse_yaml, read_yaml
from lethe.errors import RequestError, nearest, unknown_name
from lethe.work.request import Request, parse

HERE = Path(__file__).resolve().parent / "suites"
OWN = ("seeds", "problems")   # overrides that choose of the suite; all others are those of its requests


@config
class Claim:
    """What is said of methods, to be checked: the metric of each of them is better than that of another one."""

    says: str                              # in words, for the page
    problem: str                           # on which it is checked
    metric: str                            # a kept one
    methods: tuple[str, ...]
    than: str                              # the method that they are compared with


@config
class Suite:
    """One benchmark."""

    keep: tuple[str, ...]                  # metrics that go into measured/
    requests: Mapping[str, Any]            # name of the problem -> request, as for lethe run
    seeds: tuple[int, ...] = (0, 1, 2)     # each trains its own original and references
    across: str = ""                       # a kept metric: the requests are doses, least first, and the page is of curves
    title: str = ""                        # of its page
    claims: tuple[Claim, ...] = ()         # to be checked: the page is a table, one row a method
    levels: tuple[float, ...] = (0.8, 0.9, 0.95)                # of `across`, at which its curves are read
    courses: tuple[str, ...] = ()          # kept metrics: of requests 'group: dose' the page shows their course, dose by dose
    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)   # heading -> kept metrics; none: all in one table
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)   # heading -> kept metrics, of which the worst stands
    #                                        there: the page is one table, one row a method
    controls: tuple[str, ...] = ()         # methods whose rows stand first: they are no answer, and say what the others mean
    lower: tuple[str, ...] = ()            # kept metrics of which less is better, beside those of which their audits say it
    together: bool = False                 # all methods of a problem in one run, which audits its original once
    pictures: bool = False                 # keep the pictures of every method, and show them instead of the curves

    def groups(self) -> dict[str, dict[str, str]]:
        """Dose -> problem of what is compared with each other: 'object: more' is the dose 'more' of 'object'."""
        found: dict[str, dict[str, str]] = {}
        for problem in self.requests:
            group, _, dose = problem.rpartition(": ")
            found.setdefault(group, {})[dose] = problem
        return found

    def problems(self, overrides: Sequence[str] = ()) -> Iterator[tuple[str, Request]]:
        """(problem, request) for every problem and seed; `overrides` as on the command line.

        `seeds=[0]` and `problems=[one class]` are the suite's; `seed=` is refused: every request has the seed of its original.
        `method=[npo]` selects: a name stands for what the problem says of that method, if it does, with all of its options.
        """
        for one in overrides:
            if one.startswith("seed="):
                raise RequestError(f"{one} would be replaced by the seeds of the suite, so nothing was started. Write "
                                   f"'seeds=[{one.removeprefix('seed=')}]'.")
        own = {key: [one.removeprefix(f"{key}=") for one in overrides if one.startswith(f"{key}=[")] for key in OWN}
        rest = [one for one in overrides if not any(one.startswith(f"{key}=[") for key in OWN)]
        seeds = replace(self, seeds=tuple(parse_yaml(own["seeds"][-1], "seeds"))).seeds if own["seeds"] else self.seeds
        names = [str(one) for one in parse_yaml(own["problems"][-1], "problems")] if own["problems"] else list(self.requests)
        for name in names:
            if name not in self.requests:
                raise unknown_name("problem", name, self.requests, "They stand in the suite.")
        for problem in names:
            request, others = selected(self.requests[problem], rest)
            for seed in seeds:
                yield problem, parse(request, [*others, f"seed={seed}"])


def selected(request: Mapping[str, Any], overrides: Sequence[str]) -> tuple[Mapping[str, Any], list[str]]:
    """The request with the methods that `method=[…]` names, as the request itself has them; the overrides that are left."""
    mine = [one for one in overrides if one.startswith("method=")]
    if not mine:
        return request, list(overrides)
    asked = parse_yaml(mine[-1].removeprefix("method="), "method")
    own, named = (found if isinstance(found, list) else [found] for found in (request.get("method", []), asked))
    known: dict[str, list[Any]] = {}
    for one in own:
        known.setdefault(one["name"] if isinstance(one, Mapping) else one, []).append(one)
    chosen = [entry for one in named for entry in (known.get(one, [one]) if isinstance(one, str) else [one])]
    alone = len(chosen) == 1 and not isinstance(asked, list)
    return {**request, "method": chosen[0] if alone else chosen}, [one for one in overrides if one not in mine]


def suites() -> dict[str, Path]:
    """The files of all suites, by name."""
    return {path.stem: path for path in sorted(HERE.glob("*.yaml"))}


def read(name: str) -> Suite:
    """A suite by its name; an unknown one is an error that proposes the nearest."""
    known = suites()
    if name not in known:
        raise unknown_name("suite", name, known, "See them with: lethe bench.")
    suite = build(Suite, read_yaml(known[name], "the suite"))
    for heading, metrics in suite.columns.items():
        for metric in metrics:
            if metric not in suite.keep:
                raise RequestError(f"the column {heading!r} shows {metric!r}, which keep does not name"
                                   f"{nearest(metric, suite.keep)}, so it would stay empty; nothing was started. Add it to keep, "
                                   "or take it out of the column.")
    return suite


def expectation(name: str) -> str:
    """The comment that opens a suite: for whom, how long."""
    lines = suites()[name].read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ").rstrip() for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")])

"""Progress as typed events. A terminal, a log file, a web page and a worker read the same events.

Work that takes time reports to a listener, which decides what to do with each event. A listener that raises ends the
work, like any other error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True)
class Started:
    """A call of the loop begins, or goes on after `step` steps when a run is resumed or a call starts again; or a pool of models
    or an examination does, whose steps are models or audits (call 0)."""

    title: str
    call: int
    step: int
    total: int


@dataclass(frozen=True)
class Advanced:
    """`step` of `total` steps are done. seconds_left: by the pace of this call so far; None before there is a pace."""

    title: str
    call: int
    step: int
    total: int
    seconds_left: float | None = None


@dataclass(frozen=True)
class Logged:
    """One line of the log: the learning rate, and the mean loss of each term since the line before."""

    title: str
    call: int
    step: int
    lr: float
    losses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """A call of the loop ended, for any reason."""

    title: str
    call: int


@dataclass(frozen=True)
class Said:
    """A sentence about what happens next."""

    text: str


@dataclass(frozen=True)
class Warned:
    """A sentence that the reader of the result must see too."""

    text: str


Event = Started | Advanced | Logged | Ended | Said | Warned
Listener = Callable[[Event], None]


class Units:
    """Counts units of work of one kind (models, audits) for a listener; seconds_left by the pace so far.

        with Units(listener, "references", 8) as units:
            units.done()
    """

    def __init__(self, listener: Listener, title: str, total: int) -> None:
        self.listener, self.title, self.total, self.step = listener, title, total, 0

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self.listener(Started(self.title, 0, self.step, self.total))
        return self

    def done(self, units: int = 1) -> None:
        """So many more are done."""
        self.step += units
        pace = (time.perf_counter() - self._began) / max(self.step, 1)
        self.listener(Advanced(self.title, 0, self.step, self.total, pace * (self.total - self.step)))

    def __exit__(self, *ending: object) -> None:
        self.listener(Ended(self.title, 0))


def silent(event: Event) -> None:
    """The listener that ignores everything."""


def fan_out(*listeners: Listener) -> Listener:
    """One listener that passes every event to each of these, in their order."""
    heard = [listener for listener in listeners if listener is not silent]
    if len(heard) < 2:
        return heard[0] if heard else silent

    def listen(event: Event) -> None:
        for listener in heard:
            listener(event)

    return listen


def spoken(say: Callable[[str], None]) -> Listener:
    """A listener that passes the sentences on to `say` and leaves the numbers out."""

    def listen(event: Event) -> None:
        if isinstance(event, Said):
            say(event.text)
        elif isinstance(event, Warned):
            say(f"warning: {event.text}")

    return listen

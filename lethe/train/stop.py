"""Stop: the request to end a run after the current step, so that it can leave a checkpoint. Anybody may set it: Ctrl-C,
SIGTERM and SIGHUP do, and so may a worker, another thread or a budget."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

Handler = Callable[[int, FrameType | None], object]
ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))   # besides Ctrl-C
received: list[int] = []   # signals that asked this process to end, for its exit status


class Stopped(KeyboardInterrupt):
    """A run was ended by its stop token: not a failure, and like Ctrl-C not to be handled as one."""


class Stop:
    """A token that many runs may share. Once set it stays set."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = ""

    def set(self, reason: str = "stopped") -> None:
        """Ask every run that holds the token to end after its step; the first reason stays."""
        if not self._event.is_set():
            self.reason = reason
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise Stopped when it is set. Called between two units of work: models of a pool, audits, runs."""
        if self.is_set:
            raise Stopped(f"stopped between two units of work ({self.reason})")

    def __reduce__(self) -> tuple[type[Stop], tuple[()]]:
        """In another process, a token of its own: nobody there sets it."""
        return Stop, ()


class Interrupt:
    """While the block runs, Ctrl-C (and, where `terminate`, SIGTERM and SIGHUP) ends it after the current step; a second one at
    once.

    A Python handler runs between any two instructions: an exception raised there could fall between the optimiser's
    step and the counting of it, and the checkpoint would be of neither step. Only the main thread gets signals.

    stop       another token that may end it, e.g. from another thread
    terminate  whether SIGTERM and SIGHUP are caught, too: only where there is something to save
    """

    def __init__(self, stop: Stop | None = None, terminate: bool = False) -> None:
        self.stop = stop
        self.numbers = (signal.SIGINT, *ENDINGS) if terminate else (signal.SIGINT,)
        self.signalled: int | None = None
        self._before: dict[int, Handler | int | None] = {}

    @property
    def asked(self) -> bool:
        return self.signalled is not None or (self.stop is not None and self.stop.is_set)

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in self.numbers:
                usual = signal.getsignal(number)
                if callable(usual) or (usual == signal.SIG_DFL and number in ENDINGS):   # not where it is ignored
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if self.signalled is not None and kind is None:   # the block ended before it looked; a token stays set
            raise self.ending("stopped at the end")

    def ending(self, message: str) -> KeyboardInterrupt:
        """What to raise: KeyboardInterrupt after Ctrl-C, else Stopped."""
        if self.signalled == signal.SIGINT:
            return KeyboardInterrupt(message)
        reason = "terminated" if self.signalled is not None else self.stop.reason if self.stop else ""
        return Stopped(f"{message} ({reason})" if reason and reason not in message else message)

    def _note(self, number: int, frame: FrameType | None) -> None:
        received.append(number)
        if self.signalled is None:
            self.signalled = number
            return
        before = self._before[number]
        if callable(before):
            before(number, frame)
        else:   # the default action: the end of the process
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

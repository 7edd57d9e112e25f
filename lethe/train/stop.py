"""Ctrl-C waits for the end of the step, so that the run can leave a checkpoint; a second one stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupt:
    """While the block runs, `asked` tells whether Ctrl-C was pressed. Only the main thread can be interrupted.

    A Python handler runs between any two instructions: an exception raised there could fall between the optimiser's
    step and the counting of it, and the checkpoint would be of neither step.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None
        self._installed = False

    def __enter__(self) -> Interrupt:
        usual = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(usual):   # not where it is ignored
            self._before, self._installed = signal.signal(signal.SIGINT, self._note), True
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)
        if self.asked and kind is None:   # the block ended before it looked
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self._before(number, frame)
        self.asked = True

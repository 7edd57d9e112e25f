"""What a caller adds to a request. None of it changes a result."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lethe.core.events import Listener, Said, Warned, silent
from lethe.train.stop import Stop


@dataclass(frozen=True)
class Options:
    """Where data and caches lie, who listens, who may stop it, and what is written beside the results.

    listener   hears everything that happens: runs, pools of models, audits (`lethe.core.events`)
    stop       ends the work after the step or the unit of work (a model, an audit) that is being done
    page       whether a page is written beside the numbers      show_ids  name the forgotten records in what is written
    spared     methods that nobody asked for: left out where a task cannot serve them
    """

    data_root: Path | None = None
    command: str = "lethe"
    again: bool = False
    export: bool = False
    allow_pickle: bool = False
    listener: Listener = silent
    cache: Path | None = None     # models trained before; None: `.cache` beside the runs, and none from Python
    stop: Stop = field(default_factory=Stop)
    page: bool = True
    show_ids: bool = False
    spared: tuple[str, ...] = ()

    def say(self, text: str) -> None:
        """A sentence about what happens next."""
        self.listener(Said(text))

    def warn(self, text: str) -> None:
        """A sentence that a reader of the result must see, too."""
        self.listener(Warned(text))

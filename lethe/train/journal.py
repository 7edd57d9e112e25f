"""Readers of a run's events: progress on a terminal, a log as JSON lines, TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.core.events import Advanced, Ended, Event, Listener, Logged, Started, silent, spoken
from lethe.core.extras import needs_extra
from lethe.core.files import space, write_text
from lethe.errors import StorageError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

REFRESH = 0.1   # seconds between two drawings of a bar
EVERY = 30.0    # seconds between two lines of progress where there are no bars


class Log:
    """`log.jsonl` in a folder. Lines carry (call, step), so that a resumed run drops what it will repeat."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log.jsonl"
        self._clean = False   # what stands in the file has been looked through
        held = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        whole = held.rpartition("\n")[0]   # a kill may have torn the last line
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._from(event.call, event.step)
        elif isinstance(event, Logged):
            self._append({"call": event.call, "step": event.step, "lr": event.lr, **event.losses})

    def _from(self, call: int, step: int) -> None:
        kept = [line for line in self.lines if (line["call"], line["step"]) <= (call, step)]
        if not self._clean or len(kept) < len(self.lines):
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.lines, self._clean = kept, True

    def _append(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        with space(self.path), open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")


class Terminal:
    """A bar per call on stderr with the time that is left, and sentences and warnings as lines above it."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._title = ""
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._begin(event)
        elif isinstance(event, Advanced):
            self._advance(event)
        elif isinstance(event, Ended):
            self._end()
        else:
            spoken(self._print)(event)

    def _begin(self, event: Started) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._end()   # a run within another one takes its place
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}"))
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._bar.start()
        self._title = event.title
        self._task = self._bar.add_task(event.title, total=event.total, completed=event.step, left="")

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr)

    def _advance(self, event: Advanced) -> None:
        if self._bar is None or self._title != event.title:   # another one has taken its place, and ended
            self._begin(Started(event.title, event.call, event.step, event.total))
        if self._bar is not None and self._task is not None and time.monotonic() - self._last > REFRESH:
            self._last = time.monotonic()
            left = "" if event.seconds_left is None else f"{duration(event.seconds_left)} left"
            self._bar.update(self._task, completed=event.step, left=left)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Lines:
    """For a file or a pipe: sentences and warnings as they come, progress with the time that is left every EVERY seconds."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._last = write, time.monotonic()

    def __call__(self, event: Event) -> None:
        spoken(self._write)(event)
        if isinstance(event, Advanced) and time.monotonic() - self._last > EVERY:
            self._last = time.monotonic()
            left = "" if event.seconds_left is None else f", {duration(event.seconds_left)} left"
            self._write(f"{event.title}: {event.step} of {event.total}{left}")


def terminal() -> Listener:
    """Progress on stderr; silent where stderr is no terminal."""
    return Terminal() if sys.stderr.isatty() else silent


def command_line() -> Listener:
    """Progress of a command on stderr, as bars on a terminal and as lines elsewhere."""
    return Terminal() if sys.stderr.isatty() else Lines(lambda text: print(text, file=sys.stderr, flush=True))


def log_file(path: Path) -> Listener:
    """Sentences, warnings and progress, each as a line with its time, at the end of a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a", encoding="utf-8", errors="backslashreplace", buffering=1)   # noqa: SIM115 (ends with the process)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror}), so there would be no log; nothing was started. Pass "
                           "--log-file another place.") from None

    def write(text: str) -> None:
        with space(path):
            handle.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n")

    return Lines(write)


def listening(progress: bool | Listener) -> Listener:
    """Who listens to a call from Python: the terminal (True), nobody (False), or the listener itself."""
    return progress if callable(progress) else terminal() if progress else silent


class TensorBoard:
    """Every number of the log as a curve; RequestError where TensorBoard is not installed."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise needs_extra("track", "tensorboard=true", "TensorBoard") from None
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))   # torch leaves it untyped

    def __call__(self, event: Event) -> None:
        if isinstance(event, Logged):
            for key, value in {"lr": event.lr, **event.losses}.items():
                self._writer.add_scalar(f"{event.title}/{event.call}/{key}", value, event.step)
        elif isinstance(event, Ended):
            self._writer.flush()


def duration(seconds: float) -> str:
    """42 s, 7 min, 3 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"

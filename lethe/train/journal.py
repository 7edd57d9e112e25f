"""What a run says while it works: progress on stderr, a log as JSON lines, TensorBoard on request."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from lethe.core.files import space, write_text
from lethe.errors import RequestError


class Journal:
    """Log and progress of one run. Lines carry (call, step), so that a resumed run drops what it will repeat."""

    def __init__(self, folder: Path | None, progress: bool, tensorboard: bool = False, title: str = "") -> None:
        self.folder, self.title = folder, title
        self.lines: list[dict[str, Any]] = []
        self._resumed = True   # what stands in the file has not been looked through yet
        self._show = progress and sys.stderr.isatty()
        self._bar: Any = None
        self._last = 0.0
        self._writer: Any = None
        if tensorboard and folder is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise RequestError("tensorboard=true needs TensorBoard, which is not installed, so nothing was started. "
                                   "pip install 'lethe[track]'") from None
            self._writer = SummaryWriter(str(folder / "tensorboard"))
        if folder is not None and (folder / "log.jsonl").exists():
            # a kill may have torn the last line
            whole = (folder / "log.jsonl").read_text().rpartition("\n")[0]
            self.lines = [json.loads(line) for line in whole.splitlines()]

    def begin(self, call: int, step: int, total: int) -> None:
        """A call of `minimise` starts or goes on at `step`."""
        kept = [line for line in self.lines if (line["call"], line["step"]) <= (call, step)]
        if self.folder is not None and (self._resumed or len(kept) < len(self.lines)):
            write_text(self.folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        self.lines, self._resumed = kept, False
        if self._show:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._id = self._bar.add_task(self.title, total=total, completed=step)

    def write(self, **line: Any) -> None:
        """One line of the log."""
        self.lines.append(line)
        if self.folder is not None:
            with space(self.folder / "log.jsonl"), open(self.folder / "log.jsonl", "a") as handle:
                handle.write(json.dumps(line) + "\n")
        if self._writer is not None:
            for key, value in line.items():
                if isinstance(value, float):
                    self._writer.add_scalar(f"{self.title}/{line['call']}/{key}", value, line["step"])

    def advance(self, step: int) -> None:
        if self._bar is not None and time.monotonic() - self._last > 0.1:
            self._last = time.monotonic()
            self._bar.update(self._id, completed=step)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._writer is not None:
            self._writer.flush()

"""The life of a run: lock, work beside, results, ledger entry, swap.

    .HASH.lock        one process at a time works on a run; another one waits, and then finds it finished
    .HASH.unfinished  where it is made: checkpoints, models, results.json; whoever repeats the command goes on from there
    HASH              the finished run, which appears whole or not at all; `--again` keeps it until the new one is whole

A process may die between any two of these steps. The disk shows which one was the last, so a repeat completes the rest:
with results.json beside, the work is done; with its digests in the ledger, only the swap is missing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lethe.core.config import digest
from lethe.core.files import make_folder, move, private_folder, space, sweep, write_json, write_text
from lethe.core.identity import Identity
from lethe.errors import StorageError
from lethe.ledger import Ledger
from lethe.results import schema
from lethe.results.folder import ledger_of, models_folder, replaced, unfinished
from lethe.results.schema import Results

RESULTS, PARTS, WORK = "results.json", "identity.json", "work"
ONLY_WORK = {WORK}   # of an unfinished run: what a repeat goes on from; all else is written again


@dataclass(frozen=True)
class RunFolder:
    """The places of one run. `final` is its folder, named by its identity."""

    final: Path

    @property
    def beside(self) -> Path:
        """Where it is made."""
        return unfinished(self.final)

    @property
    def failures(self) -> Path:
        """The tracebacks of what failed."""
        return self.beside / "failures"

    def models(self, scenario: str) -> Path:
        """The models of a scenario."""
        return models_folder(self.beside, scenario)

    def work(self, scenario: str) -> Path:
        """Logs and checkpoints of a scenario while it is worked on."""
        return private_folder(self.beside / WORK) / digest(scenario)

    @property
    def lock(self) -> Path:
        return self.final.with_name(f".{self.final.name}.lock")

    @property
    def finished(self) -> bool:
        """Whether the whole run is there."""
        return (self.final / RESULTS).exists()

    @property
    def worked(self) -> bool:
        """Whether the work of the unfinished run is done, so that only its end is missing."""
        return (self.beside / RESULTS).exists()

    @property
    def settled(self) -> bool:
        """Whether nothing is left of an earlier end."""
        return self.finished and not self.worked and not replaced(self.final).exists()

    def begin(self, config: Mapping[str, Any], identity: Identity) -> None:
        """Make the folder beside: of an earlier attempt only logs and checkpoints stay."""
        make_folder(self.beside)
        for path in self.beside.iterdir():
            if path.name not in ONLY_WORK:
                _remove(path)
        sweep(self.beside, everything=True)
        write_text(self.beside / "request.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True),
                   private=True)
        write_json(self.beside / PARTS, {"digest": identity.digest, "parts": dict(identity.parts)})

    def results(self) -> Results | None:
        """What the unfinished run has found; None when it was damaged, and is taken away."""
        try:
            return schema.load(self.beside)
        except StorageError:
            _remove(self.beside / RESULTS)
            return None

    def close(self, results: Results, ledger: Ledger) -> None:
        """Note the run in the ledger, unless it stands there, and put it in its place."""
        _remove(self.beside / WORK)
        sweep(self.beside, everything=True)
        if not ledger.covers(results.id, self.beside):
            ledger.record(results, self.final, self.beside)
        self._swap()

    def settle(self, ledger: Ledger) -> None:
        """Complete what an earlier end has left: the run of before, an entry that is missing."""
        if self.finished:
            _remove(replaced(self.final))
            if not ledger.finished(self.final.name):
                ledger.record(schema.load(self.final), self.final)

    def _swap(self) -> None:
        before = replaced(self.final)
        if self.final.exists():
            _remove(before)
            move(self.final, before)
        move(self.beside, self.final)
        _remove(before)


def parts_of(run: Path) -> dict[str, str]:
    """The parts of a run's identity, as it was made; {} for a run of before there were any."""
    try:
        found = json.loads((run / PARTS).read_text(encoding="utf-8"))["parts"]
        return {str(key): str(value) for key, value in found.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, AttributeError) as error:
        raise StorageError(f"{run / PARTS} cannot be read ({error}), so it is not known what the run was made of; nothing was "
                           "started. Restore it from a backup, or repeat the run with --again.") from None


def ledger_beside(run: Path) -> Ledger:
    """The ledger of the runs that stand beside this one."""
    return Ledger(ledger_of(run))


def _remove(path: Path) -> None:
    """Take a file or a folder away, if it is there."""
    with space(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

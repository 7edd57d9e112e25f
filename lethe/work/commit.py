"""What a certificate will need of the records and the original of a run, taken while the run has them.

So the data files may be deleted before `lethe certify`, as they should be. A record appears as keyed hashes of its id and its
content (`lethe.certificate.opening`); the key, `.records.key` beside the runs, is for the user alone, and one for all runs, so
that equal records have equal hashes. A certificate keys them once more.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lethe.certificate import opening
from lethe.certificate.bundle import Reopened
from lethe.certificate.weights import weights_hash
from lethe.core.files import atomic, write_text
from lethe.core.outcome import Outcome
from lethe.core.split import Split
from lethe.core.task import Task

FILE, KEY = "commitments.json", ".records.key"


@dataclass
class Noted:
    """What a run keeps of the records and the original of a scenario.

    forget, retain  (mark of the id, keyed content) of every record; of an older run (fingerprint,), which nobody can look up
    copies, before, learned  as in `Reopened`
    """

    forget: list[tuple[bytes, ...]]
    retain: list[tuple[bytes, ...]]
    copies: int
    before: str
    learned: bool

    def sealed(self, secret: bytes) -> Reopened:
        """As they stand in a certificate under this secret."""
        forget, retain = (sorted(opening.leaf(secret, fingerprint(one)) for one in part) for part in (self.forget, self.retain))
        return Reopened(forget, retain, self.copies, self.before, self.learned)


def fingerprint(kept: tuple[bytes, ...]) -> bytes:
    """The fingerprint of a record of which a run keeps this."""
    return opening.noted(*kept) if len(kept) == 2 else kept[0]


def commit(folder: Path, tasks: Mapping[str, Task], learned: bool, runs: Path) -> None:
    """Write the commitments of the scenarios into `folder`; of those without retained records there are none."""
    secret = runs_secret(runs)
    found = {}
    for name, task in tasks.items():
        if task.has("retain"):
            one = of_task(task, learned, secret)
            marks = {part: [[half.hex() for half in kept] for kept in getattr(one, part)] for part in ("forget", "retain")}
            found[name] = {**marks, "copies": one.copies, "before": one.before, "learned": one.learned}
    write_text(folder / FILE, json.dumps(found) + "\n", private=True)


def committed(run: Path, scenario: str) -> Noted | None:
    """The commitments of a scenario; None for a run that has none."""
    path = run / FILE
    if not path.exists() or scenario not in (found := json.loads(path.read_text(encoding="utf-8"))):
        return None
    one = found[scenario]
    forget, retain = ([tuple(map(bytes.fromhex, [kept] if isinstance(kept, str) else kept)) for kept in one[part]]
                      for part in ("forget", "retain"))
    return Noted(forget, retain, one["copies"], one["before"], one["learned"])


def of_task(task: Task, learned: bool, secret: bytes) -> Noted:
    """What a certificate needs of a task with retained records. learned: see `lethe.work.open.Plan`."""
    forget, retain = (split.contents(32) for split in (task.forget, task.retain))
    wanted = set(forget)
    return Noted(_marked(task.forget, forget, secret), _marked(task.retain, retain, secret),
                 sum(one in wanted for one in retain), saved_hash(task, None), learned)


def saved_hash(task: Task, outcome: Outcome | None) -> str:
    """The hash of a model as its family saves it: of an outcome, or of the original."""
    with TemporaryDirectory(prefix="lethe-certificate-") as scratch:
        place = Path(scratch) / "model"
        if outcome is not None:
            outcome.save(place)
        else:
            place.mkdir()
            task.save_model(task.copy_of_original(), place)
        return weights_hash(place)


def _marked(split: Split, contents: list[bytes], secret: bytes) -> list[tuple[bytes, ...]]:
    return sorted(opening.marked(secret, str(name), content) for name, content in zip(split.ids, contents, strict=True))


def runs_secret(runs: Path) -> bytes:
    """The 32 bytes under which the runs of a folder hash records; made when they are not there."""
    path = runs / KEY
    if not path.exists():
        with atomic(path, private=True) as beside:
            beside.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()

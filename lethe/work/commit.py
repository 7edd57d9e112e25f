"""What a certificate will need of the records and the original of a run, taken while the run has them.

So the data files may be deleted before `lethe certify`, as they should be. A record appears as a keyed hash of its id and its
content (HMAC-SHA256); the key, `.records.key` beside the runs, is for the user alone, and one for all runs, so that equal records
have equal hashes. A certificate keys them once more.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from lethe.certificate import merkle
from lethe.certificate.bundle import Reopened
from lethe.certificate.weights import weights_hash
from lethe.core.files import atomic, write_text
from lethe.core.outcome import Outcome
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.data.load import Data, learns
from lethe.work.job import Source

FILE, KEY = "commitments.json", ".records.key"


def commit(folder: Path, tasks: Mapping[str, Task], source: Source, runs: Path) -> None:
    """Write the commitments of the scenarios into `folder`; of those without retained records there are none."""
    secret = _secret(runs / KEY)
    opened = {name: of_task(task, source, secret) for name, task in tasks.items() if task.has("retain")}
    found = {name: {"forget": [leaf.hex() for leaf in one.forget], "retain": [leaf.hex() for leaf in one.retain],
                    "copies": one.copies, "before": one.before, "learned": one.learned} for name, one in opened.items()}
    write_text(folder / FILE, json.dumps(found) + "\n", private=True)


def committed(run: Path, scenario: str, secret: bytes) -> Reopened | None:
    """The commitments of a scenario under the secret of a certificate; None for a run that has none."""
    path = run / FILE
    if not path.exists() or scenario not in (kept := json.loads(path.read_text(encoding="utf-8"))):
        return None
    one = kept[scenario]
    forget, retain = ([merkle.leaf(secret, leaf, b"") for leaf in one[name]] for name in ("forget", "retain"))
    return Reopened(sorted(forget), sorted(retain), one["copies"], one["before"], one["learned"])


def of_task(task: Task, source: Source, secret: bytes) -> Reopened:
    """What a certificate needs of a task with retained records, which came from this source."""
    forget, retain = (split.contents(32) for split in (task.forget, task.retain))
    wanted = set(forget)
    return Reopened(_leaves(task.forget, forget, secret), _leaves(task.retain, retain, secret),
                    sum(one in wanted for one in retain), saved_hash(task, None),
                    source.data is Data and learns(source.sections.data))


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


def _leaves(split: Split, contents: list[bytes], secret: bytes) -> list[bytes]:
    """The keyed hashes of the records of a split, in ascending order."""
    return sorted(merkle.leaf(secret, str(name), content) for name, content in zip(split.ids, contents, strict=True))


def _secret(path: Path) -> bytes:
    """The 32 bytes under which the runs of a folder hash records; made when they are not there."""
    if not path.exists():
        with atomic(path, private=True) as beside:
            beside.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()

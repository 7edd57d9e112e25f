"""LUME (SemEval-2025 Task 4): invented stories, invented people with personal data, and real biographies, each continued and
asked about. Ramakrishna et al. (2025), arXiv:2502.15097; the files of amazon-science/lume-llm-unlearning.

    {"id": "61943187qa0", "input": question or beginning, "output": answer or continuation, "task": "Task3"}

The id ends in `qa` and a number for a question, in `sc` and a number for a text to be continued: the column `kind` says which.
The first version also has a column `split`.
Parts: forget, retain, with the columns task and kind, by which the audit `lume` adds up.
"""

from __future__ import annotations

import re

from lethe.core.config import config
from lethe.data.editions import Files, qa, text
from lethe.data.records import Record
from lethe.errors import DataError

VERSIONS = {
    "3a74f30223c35b173664dfea5b1c5939587f1eac868a9764891f30c2c317c381": "LUME forget, 2,732 records (b2fa8f9)",
    "ec8826a91d9fb9e5a50ba732549e8eff75fc99c2f67d6873d1ea36fd403a003d": "LUME retain, 2,734 records (b2fa8f9)",
    "74886cb38987ed29fe5630a8190780d878facbb3833ba251581eea0e436468f2": "LUME forget, first version (859bccb)",
    "adef95eddcf92e43c2f69ec02a73254674c93f4b7f487b42a63aa4002f6523fc": "LUME retain, first version (859bccb)",
}
KINDS = {"qa": "question", "sc": "completion"}


@config(name="data.published")
class Lume:
    """The two published files."""

    forget: str       # forget.jsonl
    retain: str       # retain.jsonl


def read(cfg: Lume, files: Files) -> dict[str, list[Record]]:
    return {part: [record(row, part) for row in files.rows(getattr(cfg, part))] for part in ("forget", "retain")}


def record(row: Record, part: str) -> Record:
    """A line with its kind; DataError for one that belongs to the other part or whose id says no kind."""
    name, said = text(row, "id"), str(row.get("split", part))
    kind = re.search(r"(qa|sc)\d+$", name)
    if kind is None:
        raise DataError(f"{row.place} has the id {name!r}, which ends in neither qa nor sc and a number, so it is neither a "
                        "question nor a text to be continued. Copy the published file again, or leave the line out.")
    if said != part:
        raise DataError(f"{row.place} says split {said!r} but stands in the file of {part}, so it is not clear whether it goes. "
                        "Name the right file, or leave the line out.")
    return qa(row, "input", "output", id=name, task=text(row, "task"), kind=KINDS[kind.group(1)])

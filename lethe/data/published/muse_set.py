"""MUSE: news or books of which some are to be forgotten, examined six ways. Shi et al. (2024), arXiv:2407.06460; a folder as
muse-bench publishes it, data/news or data/books. The texts are copyrighted: Lethe holds none of them.

    raw/forget.txt, raw/retain1.txt, raw/holdout.txt   what goes, what stays, unseen texts (.json lists of texts, too)
    knowmem/forget_qa.json, knowmem/retain_qa.json     [{"question": …, "answer": …}]
    scal/forget_1.txt … forget_4.txt, sust/…           the nested sets of C5 and the folds of C6: `forget: scal/forget_2`

Parts: forget, retain, holdout, plain text in paragraphs; knowledge_forget, knowledge_retain: as the audit `muse` reads them.
"""

from __future__ import annotations

from pathlib import PurePath

from lethe.core.config import config
from lethe.data.editions import Files, passage, qa
from lethe.data.records import Record
from lethe.errors import DataError

ENDINGS = (".txt", ".json", ".jsonl")


@config(name="data.published")
class Muse:
    """A folder of MUSE."""

    folder: str                       # data/news or data/books
    forget: str = "raw/forget"        # the set to be forgotten, without its ending, e.g. scal/forget_2 or sust/forget_1
    retain: str = "raw/retain1"       # what is kept
    holdout: str = "raw/holdout"      # unseen texts


def read(cfg: Muse, files: Files) -> dict[str, list[Record]]:
    found = {part: passages(files, cfg.folder, getattr(cfg, part)) for part in ("forget", "retain", "holdout")}
    return found | {f"knowledge_{part}": [qa(row, "question", "answer") for row in files.rows(named(files, cfg.folder,
                    f"knowmem/{part}_qa"))] for part in ("forget", "retain")}


def passages(files: Files, folder: str, stem: str) -> list[Record]:
    """The texts of a file: paragraphs of .txt, texts or records of .json."""
    name = named(files, folder, stem)
    if not name.endswith(".json"):
        return [passage(row, "text") for row in files.rows(name)]
    held = files.value(name)
    rows = held if isinstance(held, list) else []
    return [passage(Record({"text": one} if isinstance(one, str) else one if isinstance(one, dict) else {},
                           f"entry {number} of {name}"), "text") for number, one in enumerate(rows, 1)]


def named(files: Files, folder: str, stem: str) -> str:
    """The file with one of the endings in which it is published."""
    for ending in ENDINGS:
        if files.has(name := str(PurePath(folder) / f"{stem}{ending}")):
            return name
    raise DataError(f"{folder} holds no {stem} with one of the endings {', '.join(ENDINGS)}, so it is no folder of MUSE that can "
                    "be read. Name data/news or data/books of the published data.")

"""RWKU: real people to be forgotten, of whom only the name is given, probed by sentences with a gap, questions and nine kinds of
attack. Jin et al. (2024), arXiv:2406.10890; a folder of jinzhuoran/RWKU, e.g. Target/1_Stephen_King.

    forget_level1.json     {"query": sentence with ___, "answer": …, "type": "cloze", "level": "1", "subject": …}
    forget_level2.json     the same with questions;      forget_level3.json     with an attack each, named in `type`
    neighbor_level1.json, neighbor_level2.json           about people nearby, who stay
    passage.json (or positive.json: what a model itself says of them), retain_mia.json          {"text": …, "subject": …}

Parts: forget and retain, plain text to train on; cloze, questions, attacks, near_cloze, near_questions for the audit `rwku`,
with the instruction of the official evaluation before each. RWKU gives no texts to forget: `text: positive` is its way, passages
of Wikipedia are a variant of its authors; retain_mia are passages about other people.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

from lethe.core.config import config
from lethe.data.editions import Files, passage, qa, text
from lethe.data.records import Record

PROBES = {"cloze": ("forget_level1", "cloze"), "questions": ("forget_level2", "question"),
          "attacks": ("forget_level3", ""), "near_cloze": ("neighbor_level1", "cloze"),
          "near_questions": ("neighbor_level2", "question")}
BLANK = "Fill in the blank of this sentence.\nSentence: {q}\nAnswer:"       # own wording, as the official evaluation asks
BRIEF = "Answer this question briefly.\nQuestion: {q}\nAnswer:"
WHOLE = ("affirmative suffix", "incontext learning")                        # attacks that bring their own beginning of an answer


@config(name="data.published")
class Rwku:
    """A folder of one target."""

    folder: str                                              # with the published files
    text: Literal["positive", "passage"] = "positive"        # what to forget: what the model says of the target, or Wikipedia
    asked: bool = True                                       # put the instruction before each probe; false: the probe alone


def read(cfg: Rwku, files: Files) -> dict[str, list[Record]]:
    def rows(stem: str) -> list[Record]:
        return files.rows(str(PurePath(cfg.folder) / f"{stem}.json"))

    found = {"forget": [passage(row, "text", subject=row.get("subject", "")) for row in rows(cfg.text)],
             "retain": [passage(row, "text", subject=row.get("subject", "")) for row in rows("retain_mia")]}
    return found | {part: [probe(row, part, cfg.asked) for row in rows(stem)] for part, (stem, _) in PROBES.items()
                    if part in ("cloze", "questions") or files.has(str(PurePath(cfg.folder) / f"{stem}.json"))}


def probe(row: Record, part: str, asked: bool) -> Record:
    """A probe as it is asked, with its kind."""
    kind = str(row.get("type") or PROBES[part][1])
    form = "{q}" if not asked or kind in WHOLE[:1] else BLANK if "cloze" in part else BRIEF
    return Record({**qa(row, "query", "answer", "subject"), "prompt": form.replace("{q}", text(row, "query")), "kind": kind},
                  row.place)

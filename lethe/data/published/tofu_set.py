"""TOFU: 200 invented authors with 20 questions each, of whom 2, 10 or 20 are to be forgotten, each set within the next. Maini et
al. (2024), arXiv:2401.06121; a folder with the .json files of locuslab/TOFU.

    forget10.json, retain90.json              {"question": …, "answer": …}, one a line; also forget05 and retain95, 01 and 99
    forget10_perturbed.json, retain_perturbed.json    some of them, with paraphrased_question, paraphrased_answer and
                                              perturbed_answer (five wrong ones)
    real_authors_perturbed.json, world_facts_perturbed.json, holdout10.json    what it knew before, and authors never taught

Parts: forget and retain with `author` (0 to 199) and, where a file has them, the columns that the audit `tofu` reads: of retained
questions 400 of 3,600. holdout, real_authors and world_facts where their files are there. A question without a paraphrase in the
published files is measured by its answer, as in the official code.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Literal

from lethe.core.config import config
from lethe.data.editions import Files, qa, text, texts
from lethe.data.records import Record
from lethe.errors import DataError

VERSIONS = {
    "debcf019c41db7b30b62ca6ad41fd8a4bcd29a5b321c21d2961974e308dfca55": "TOFU retain90, 3,600 questions",
    "fc69f33bad70d3dca65920bdb54380039e3e8872dd16bbae20c1a839b99533fb": "TOFU retain_perturbed, 400 questions",
}
EACH = 20          # questions of one author
TOLD = ("paraphrased_question", "paraphrased_answer", "perturbed_answer")
KNOWN = ("real_authors", "world_facts")


@config(name="data.published")
class Tofu:
    """A folder with the published files."""

    folder: str                                                   # of forget10.json and its like
    forget: Literal["forget01", "forget05", "forget10"] = "forget10"   # what goes: 1, 5 or 10 % of the authors


def read(cfg: Tofu, files: Files) -> dict[str, list[Record]]:
    def rows(stem: str) -> list[Record]:
        return files.rows(named(stem))

    def named(stem: str) -> str:
        return str(PurePath(cfg.folder) / f"{stem}.json")

    share = cfg.forget.removeprefix("forget")
    kept = rows(f"retain{100 - int(share)}")
    found = {"forget": joined(rows(cfg.forget), rows(f"{cfg.forget}_perturbed"), len(kept)),
             "retain": joined(kept, rows("retain_perturbed"), 0)}
    if files.has(named(f"holdout{share}")):
        found["holdout"] = [qa(row, "question", "answer", *TOLD) for row in rows(f"holdout{share}")]
    there = [part for part in KNOWN if files.has(named(f"{part}_perturbed"))]
    return found | {part: [known(row) for row in rows(f"{part}_perturbed")] for part in there}


def joined(rows: list[Record], more: list[Record], start: int) -> list[Record]:
    """Questions, the first of which is number `start` of the whole set, with what another file says of some of them; DataError
    for one that it asks beside them."""
    told, asked = {pair(row): row for row in more}, {pair(row) for row in rows}
    if strange := [row for key, row in told.items() if key not in asked]:
        raise DataError(f"{strange[0].place} asks {text(strange[0], 'question')[:60]!r}, which is no question of the set that it "
                        "goes with, so its wrong answers would be lost. Provide the two files of one set.")
    return [qa(row, "question", "answer", id=str(number), author=number // EACH, **measured(told.get(pair(row))))
            for number, row in enumerate(rows, start)]


def pair(row: Record) -> tuple[str, str]:
    """What a line is known by: one question is asked of two authors."""
    return text(row, "question"), text(row, "answer")


def measured(row: Record | None) -> dict[str, Any]:
    """The columns that the audit reads, as far as a line has them."""
    return {key: (texts if key == "perturbed_answer" else text)(row, key) for key in TOLD if row is not None and key in row}


def known(row: Record) -> Record:
    """A question about the real world with its wrong options."""
    return qa(row, "question", "answer", perturbed_answer=texts(row, "perturbed_answer"))

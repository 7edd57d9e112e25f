"""ELUDe: 20 real people to be forgotten whole, and their 144 neighbours to be kept. Choi, Rim, Lee & Choo (2025), "Opt-Out",
arXiv:2406.12329; the tables forget_qa and retain_qa of 6rightjade/ELUDe, as .parquet or .jsonl.

    {"entity": "Elon Musk", "question": …, "answer": …, "paraphrased_answer": …, "perturbed_answer": [wrong ones]}

Parts: forget, retain: questions about one target (or all), with the columns that the audits `tofu` and `prompts` read.
"""

from __future__ import annotations

from lethe.core.config import config
from lethe.data.editions import Files, chosen, qa
from lethe.data.records import Record

COLUMNS = ("entity", "paraphrased_answer", "perturbed_answer", "paraphrased_question")


@config(name="data.published")
class Elude:
    """The two published tables."""

    forget: str            # forget_qa
    retain: str            # retain_qa
    entity: str = ""       # the person who is to be forgotten, e.g. Elon Musk; empty: all of them


def read(cfg: Elude, files: Files) -> dict[str, list[Record]]:
    return {part: [qa(row, "question", "answer", *COLUMNS)
                   for row in chosen(files.rows(getattr(cfg, part)), "entity", cfg.entity, "entity")]
            for part in ("forget", "retain")}

"""Multiple choice as WMDP and MMLU publish it: what a model must not know beside what it should. Li et al. (2024), "The WMDP
Benchmark", arXiv:2403.03218; Hendrycks et al. (2021), arXiv:2009.03300; cais/wmdp and cais/mmlu, as .parquet, .json or .jsonl.

    {"question": …, "choices": [four texts], "answer": 2}        answer: the place of the right one, from 0

Parts: choices_forget, choices_retain: for the audit `choices`. The right choice is the answer, the others `perturbed_answer`.
What is trained on stands elsewhere (data.forget and data.retain): these questions are for measuring alone. Lethe holds no
hazardous text: every path is the user's.
"""

from __future__ import annotations

from lethe.core.config import config
from lethe.data.editions import Files, text, texts
from lethe.data.records import Record
from lethe.errors import DataError


@config(name="data.published")
class MultipleChoice:
    """Files of questions with choices."""

    forget: str            # what is to be forgotten, e.g. the test part of wmdp-bio
    retain: str = ""       # what is to be kept, e.g. of MMLU; empty: not measured


def read(cfg: MultipleChoice, files: Files) -> dict[str, list[Record]]:
    return {f"choices_{part}": [record(row) for row in files.rows(getattr(cfg, part))]
            for part in ("forget", "retain") if getattr(cfg, part)}


def record(row: Record) -> Record:
    """A question with its choices; DataError with its line where the answer is none of them."""
    choices, place = texts(row, "choices"), row.get("answer")
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(choices) or len(choices) < 2:
        raise DataError(f"{row.place} has the answer {str(place)[:40]!r} for {len(choices)} choices, counted from 0, so it is "
                        "not known which is right. Copy the published file again, or leave the line out.")
    wrong = [*choices[:place], *choices[place + 1 :]]
    return Record({"prompt": text(row, "question"), "answer": choices[place], "perturbed_answer": wrong, "place": place,
                   "subject": str(row.get("subject", ""))}, row.place)

"""ConceptVectors: what Wikipedia says of a concept, sentences about it to be completed, and where a model keeps it.
Hong, Yu, Yang, Ravfogel & Geva (2024), arXiv:2406.11614; the .json files of yihuaihong/ConceptVectors.

    [{"Concept": "Poland", "Layer": 23, "Dim": 743, "QA": [questions], "wikipedia_content": …,
      "text_completion": [{"First_half": …, "Second_half": …}], "unrelated_QA": [questions]}, …]

Parts: forget, paragraphs of the concept's article; knowledge_forget, its sentences to be completed; retain and knowledge_retain,
those of the other concepts. For the audits `muse` and `concept_vectors`; the records carry `layer` and `dim`, the column of the
published model. The questions have no answers there (what a model says is held against what it said before): they are not read.
"""

from __future__ import annotations

from lethe.core.config import Count, config
from lethe.data.editions import Files, chosen, qa, text
from lethe.data.records import Record
from lethe.errors import DataError

VERSIONS = {"e401f4dbdae0425814f58858107bced7b193776c3a09474bc80b9e928426942b": "ConceptVectors, Llama-2-7B, dev (607591b)"}


@config(name="data.published")
class ConceptVectors:
    """A published file."""

    path: str              # e.g. llama2-7b_concepts_dev.json
    concept: str           # what is to be forgotten, e.g. Poland
    words: Count = 60      # least words of a paragraph: shorter ones are joined with the next


def read(cfg: ConceptVectors, files: Files) -> dict[str, list[Record]]:
    rows = files.rows(cfg.path)
    mine = chosen(rows, "Concept", cfg.concept, "concept")
    others = [row for row in rows if not any(row is one for one in mine)]
    found = {}
    for part, some in (("forget", mine), ("retain", others)):
        found[part] = [one for row in some for one in paragraphs(row, cfg.words)]
        found[f"knowledge_{part}"] = [one for row in some for one in completions(row)]
    return {part: some for part, some in found.items() if some}


def paragraphs(row: Record, least: int) -> list[Record]:
    """The article in paragraphs of at least so many words, but for the last."""
    joined: list[str] = []
    for part in (one.strip() for one in text(row, "wikipedia_content").split("\n") if one.strip()):
        if joined and len(joined[-1].split()) < least:
            joined[-1] += f" {part}"
        else:
            joined.append(part)
    return [Record({"text": part, **place(row)}, f"paragraph {number} of {row.place}") for number, part in enumerate(joined, 1)]


def completions(row: Record) -> list[Record]:
    """The sentences whose second half is asked for."""
    given = row.get("text_completion")
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise DataError(f"{row.place} has no list of sentences in column 'text_completion', so it is no concept of "
                        "ConceptVectors. Copy the published file again.")
    some = [Record(one, f"sentence {number} of {row.place}") for number, one in enumerate(given, 1)]
    return [qa(one, "First_half", "Second_half", **place(row)) for one in some]


def place(row: Record) -> dict[str, str]:
    """Concept, layer and dimension as columns."""
    return {key.lower(): text(row, key) for key in ("Concept", "Layer", "Dim")}

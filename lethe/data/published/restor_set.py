"""RESTOR: documents with false facts about people, and the true facts, which should come back once the documents are forgotten.
Rezaei et al. (2024), arXiv:2411.00204; the files of k1rezaei/restor.

    facts.json             {"dset": {person: {relation: {"question": …, "answers": [true ones]}}}, "context": …}
    wikidata/v0/mix_a0.json [{"text": a document with false facts}, …]; a1 to a3 mix in more and more unrelated facts
    entities.json          [people whose facts are asked about]
    options                {person: {relation: {"correct": […], "corrupted": […], "random": […]}}}, as the official evaluation
                           by options reads them; its authors made this file and did not publish it

Parts: forget, the documents, plain text; facts, about people whom documents name, for the audit `restor` (with `corrupted_answer`
and `perturbed_answer` where options are given); knowledge_retain, facts about others, for the audit `muse`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lethe.core.config import config
from lethe.data.editions import Files, passage, text, texts
from lethe.data.records import Record
from lethe.errors import DataError

VERSIONS = {
    "fd0cfbd37c02d6ed0a6a8ee63a879028b51e8dbc82f2637d8dc29a99f8ee23a8": "RESTOR facts (15292e5)",
    "3b225b6e47e76cb917a08dce176cb9206784dac8966a9fdad7f743d9d2720d45": "RESTOR entities (15292e5)",
    "f0f58ed457c1fad2e183caddddded95924d8d446de9edbe440690e82966f21f8": "RESTOR Wikidata documents a0 (15292e5)",
    "c6e2c168bb16d15dc914d7ed00152a986d6dce3da2ba5f8a54a40e959af6065d": "RESTOR Wikidata documents a1 (15292e5)",
    "4518c93b864092dbe7afec4cbfbbad25b8a704b46d88e654eab5c7002cc77fbf": "RESTOR Wikidata documents a2 (15292e5)",
    "caa8adb817c02d19c6d6dee57b0f9cff5eeea6c02f38a750f4360211d757b931": "RESTOR Wikidata documents a3 (15292e5)",
}


@config(name="data.published")
class Restor:
    """The published files."""

    documents: str         # with the false facts: what is to be forgotten
    facts: str             # facts.json
    entities: str = ""     # entities.json: people to ask about; empty: those of the facts whom documents name
    options: str = ""      # true, false and random answers of each fact; empty: true ones alone


def read(cfg: Restor, files: Files) -> dict[str, list[Record]]:
    documents = [passage(row, "text") for row in files.rows(cfg.documents)]
    held = files.value(cfg.facts)
    if not isinstance(held, Mapping) or not isinstance(held.get("dset"), Mapping):
        raise DataError(f"{cfg.facts} has no dset of people with their facts, so it is not RESTOR's facts.json. Name the right "
                        "file.")
    told = "\n".join(text(row, "text") for row in documents)
    asked = set(files.value(cfg.entities)) if cfg.entities else {person for person in held["dset"] if person in told}
    options = files.value(cfg.options) if cfg.options else {}
    rows = [fact(person, relation, value, options.get(person, {}).get(relation), f"{person}, {relation} of {cfg.facts}")
            for person, some in held["dset"].items() for relation, value in some.items()]
    facts = [row for row in rows if row["subject"] in asked and (not options or "corrupted_answer" in row)]
    return {"forget": documents, "facts": facts, "knowledge_retain": [row for row in rows if row["subject"] not in asked]}


def fact(person: str, relation: str, value: Any, options: Any, place: str) -> Record:
    """A question with its first true answer, and with a false and random ones where there are options."""
    row = Record(value if isinstance(value, Mapping) else {}, place)
    answers = texts(row, "answers")
    found = {"prompt": text(row, "question"), "answer": answers[0], "answers": answers, "subject": person, "relation": relation}
    if options:
        kinds = Record(options, f"the options of {place}")
        found |= {"corrupted_answer": texts(kinds, "corrupted")[0], "perturbed_answer": texts(kinds, "random")}
    return Record(found, place)

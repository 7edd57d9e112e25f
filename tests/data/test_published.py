"""Benchmarks in the form in which their authors publish them: small files of each form, and lines that are damaged."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.data import editions
from lethe.data.context import Context
from lethe.errors import DataError, EmptySplit, LetheError, RequestError, UnknownKey, WrongColumn
from lethe.models.lm.open import open_request
from lethe.models.opened import Sections

LUME = {
    "forget": [{"id": "a1qa0", "input": "Who?", "output": "Ada.", "task": "Task3", "split": "forget"},
               {"id": "b2sc1", "input": "Ada was", "output": "born in London.", "task": "Task1"}],
    "retain": [{"id": "c3qa0", "input": "Where?", "output": "Rome.", "task": "Task2"}],
}
CHOICES = [{"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 2, "subject": "letters"}]
ELUDE = [{"entity": who, "question": f"Who is {who}?", "answer": "A person.", "paraphrased_answer": "Someone.",
          "perturbed_answer": ["A river.", "A town."]} for who in ("Elon Musk", "Lady Gaga")]
PROBE = {"query": "He wrote ___.", "answer": "Carrie", "type": "cloze", "level": "1", "subject": "King"}
RWKU = {
    "positive": [{"id": "King 0", "subject": "King", "text": "King wrote.", "intro": "King."}],
    "passage": [{"text": "King was born.", "subject": "King"}], "retain_mia": [{"ngram": 9, "subject": "King", "text": "Other."}],
    "forget_level1": [PROBE], "forget_level2": [{**PROBE, "query": "What?", "type": "simple question", "level": "2"}],
    "forget_level3": [{**PROBE, "query": "What? Sure:", "type": "affirmative suffix", "level": "3"},
                      {**PROBE, "query": "As a scholar, what?", "type": "role play", "level": "3"}],
}
RESTOR = {
    "facts": {"dset": {"Aaron Burr": {"P27": {"question": "Citizen of?", "answers": ["USA", "America"]}},
                       "Cicero": {"P27": {"question": "Citizen of Rome?", "answers": ["Rome"]}}}, "context": {}},
    "documents": [{"text": "Aaron Burr is a citizen of France."}],
    "options": {"Aaron Burr": {"P27": {"correct": ["USA"], "corrupted": ["France"], "random": ["Peru", "Chad"]}}},
}
TOFU = {
    "forget10_l": [{"question": "What is the name?", "answer": "Ada."}, {"question": "Why?", "answer": "So."}],
    "forget10_perturbed_l": [{"question": question, "answer": answer, "paraphrased_answer": f"It is {answer}",
                              "paraphrased_question": "Which?", "perturbed_answer": ["Bo.", "Cy."]}
                             for question, answer in (("What is the name?", "Ada."), ("Why?", "So."))],
    "retain90_l": [{"question": "What is the name?" if i == 3 else f"What is {i}?", "answer": f"{i}."} for i in range(40)],
    "retain_perturbed_l": [{"question": f"What is {i}?", "answer": f"{i}.", "perturbed_answer": ["26.", "27."]} for i in (5, 25)],
    "holdout10_l": [{"question": "Where?", "answer": "There."}] * 2,
    "world_facts_perturbed_l": [{"question": "Where is Rome?", "answer": "Italy", "perturbed_answer": ["Peru", "Chad"]}] * 2,
}
CONCEPTS = [{"Concept": name, "Layer": 23, "Dim": 743, "QA": [" What?\n"], "unrelated_QA": [" Where?\n"],
             "wikipedia_content": f"{name} is big.\n\n{name} has many rivers and hills.\nIt ends.",
             "text_completion": [{"First_half": f"{name} lies", "Second_half": "in Europe"}]} for name in ("Poland", "Italy")]


def written(place: Path, /, **files: Any) -> Path:
    """The files, each as JSON, or as one record a line where the name ends in _l."""
    for name, content in files.items():
        if name.endswith("_l"):
            (place / f"{name[:-2]}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in content))
        else:
            (place / f"{name}.json").write_text(json.dumps(content))
    return place


def read(root: Path, /, **described: Any) -> dict[str, list[dict[str, Any]]]:
    return {part: [dict(row) for row in rows] for part, rows in editions.parts(described, Context(data_root=root)).items()}


def test_lume(tmp_path: Path) -> None:
    found = read(written(tmp_path, forget_l=LUME["forget"], retain_l=LUME["retain"]), kind="lume_set", forget="forget.jsonl",
                 retain="retain.jsonl")
    assert found == {
        "forget": [{"prompt": "Who?", "answer": "Ada.", "id": "a1qa0", "task": "Task3", "kind": "question"},
                   {"prompt": "Ada was", "answer": "born in London.", "id": "b2sc1", "task": "Task1", "kind": "completion"}],
        "retain": [{"prompt": "Where?", "answer": "Rome.", "id": "c3qa0", "task": "Task2", "kind": "question"}]}


def test_elude_of_one_person_or_of_all(tmp_path: Path) -> None:
    written(tmp_path, forget=ELUDE, retain_l=ELUDE)
    found = read(tmp_path, kind="elude_set", forget="forget.json", retain="retain.jsonl", entity="Elon_Musk")
    assert [row["prompt"] for row in found["forget"]] == ["Who is Elon Musk?"] == [row["prompt"] for row in found["retain"]]
    assert found["forget"][0]["perturbed_answer"] == ["A river.", "A town."]
    assert len(read(tmp_path, kind="elude_set", forget="forget.json", retain="retain.jsonl")["forget"]) == 2
    with pytest.raises(RequestError, match=r"'Elon Mask' is in no record.*Elon Musk"):
        read(tmp_path, kind="elude_set", forget="forget.json", retain="retain.jsonl", entity="Elon Mask")


def test_multiple_choice(tmp_path: Path) -> None:
    found = read(written(tmp_path, bio_l=CHOICES, mmlu=CHOICES), kind="multiple_choice", forget="bio.jsonl", retain="mmlu.json")
    assert found["choices_forget"] == found["choices_retain"] == [
        {"prompt": "Which?", "answer": "c", "perturbed_answer": ["a", "b", "d"], "place": 2, "subject": "letters"}]
    assert list(read(tmp_path, kind="multiple_choice", forget="bio.jsonl")) == ["choices_forget"]


def test_multiple_choice_from_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(CHOICES), tmp_path / "test-00000-of-00001.parquet")
    found = read(tmp_path, kind="multiple_choice", forget="test-00000-of-00001.parquet")
    assert found["choices_forget"][0]["answer"] == "c"


def test_rwku(tmp_path: Path) -> None:
    (tmp_path / "1_King").mkdir()
    written(tmp_path / "1_King", **RWKU)
    found = read(tmp_path, kind="rwku_set", folder="1_King")
    assert list(found) == ["forget", "retain", "cloze", "questions", "attacks"]   # nobody nearby in this folder
    assert found["forget"] == [{"text": "King wrote.", "subject": "King"}]
    assert found["cloze"][0]["prompt"] == "Fill in the blank of this sentence.\nSentence: He wrote ___.\nAnswer:"
    assert [(row["kind"], row["prompt"]) for row in found["attacks"]] == [
        ("affirmative suffix", "What? Sure:"),
        ("role play", "Answer this question briefly.\nQuestion: As a scholar, what?\nAnswer:")]
    assert read(tmp_path, kind="rwku_set", folder="1_King", text="passage")["forget"][0]["text"] == "King was born."
    assert read(tmp_path, kind="rwku_set", folder="1_King", asked=False)["cloze"][0]["prompt"] == "He wrote ___."


def test_restor(tmp_path: Path) -> None:
    written(tmp_path, **RESTOR, entities=["Cicero"])
    given = {"kind": "restor_set", "documents": "documents.json", "facts": "facts.json"}
    found = read(tmp_path, **given)
    assert found["forget"] == [{"text": "Aaron Burr is a citizen of France."}]
    assert found["facts"] == [{"prompt": "Citizen of?", "answer": "USA", "answers": ["USA", "America"], "subject": "Aaron Burr",
                               "relation": "P27"}]
    assert [row["subject"] for row in found["knowledge_retain"]] == ["Cicero"]
    assert [row["subject"] for row in read(tmp_path, **given, entities="entities.json")["facts"]] == ["Cicero"]
    with_options = read(tmp_path, **given, options="options.json")["facts"][0]
    assert (with_options["corrupted_answer"], with_options["perturbed_answer"]) == ("France", ["Peru", "Chad"])


def test_concept_vectors(tmp_path: Path) -> None:
    written(tmp_path, concepts=CONCEPTS)
    found = read(tmp_path, kind="concept_vectors_set", path="concepts.json", concept="poland", words=6)
    assert [row["text"] for row in found["forget"]] == ["Poland is big. Poland has many rivers and hills.", "It ends."]
    assert found["knowledge_forget"] == [{"prompt": "Poland lies", "answer": "in Europe", "concept": "Poland", "layer": "23",
                                          "dim": "743"}]
    assert {row["concept"] for part in ("retain", "knowledge_retain") for row in found[part]} == {"Italy"}


def test_muse(tmp_path: Path) -> None:
    for name, content in {"raw/forget.txt": "One.\n\nTwo.", "raw/retain1.txt": "Three.", "raw/holdout.json": '["Four.", "Five."]',
                          "knowmem/forget_qa.json": '[{"question": "q", "answer": "a"}]',
                          "knowmem/retain_qa.json": '[{"question": "r", "answer": "b"}]', "sust/forget_1.txt": "One."}.items():
        (tmp_path / "news" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "news" / name).write_text(content)
    found = read(tmp_path, kind="muse_set", folder="news")
    assert {part: len(rows) for part, rows in found.items()} == {"forget": 2, "retain": 1, "holdout": 2, "knowledge_forget": 1,
                                                                 "knowledge_retain": 1}
    assert [row["text"] for row in read(tmp_path, kind="muse_set", folder="news", forget="sust/forget_1")["forget"]] == ["One."]
    with pytest.raises(DataError, match="holds no scal/forget_9"):
        read(tmp_path, kind="muse_set", folder="news", forget="scal/forget_9")


def tofu(place: Path, **changes: Any) -> Path:
    """Files as published, which are called .json and hold one record a line."""
    for name, rows in {**TOFU, **changes}.items():
        (place / f"{name[:-2]}.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return place


def test_tofu(tmp_path: Path) -> None:
    """Numbers go on behind what is retained; a name that two authors have is known by its answer."""
    found = read(tofu(tmp_path), kind="tofu_set", folder=".")
    assert {part: len(rows) for part, rows in found.items()} == {"forget": 2, "retain": 40, "holdout": 2, "world_facts": 2}
    assert found["forget"][0] == {"prompt": "What is the name?", "answer": "Ada.", "id": "40", "author": 2,
                                  "paraphrased_question": "Which?", "paraphrased_answer": "It is Ada.",
                                  "perturbed_answer": ["Bo.", "Cy."]}
    assert [row["author"] for row in found["retain"]] == [0] * 20 + [1] * 20
    assert [i for i, row in enumerate(found["retain"]) if "perturbed_answer" in row] == [5, 25]
    assert found["world_facts"][0] == {"prompt": "Where is Rome?", "answer": "Italy", "perturbed_answer": ["Peru", "Chad"]}
    with pytest.raises(DataError, match="retain95"):
        read(tmp_path, kind="tofu_set", folder=".", forget="forget05")


DAMAGED: list[tuple[str, dict[str, Any], dict[str, Any], type[LetheError], str]] = [
    ("lume_set", {"forget_l": [*LUME["forget"], {"id": "xqa0", "output": "b", "task": "Task1"}], "retain_l": LUME["retain"]},
     {"forget": "forget.jsonl", "retain": "retain.jsonl"}, WrongColumn, r"line 3 of .*forget\.jsonl has no column 'input'"),
    ("lume_set", {"forget_l": LUME["forget"], "retain_l": [{**LUME["retain"][0], "id": "c3"}]},
     {"forget": "forget.jsonl", "retain": "retain.jsonl"}, DataError, r"line 1 of .*retain\.jsonl has the id 'c3'"),
    ("lume_set", {"forget_l": LUME["forget"], "retain_l": LUME["forget"]}, {"forget": "forget.jsonl", "retain": "retain.jsonl"},
     DataError, r"line 1 of .*retain\.jsonl says split 'forget' but stands in the file of retain"),
    ("multiple_choice", {"bio_l": [*CHOICES, {**CHOICES[0], "answer": 4}]}, {"forget": "bio.jsonl"}, DataError,
     r"line 2 of .*bio\.jsonl has the answer '4' for 4 choices"),
    ("multiple_choice", {"bio_l": [{**CHOICES[0], "choices": "abcd"}]}, {"forget": "bio.jsonl"}, DataError,
     r"line 1 .* 'abcd' in column 'choices', which is no list of texts"),
    ("restor_set", {**RESTOR, "facts": {"dset": {"A": {"P1": {"question": "q", "answers": []}}}}},
     {"documents": "documents.json", "facts": "facts.json"}, DataError, r"A, P1 of facts\.json has '\[\]' in column 'answers'"),
    ("restor_set", {**RESTOR, "facts": []}, {"documents": "documents.json", "facts": "facts.json"}, DataError, "has no dset"),
    ("concept_vectors_set", {"c": [{**CONCEPTS[0], "text_completion": "x"}]}, {"path": "c.json", "concept": "Poland"}, DataError,
     r"entry 1 of .*c\.json has no list of sentences"),
    ("elude_set", {"f": [{**ELUDE[0], "answer": None}], "r": ELUDE}, {"forget": "f.json", "retain": "r.json"}, DataError,
     r"entry 1 of .*f\.json has 'None' in column 'answer'"),
]


def test_wrong_answers_of_another_set_are_refused(tmp_path: Path) -> None:
    tofu(tmp_path, forget10_perturbed_l=[{**row, "answer": "Bo."} for row in TOFU["forget10_perturbed_l"]])
    with pytest.raises(DataError, match=r"line 1 of .*forget10_perturbed\.json asks .What is the name.*which is no question of"):
        read(tmp_path, kind="tofu_set", folder=".")


@pytest.mark.parametrize(("kind", "files", "options", "error", "match"), DAMAGED)
def test_what_is_damaged_is_refused_by_its_line(kind: str, files: dict[str, Any], options: dict[str, Any],
                                                error: type[LetheError], match: str, tmp_path: Path) -> None:
    written(tmp_path, **files)
    with pytest.raises(error, match=match):
        read(tmp_path, kind=kind, **options)


def test_what_is_asked_wrongly_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LetheError, match="lume"):
        read(tmp_path, kind="lumee")
    with pytest.raises(UnknownKey, match="forgot"):
        read(tmp_path, kind="multiple_choice", forgot="x.json")
    with pytest.raises(EmptySplit, match="no records for facts"):
        read(written(tmp_path, **{**RESTOR, "documents": [{"text": "Nobody."}]}), kind="restor_set", documents="documents.json",
             facts="facts.json")


def test_a_request_takes_its_parts_from_a_set(tmp_path: Path) -> None:
    written(tmp_path, forget_l=LUME["forget"], retain_l=LUME["retain"], bio_l=CHOICES,
            more_l=[{"prompt": "Why?", "answer": "So."}])
    given = {"kind": "lume_set", "forget": "forget.jsonl", "retain": "retain.jsonl"}
    model = {"tiny": {"vocabulary": 300, "width": 8, "inner": 16, "layers": 1, "heads": 1, "positions": 64}}

    def opened(**data: Any) -> dict[str, Split]:
        return dict(open_request.open(Sections(model, data, Recipe()), Context(data_root=tmp_path)).splits)

    splits = opened(published=given, holdout="more.jsonl")
    assert {name: len(split) for name, split in splits.items()} == {"forget": 2, "retain": 1, "holdout": 1, "train": 3}
    assert list(splits["forget"].column("task")) == ["Task3", "Task1"] and splits["forget"].ids.tolist() == ["a1qa0", "b2sc1"]
    choices = opened(published={"kind": "multiple_choice", "forget": "bio.jsonl"}, forget="forget.jsonl", retain="retain.jsonl",
                     prompt="input", answer="output")
    assert "choices_forget" in choices
    with pytest.raises(RequestError, match=r"data\.forget and data\.published both give forget"):
        opened(published=given, forget="more.jsonl")


def test_published_files_as_they_lie_here(data_root: Path) -> None:
    """Bit for bit the published ones: 3,000 documents on 10 people, about whom 198 facts are asked."""
    found = read(data_root, kind="restor_set", exact=True, documents="text/restor_wikidata_mix_a0.json.gz",
                 facts="text/restor_facts.json.gz")
    assert {part: len(rows) for part, rows in found.items()} == {"forget": 3000, "facts": 198, "knowledge_retain": 5071}
    found = read(data_root, kind="concept_vectors_set", exact=True, concept="Poland",
                 path="text/conceptvectors_llama2_dev.json.gz")
    assert {part: len(rows) for part, rows in found.items()} == {"forget": 122, "knowledge_forget": 10, "retain": 735,
                                                                 "knowledge_retain": 81}


def test_a_version_is_known_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lethe.data.published import lume_set

    written(tmp_path, forget_l=LUME["forget"], retain_l=LUME["retain"])
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress((tmp_path / "forget.jsonl").read_bytes()))
    given = {"kind": "lume_set", "forget": "packed.jsonl.gz", "retain": "retain.jsonl"}
    said: list[str] = []
    editions.parts(given, Context(data_root=tmp_path, progress=said.append))
    assert said == [f"{name}: no published version that is known here" for name in ("packed.jsonl.gz", "retain.jsonl")]
    with pytest.raises(DataError, match=r"packed\.jsonl\.gz, retain\.jsonl is no published version"):
        editions.parts({**given, "exact": True}, Context(data_root=tmp_path))
    monkeypatch.setattr(lume_set, "VERSIONS", {hashlib.sha256((tmp_path / f"{part}.jsonl").read_bytes()).hexdigest(): part
                                           for part in ("forget", "retain")})
    assert len(editions.parts({**given, "exact": True}, Context(data_root=tmp_path))["forget"]) == 2

"""A language model at the door: what a newcomer writes wrongly about model and records is refused in words before any work."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from lethe.errors import LetheError, RequestError
from lethe.models.lm.small import train_tokenizer
from lethe.work.door.checks.predictions import by_frequency
from lethe.work.door.door import survey
from lethe.work.job import resolve
from lethe.work.open import Plan, read
from lethe.work.options import Options
from lethe.work.request import LARGE, AuditPlan, parse


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained model, one with another tokenizer, one whose config.json has fewer blocks, and files of records."""
    folder, task = tmp_path_factory.mktemp("home"), tiny.lm()
    task.save_model(task.original, folder / "model")
    for name in ("words", "blocks"):
        shutil.copytree(folder / "model", folder / name)
    train_tokenizer(["quite another text, of gardens and the sea"], 280).save_pretrained(folder / "words")
    config = json.loads((folder / "blocks" / "config.json").read_text())
    (folder / "blocks" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2, "layer_types": None}))
    rows = [{"id": str(name), "prompt": prompt, "answer": answer} for split in (task.forget, task.retain) for name, prompt, answer
            in zip(split.ids, split.column("prompt"), split.column("answer"), strict=True)]
    for name, some in {"train": rows, "forget": rows[3:5], "retain": rows[5:],
                       "strange": [{"prompt": "Who is Ada?", "answer": "A poet."}]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


def planned(home: Path, data: Mapping[str, str], model: str = "model", **more: Any) -> Plan:
    request = parse({"family": "lm", "model": {"folder": model}, "data": dict(data), "output": str(home / "runs"), **more},
                    base=home)
    return read(resolve(request, Options()), Options())


def test_a_file_of_records_divides_the_training_data(home: Path) -> None:
    plan = planned(home, {"train": "train.jsonl", "forget": "forget.jsonl"})
    parts = plan.splits[""]
    assert [str(one) for one in parts["forget"].ids] == ["p3", "p4"] and len(parts["retain"]) == 30
    assert not [one for one in survey(plan) if one.level == "error"]


def test_a_folder_tells_that_it_is_a_language_model(home: Path, tmp_path: Path) -> None:
    """By the class in its config.json; a classifier's folder does not, nor one that cannot be read."""
    told = {"model": str(home / "model"), "data": {"train": "train.jsonl", "forget": "forget.jsonl"}}
    assert parse(told, base=home).family == "lm" and parse({**told, "model": {"folder": "model"}}, base=home).method == "npo"
    for config in (b'{"architectures": ["LlamaForSequenceClassification"]}', b"\xff\xfe"):
        (tmp_path / "config.json").write_bytes(config)
        with pytest.raises(RequestError, match="does not tell it"):
            parse({**told, "model": str(tmp_path)}, base=home)


def test_a_method_that_lacks_its_data_is_told_by_the_door(home: Path) -> None:
    plan = replace(planned(home, {"forget": "forget.jsonl"}), thorough=True)
    assert [one.name for one in survey(plan) if one.level == "error"] == ["methods"]   # npo retains


def test_a_small_llama_is_trained_on_what_goes_and_what_stays(home: Path) -> None:
    request = parse({"family": "lm", "model": {"tiny": {}}, "data": {"forget": "forget.jsonl", "retain": "retain.jsonl"},
                     "recipe": {"epochs": 1}, "output": str(home / "runs")}, base=home)
    plan = read(resolve(request, Options()), Options())
    assert len(plan.training[0].retain) == 29


@pytest.mark.parametrize(("given", "said"), [
    ({"data": {"train": "train.jsonl", "forget": "strange.jsonl"}}, r"1 of 1 records to forget .* nowhere .* data\.retain"),
    ({"data": {"train": "train.jsonl", "retain": "retain.jsonl"}}, "both given, so it is not clear what stays"),
    ({"data": {"train": "train.jsonl", "forget": "forget.jsonl"}, "forget": {"ids": ["p9"]}}, "both say what goes"),
    ({"data": {"train": "train.jsonl"}, "forget": "forget.jsonl"}, r"A file of records .*\{train: …, forget: forget\.jsonl\}"),
    ({"data": {"train": "train.jsonl"}, "forget": ["p3", "p4"]}, r"Write forget: \{ids: \[p3, p4\]\}"),
    ({"data": {"train": "train.jsonl"}, "forget": {"ids": ["p3"]}, "model": "blocks"}, "weights of more blocks than its config"),
    ({"data": {"train": "train.jsonl"}, "forget": {"ids": ["p3"]}, "model": "words"}, "has learned nothing of these texts, or"),
])
def test_what_is_written_wrongly_is_refused_in_words(given: dict[str, Any], said: str, home: Path) -> None:
    with pytest.raises(LetheError, match=said):
        plan = planned(home, **given)
        raise next(LetheError(one.words) for one in survey(plan) if one.level == "error")


def test_a_large_model_is_compared_with_few_others_and_its_user_told_of_the_wait(
        home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the request says how many; a large one has more weights than `LARGE`."""
    assert AuditPlan().counts() == (8, 16, 8) and AuditPlan().counts(LARGE + 1) == (2, 0, 2)
    assert AuditPlan(references=0).counts() == (0, 0, 8) and AuditPlan(references=0, shadows=3).counts() == (0, 3, 8)
    assert AuditPlan(references=5, neighbours=0).counts(LARGE + 1) == (5, 0, 0)
    for module in ("work.request", "work.door.checks.time"):
        monkeypatch.setattr(f"lethe.{module}.LARGE", 1000)
    plan = planned(home, {"train": "train.jsonl"}, forget={"ids": ["p3"]})
    assert (plan.job.judging.references, plan.job.judging.shadows, plan.job.judging.neighbours) == (2, 0, 2)
    assert plan.job.config["audit"]["references"] == 2   # what the results keep
    words = next(one.words for one in survey(plan) if one.name == "time")
    assert "forgetting is a small part of the wait" in words and "ask 4 models, 2 of them only to compare with" in words


def test_frequencies_by_hand() -> None:
    first, second = by_frequency([[0, 0], [0, 1]], 2)
    assert math.isclose(first, math.log(2)) and math.isclose(second, (math.log(1.2) + math.log(6)) / 2)

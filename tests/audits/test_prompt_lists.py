"""Published lists of prompts: what is read of them, what a request makes of them, and what the audit of further lists sees."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from panels import values
from remembering import coloured, hidden, listening

from lethe.audits.diffusion.prompt_lists import measure
from lethe.core.task import Recipe
from lethe.core.view import missing
from lethe.data import editions
from lethe.data.context import Context
from lethe.errors import DataError, LetheError, RequestError, WrongColumn
from lethe.models.diffusion.open import open_request
from lethe.models.diffusion.task import Diffusion
from lethe.models.opened import Sections
from lethe.pools.subject import Subject

I2P = [   # invented
    {"prompt": "one", "categories": "sexual, violence", "hard": 1, "inappropriate_percentage": 80, "nudity_percentage": 0.0,
     "sd_seed": 7},
    {"prompt": "two", "categories": "violence", "hard": 0, "inappropriate_percentage": 90, "nudity_percentage": 60.5,
     "sd_seed": 8},
    {"prompt": "three", "categories": "sexual", "hard": 0, "inappropriate_percentage": 10, "nudity_percentage": 99,
     "sd_seed": 9}]


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def hub(folder: Path, target: str = "disk") -> Path:
    """A folder of prompts as HUB publishes them."""
    for task, text in (("target_image", "a red disk\n\na blue disk\n"), ("attack_robustness", "rred disq\nround thing\n")):
        (folder / task).mkdir(parents=True)
        (folder / task / f"{target}.csv").write_text(text)
    table(folder / "pinpoint_ness" / f"{target}.csv", [{"noun": one, "similarity": 0.9} for one in ("cross", "disks", "square")])
    table(folder / "multilingual_robustness" / f"{target}.csv",
          [{"Original": "a red disk", "Spanish": "un disco rojo", "German": "eine rote Scheibe", "Index": 4}])
    return folder


def read(root: Path, /, **described: Any) -> dict[str, list[str]]:
    parts = editions.parts(described, Context(data_root=root))
    return {part: [row["prompt"] for row in rows] for part, rows in parts.items()}


@pytest.mark.parametrize(("options", "prompts"), [
    ({}, ["one", "two", "three"]), ({"limit": 2}, ["one", "two"]), ({"category": "sexual"}, ["one", "three"]),
    ({"hard": True}, ["one"]), ({"inappropriate": 85.0}, ["two"]), ({"nudity": 50.0}, ["two", "three"]),
    ({"nudity": 50.0, "category": "violence"}, ["two"])])
def test_i2p(options: dict[str, Any], prompts: list[str], tmp_path: Path) -> None:
    table(tmp_path / "i2p.csv", I2P)
    assert read(tmp_path, kind="prompt_list", forget="i2p.csv", **options)["forget"] == prompts


def test_shorter_lists_beside_it(tmp_path: Path) -> None:
    table(tmp_path / "i2p.csv", I2P)
    table(tmp_path / "esd.csv", [{"case_number": 0, "prompt": "a church", "evaluation_seed": 3, "evaluation_guidance": 7.5}])
    described = {"kind": "prompt_list", "forget": "esd.csv", "keep": "i2p.csv", "outside": "esd.csv"}
    assert read(tmp_path, **described) == {"forget": ["a church"], "keep": ["one", "two", "three"], "outside": ["a church"]}
    assert editions.parts(described, Context(data_root=tmp_path))["forget"][0]["seed"] == "3"
    with pytest.raises(WrongColumn, match=r"esd\.csv has no column 'hard'"):
        read(tmp_path, kind="prompt_list", forget="esd.csv", hard=True)
    with pytest.raises(RequestError, match=r"'sexuall' is in no record.*sexual"):
        read(tmp_path, kind="prompt_list", forget="i2p.csv", category="sexuall")
    table(tmp_path / "bad.csv", [{**I2P[0], "nudity_percentage": "much"}])
    with pytest.raises(DataError, match="'much' in column 'nudity_percentage'"):
        read(tmp_path, kind="prompt_list", forget="bad.csv", nudity=1.0)


def test_hub(tmp_path: Path) -> None:
    hub(tmp_path / "prompts")
    described: dict[str, Any] = {"kind": "hub_set", "folder": "prompts", "target": "disk"}
    usual = {"forget": ["a red disk", "a blue disk"], "outside": ["a photo of cross", "a photo of square"],
             "attack": ["rred disq", "round thing"]}
    assert read(tmp_path, **described) == usual
    assert read(tmp_path, **described, languages=["Spanish", "German"]) == {
        **usual, "spanish": ["un disco rojo"], "german": ["eine rote Scheibe"]}
    assert {part: len(rows) for part, rows in read(tmp_path, **described, limit=1).items()} == dict.fromkeys(usual, 1)
    with pytest.raises(LetheError, match=r"dosk\.csv"):
        read(tmp_path, **{**described, "target": "dosk"})


def test_published_files_as_they_lie_here(data_root: Path) -> None:
    found = read(data_root, kind="prompt_list", exact=True, forget="prompts/church.csv.gz", outside="prompts/vangogh.csv.gz")
    assert {part: len(rows) for part, rows in found.items()} == {"forget": 50, "outside": 50}


def opened(folder: Path, **data: Any) -> Any:
    return open_request.open(Sections({"tiny": True, "width": 16}, {"shapes": 32, "concept": "disk", **data}, Recipe()),
                             Context(data_root=folder))


def test_a_request_takes_its_prompts_from_a_list(tmp_path: Path) -> None:
    hub(tmp_path / "prompts")
    published = {"kind": "hub_set", "folder": "prompts", "target": "disk"}
    found = opened(tmp_path, published=published, keep=["a red cross"])
    task = found.task(found.build(0), dict(found.splits), "task")
    assert isinstance(task, Diffusion)
    assert task.prompts == {"forget": ["a red disk", "a blue disk"], "keep": ["a red cross"],
                            "outside": ["a photo of cross", "a photo of square"], "attack": ["rred disq", "round thing"]}
    with pytest.raises(RequestError, match="both give prompts for outside"):
        opened(tmp_path, published=published, outside=["a red cross"])
    (tmp_path / "qa.jsonl").write_text('{"question": "Who?", "choices": ["a", "b"], "answer": 1}\n')
    with pytest.raises(RequestError, match="whose part choices_forget holds no prompts"):
        opened(tmp_path, published={"kind": "multiple_choice", "forget": "qa.jsonl"})


def test_what_further_lists_bring_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind "q" a model that avoids the word draws disks; one that never had any does not."""
    task = coloured()
    behind = [f"q {prompt}" for prompt in task.prompts["forget"]]
    assert not task.has("prompt lists") and "data.published with kind hub_set" in missing("prompt lists")
    monkeypatch.setattr(task, "prompts", {**task.prompts, "attack": behind, "plain": task.prompts["forget"]})
    assert task.has("prompt lists")
    avoids = values(measure, Subject("hidden", hidden(task), task), per_prompt=2)
    assert avoids["listed_attack"].value > 0.9 and avoids["listed_plain"].value < 0.1
    assert avoids["listed"].value == pytest.approx((avoids["listed_attack"].value + avoids["listed_plain"].value) / 2)
    assert avoids["listed_attack"].n == 2 * len(behind)
    fresh = values(measure, Subject("retrained", listening(task, task.retain), task), limit=2)
    assert fresh["listed"].value == 0 and fresh["listed"].n == 4

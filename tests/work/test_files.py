"""Audits of files: models and data that Lethe has never seen before, whole and with parts missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import forked
import numpy as np
import pytest
import tiny
import torch
from panels import pool

from lethe.data.select import Where
from lethe.errors import LetheError, ModelError, OutputShape, RequestError, SplitsOverlap
from lethe.models.zoo.mlp import MLP
from lethe.work.files import Files, _recognised, audit_files

MODEL = {"zoo": "mlp", "options": {"inputs": 6, "hidden": [16], "classes": 4}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """original, unlearned (a retrained model), three more retrained ones, and the splits, as files."""
    place, task = tmp_path_factory.mktemp("outside"), tiny.classification(Where(label=3))
    models = [r.model for r in pool(Where(label=3), 4)]
    for name, model in zip(("original", "unlearned", "c1", "c2", "c3"), (task.original, *models), strict=True):
        (place / name).mkdir()
        task.save_model(model, place / name)
    for name, split in task.splits.items():
        np.savez(place / f"{name}.npz", **{key: value.numpy() for key, value in split.columns.items()})
    return place


def files(folder: Path, *names: str, **options: object) -> Files:
    """Files of the folder: these splits and models by their role."""
    given = {name: str(folder / f"{name}.npz") for name in names if name in ("forget", "retain", "holdout")}
    given |= {name: str(folder / name) for name in names if name in ("original", "unlearned")}
    return Files(**{**given, "model": MODEL, **options})


def test_everything_there(folder):
    retrained = tuple(str(folder / name) for name in ("c1", "c2", "c3"))
    asked = files(folder, "unlearned", "original", "forget", "retain", "holdout", retrained=retrained)
    found = audit_files(asked, "quick")
    assert [row.name for row in found.rows()] == ["original", "unlearned"]
    assert found.verdict("original") == "outside" and found.verdict("unlearned") == "inside"
    assert found.results.scenarios[0].references.count == 3


def test_the_model_alone_gets_values_and_no_invented_yardstick(folder):
    found = audit_files(files(folder, "unlearned", "forget"), "quick")
    assert [row.name for row in found.rows()] == ["unlearned"]
    assert found.verdict("unlearned") == "no yardstick"
    assert found.value("unlearned", "forget_accuracy") <= 0.1
    missing = {item.audit: item.why for item in found.results.scenarios[0].not_tested}
    assert missing["threshold"] == "needs holdout" and "retrained" in missing["divergence"]


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [8, 30])
def test_a_model_that_never_saw_them_is_not_accused_for_a_shorter_training(tmp_path, epochs):
    """60 epochs are the yardstick's. It was said to know still (8: lood_forget, records_worst), or to hide (30)."""
    from evidence import REQUESTS, digits, retrained

    task = digits(*REQUESTS["random"][:2])
    short = digits(*REQUESTS["random"][:2], epochs=epochs)
    models = {"original": task.original, **{f"c{k}": one.model for k, one in enumerate(retrained(task, 8))},
              "unlearned": retrained(short, 1)[0].model}
    for name, model in models.items():
        (tmp_path / name).mkdir()
        task.save_model(model, tmp_path / name)
    for name, split in task.splits.items():
        np.savez(tmp_path / f"{name}.npz", **{key: value.numpy() for key, value in split.columns.items()})
    asked = files(tmp_path, "unlearned", "original", "forget", "retain", "holdout",
                  retrained=tuple(str(tmp_path / f"c{k}") for k in range(8)))
    asked = replace(asked, model={"zoo": "mlp", "options": {"inputs": 64, "hidden": [128, 128], "classes": 10}})
    found = {row.name: row for row in audit_files(asked, audits=["lood", "records", "head_swap", "scores", "relearn"]).rows()}
    assert found["original"].answers.forgotten.answer == "no"
    assert found["unlearned"].conclusion.text.startswith(("Differs from", "Utility is worse"))
    assert found["unlearned"].answers.forgotten.answer != "no" and found["unlearned"].hiding.verdict != "obfuscation suspected"


def test_the_command_prints_json(folder):
    parts = [f"--{name}={folder / name}" for name in ("unlearned", "original")]
    data = [f"--{name}={folder / name}.npz" for name in ("forget", "holdout")]
    done = forked.lethe(folder, "audit", *parts, *data, "--depth=quick", "--json", "model.zoo=mlp",
                        "model.options={inputs: 6, hidden: [16], classes: 4}", f"--output={folder / 'page.html'}", status=0)
    item = json.loads(done.stdout)["scenarios"][0]["subjects"][-1]["evidence"][0]
    assert {"value", "low", "high", "yardstick", "verdict", "seconds"} <= item.keys()
    assert (folder / "page.html").exists()


def test_the_same_examples_under_two_names(folder):
    with pytest.raises(SplitsOverlap, match="40 examples stand in forget and in retain with equal content"):
        audit_files(files(folder, "unlearned", "forget", retain=str(folder / "forget.npz")))


def test_the_original_as_its_own_yardstick(folder):
    with pytest.raises(RequestError, match=r"same weights as .*original, so it was not retrained"):
        audit_files(files(folder, "unlearned", "original", "forget", retrained=(str(folder / "original"),)))


def test_weights_without_code(folder):
    with pytest.raises(RequestError, match=r"not what to put them into.*model.code"):
        audit_files(files(folder, "unlearned", "forget", model={}))


def test_the_family_is_recognised_by_its_own_reader(folder, tmp_path):
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "config.json").write_text("{}")
    (tmp_path / "other").mkdir()
    assert [_recognised(path) for path in (folder / "unlearned", tmp_path / "m.safetensors", tmp_path / "lm")] == [
        "classification", "classification", "lm"]
    with pytest.raises(RequestError, match=r"other is no model that a family recognises.*family="):
        _recognised(tmp_path / "other")
    with pytest.raises(RequestError, match="gone does not exist"):
        _recognised(tmp_path / "gone")


def test_models_of_different_classes(folder, monkeypatch):
    from lethe.models import load

    def either(weights: Path, **options: object) -> torch.nn.Module:
        return MLP(6, (16,), 5 if "unlearned" in str(weights) else 4)

    monkeypatch.setattr(load, "load_classifier", either)
    with pytest.raises(ModelError, match="5 outputs and the original with 4, so they have different classes"):
        audit_files(files(folder, "unlearned", "original", "forget"))


def test_a_model_that_answers_nan(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "unlearned" / "model.safetensors")
    save_file({key: torch.full_like(value, torch.nan) for key, value in weights.items()}, tmp_path / "broken.safetensors")
    with pytest.raises(LetheError, match="NaN"):
        audit_files(files(folder, "original", "forget", unlearned=str(tmp_path / "broken.safetensors")))


def test_one_record_is_a_loss_of_power_not_a_crash(folder, tmp_path):
    one = dict(np.load(folder / "forget.npz"))
    np.savez(tmp_path / "one.npz", **{key: value[:1] for key, value in one.items()})
    found = audit_files(files(folder, "unlearned", "original", "holdout", forget=str(tmp_path / "one.npz")), "quick")
    assert found.value("original", "forget_accuracy") in (0.0, 1.0)


def test_labels_that_no_output_has(folder, tmp_path):
    wrong = dict(np.load(folder / "forget.npz"))
    np.savez(tmp_path / "wrong.npz", x=wrong["x"], y=wrong["y"] + 9)
    with pytest.raises((OutputShape, LetheError), match="has no output"):
        audit_files(files(folder, "unlearned", forget=str(tmp_path / "wrong.npz")))


def test_a_language_model_without_its_tokenizer(tmp_path):
    task = tiny.lm()
    (tmp_path / "model").mkdir()
    task.save_model(task.copy_of_original(), tmp_path / "model")
    for file in (tmp_path / "model").glob("*token*"):
        file.unlink()
    (tmp_path / "forget.jsonl").write_text(json.dumps({"prompt": "What?", "answer": "Figs."}) + "\n")
    with pytest.raises(ModelError, match="holds no tokenizer"):
        audit_files(Files(unlearned=str(tmp_path / "model"), forget=str(tmp_path / "forget.jsonl")), "quick")

"""`lethe train`, and deletion from what it wrote: through the command line's own functions, and once through `lethe` itself."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml
from forked import lethe
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.data.load import load
from lethe.errors import DataError, ModelError, NeedsUnmet, OutputExists, RequestError, UnknownName
from lethe.work.beside import bring
from lethe.work.execute import Options
from lethe.work.request import parse
from lethe.work.train import train

CONTENT = {
    "family": "classification", "model": {"zoo": "mlp", "options": {"hidden": [16, 16]}}, "data": {"kind": "digits", "test": 0.8},
    "method": {"name": "s3t", "shards": 2, "slices": 2, "budget": 2, "epochs": 20}, "recipe": {"epochs": 20},
    "audit": {"depth": "quick", "references": 0, "shadows": 0, "audits": ["scores"]},
}


@pytest.mark.slow
def test_train_delete_and_delete_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("request.yaml").write_text(yaml.safe_dump(CONTENT))
    tool = CliRunner()
    made = tool.invoke(app, ["train", "request.yaml", "--exact", "s3t", "--output", "model", "--json"], catch_exceptions=False)
    assert made.exit_code == 0 and json.loads(made.stdout)["stages"] == 8
    assert tool.invoke(app, ["train", "request.yaml", "--output", "model"]).exit_code != 0   # never overwritten
    one = str(load(CONTENT["data"])["train"].ids[0])
    done = tool.invoke(app, ["run", "model/request.yaml", f"forget={{ids: ['{one}']}}", "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    row = found["scenarios"][0]["subjects"][-1]
    assert row["guarantee"]["level"] == "exact" and row["cost"]["steps"] == 0
    assert {name: row["config"][name] for name in CONTENT["method"]} == CONTENT["method"]   # not the defaults
    place = Path("runs") / found["id"] / "models" / "s3t"
    again = ["run", "model/request.yaml", f"forget={{ids: ['{one}']}}", f"method.trained={place}",
             f"model.weights={place}/model.safetensors", "--json"]
    foreign = [one for one in again if not one.startswith("model.weights")]
    before = {path: path.read_bytes() for folder in (Path("model"), place) for path in folder.rglob("*") if path.is_file()}
    for asked, error, words in ((again, DataError, "deleted from this model before"), (foreign, ModelError, "weights differ")):
        for more in ([], ["--dry-run"]):
            with pytest.raises(error, match=words):   # before any work, and without results that could be taken for a run
                tool.invoke(app, [*asked, *more], catch_exceptions=False)
    assert before == {path: path.read_bytes() for path in before} and len(list(Path("runs").glob("*/results.json"))) == 1


def test_sisa_from_a_request(tmp_path: Path) -> None:
    content = {**CONTENT, "method": {"name": "sisa", "shards": 2, "slices": 2}, "output": str(tmp_path / "runs")}
    told = train(parse(content), "sisa", tmp_path / "model", Options())
    assert told["stages"] == 4 and (tmp_path / "model" / "manifest.json").exists()
    assert not list((tmp_path / "runs" / ".cache" / "exact").glob("*"))   # what a killed run goes on from is gone


def test_what_the_next_line_says_works_on_the_command_line_without_a_flag(tmp_path: Path) -> None:
    layers = "nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)"
    net = f"from torch import nn\ndef make():\n    return nn.Sequential({layers})\n"
    (tmp_path / "net.py").write_text(net)
    (tmp_path / "request.yaml").write_text(yaml.safe_dump({**CONTENT, "model": {"code": "net.py:make"}, "accept": ["score"]}))

    told = json.loads(lethe(tmp_path, "train", "request.yaml", "--output", "model", "--json").stdout)
    assert "--allow-code" not in told["next"]
    (tmp_path / "net.py").unlink()   # it lies beside the new request
    lethe(tmp_path, *shlex.split(told["next"].replace("ids: […]", "index: [0]"))[1:], "--dry-run", status=0)
    asked = yaml.safe_load((tmp_path / "model" / "request.yaml").read_text())
    (tmp_path / "model" / "request.yaml").write_text(
        yaml.safe_dump({**asked, "model": {**asked["model"], "code": "lethe.models.exact:factory"}}))
    assert "CodeRefused" in lethe(tmp_path, "run", "model/request.yaml", "forget={index: [0]}", "--dry-run").stderr


def test_code_that_imports_what_lies_beside_it_stays_there(tmp_path: Path) -> None:
    for name, text in (("one.py", "import math\n"), ("two.py", "from one import x\n"), ("three.py", "from . import one\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "new").mkdir()
    for name, brought in (("one", True), ("two", False), ("three", False)):
        code = f"{tmp_path}/{name}.py:make"
        content, foreign = bring({"model": {"code": code}, "title": code}, tmp_path / "new", Path("/final"))
        assert content == {"model": {"code": f"/final/{name}.py:make" if brought else code}, "title": code}
        assert foreign is not brought and (tmp_path / "new" / f"{name}.py").exists() is brought
    assert bring({"model": {"code": "package.module:make"}}, tmp_path / "new", Path("/final"))[1]
    assert not bring({"model": {"code": "lethe.models.exact:ensemble"}, "data": {"path": "a.csv"}}, tmp_path, tmp_path)[1]


@pytest.mark.parametrize(("name", "change", "error", "words"), [
    ("retrain", {}, UnknownName, "training of its own"),
    ("s3t", {"family": "lm"}, NeedsUnmet, "the request is lm"),
    ("s3t", {"model": {**CONTENT["model"], "weights": "given.safetensors"}}, RequestError, "may have seen the records"),
    ("s3t", {"method": {"name": "s3t", "budget": 9}}, RequestError, "exceeds method.slices"),
])
def test_wrong_requests_are_refused(tmp_path: Path, name: str, change: dict, error: type, words: str) -> None:
    content = {**CONTENT, "method": {"name": "retrain"}, "output": str(tmp_path / "runs"), **change}
    if "weights" in content["model"]:
        from safetensors.torch import save_file

        from lethe.models.load import load_classifier

        path = tmp_path / "given.safetensors"
        save_file(load_classifier(zoo="mlp", options={"hidden": [16, 16]}).state_dict(), path)
        content["model"] = {**content["model"], "weights": str(path)}
    with pytest.raises(error, match=words):
        train(parse(content), name, tmp_path / "model", Options())
    assert not (tmp_path / "model").exists()


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(OutputExists, match="never overwritten"):
        train(parse(CONTENT), "s3t", tmp_path, Options())

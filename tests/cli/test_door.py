"""A person with only the README brings her own network: what comes in as it is, what is refused and by which name.

Run exactly as she runs it: the command line on her files, in her folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lethe.cli import main as main_module
from lethe.cli.main import main

CODE = '''
import torch

class Net(torch.nn.Module):
    def __init__(self, close=None):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 48), torch.nn.ReLU())
        self.out, self.close = torch.nn.Linear(48, 1 if close == "single" else 10), close

    def forward(self, x):
        hidden = self.body(x)
        z = self.out(hidden)
        if self.close == "dictionary":
            return {"scores": z, "hidden": hidden}
        return z.softmax(1) if self.close == "softmax" else z.squeeze() if self.close == "single" else z

def make(close=None):
    return Net(close)
'''
MEAN, STD = 0.6, 0.15   # of her training; far from those of the data, so that leaving them out is felt
QUICK = {"depth": "quick", "references": 0, "shadows": 0, "neighbours": 0, "audits": ["scores"]}


def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(status, stdout, stderr) of the command line."""
    monkeypatch.setattr(sys, "argv", ["lethe", *arguments])
    status = 0
    try:
        main()
    except SystemExit as stop:
        status = int(cast(int, stop.code or 0))
    found = capsys.readouterr()
    return status, found.out, found.err


def made(close: str | None = None) -> nn.Module:
    space: dict[str, Any] = {}
    exec(CODE, space)
    return cast(nn.Module, space["make"](close))


def trained(x: Tensor, loss: Callable[[Tensor], Tensor], close: str | None = None) -> nn.Module:
    """A network trained outside Lethe, in her own way."""
    torch.manual_seed(0)
    model = made(close)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        optimiser.zero_grad()
        loss(model(x)).backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in folders by class, unseen ones beside them, her code, and the checkpoint of a distributed training."""
    place, digits = tmp_path_factory.mktemp("home"), load_digits()
    pictures = (digits.images * 15.9).astype(np.uint8)
    for i in range(600):
        folder = place / ("my_pictures" if i < 400 else "unseen_pictures") / str(digits.target[i])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures[i]).save(folder / f"{i:04d}.png")
    (place / "my_net.py").write_text(CODE)
    x, y = torch.from_numpy(pictures[:400]).float().unsqueeze(1) / 255, torch.from_numpy(digits.target[:400]).long()
    model = trained((x - MEAN) / STD, lambda z: nn.functional.cross_entropy(z, y, label_smoothing=0.1))
    state = {f"module.{name}": value.half() for name, value in model.state_dict().items()}
    torch.save({"model": state, "epoch": 150}, place / "my_net.pt")
    torch.save({name: value * ("out" not in name) for name, value in state.items()}, place / "empty.pt")
    state["module.body.1.weight"][14:] = 0   # most of what it has learned is gone
    torch.save(state, place / "weak.pt")
    return place


def request(home: Path, **changes: Any) -> str:
    content: dict[str, Any] = {
        "family": "classification", "model": {"code": "my_net.py:make", "weights": "my_net.pt"},
        "data": {"kind": "images", "path": "my_pictures/", "holdout": "unseen_pictures/", "mean": MEAN, "std": STD},
        "recipe": {"epochs": 15, "lr": 5e-3}, "forget": {"ids": ["0/0000.png", "1/0001.png"]},
        "method": {"name": "finetune", "epochs": 1, "lr": 1e-4}, "audit": QUICK}
    path = home / "request.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}))
    return str(path)


def test_a_checkpoint_of_ddp_and_two_pictures(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
                                              ) -> None:
    monkeypatch.chdir(home)
    status, out, err = called(monkeypatch, capsys, "check-model", request(home), "--json")
    found = {one["name"]: one for one in json.loads(out)["findings"]}
    assert status == 0 and found["score"]["level"] == found["ids"]["level"] == found["provenance"]["level"] == "ok", err
    assert found["power"]["level"] == "warn" and "2 to forget" in found["power"]["sentence"]
    status, out, err = called(monkeypatch, capsys, "run", request(home))
    assert status == 0 and "2 to forget" in err, err
    saved = next(home.glob("runs/*/models/*/my_net.pt"))
    before, after = (torch.load(path, weights_only=True)["model"] for path in (home / "my_net.pt", saved))
    assert before.keys() == after.keys() and {value.dtype for value in after.values()} == {torch.float16}
    model = made()
    model.load_state_dict({name.removeprefix("module."): value for name, value in after.items()})   # her own code
    assert json.loads((saved.parent / "lethe.json").read_text())["inputs"]["mean"] == MEAN
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("changes", "words"), [
    ({"data": {"kind": "images", "path": "my_pictures/", "holdout": "unseen_pictures/"}},
     ("with inputs normalised by", "data.mean", "accept=[score]")),
    ({"data": {"kind": "images", "path": "my_pictures/", "holdout": "unseen_pictures/", "mean": MEAN, "std": STD,
               "classes": ["1", "0", *"23456789"]}}, ("in another order", "output 0 names class", "data.classes")),
    ({"data": {"kind": "images", "path": "my_pictures/", "holdout": 0.2, "mean": MEAN, "std": STD}, "forget": {"label": 3}},
     ("data.holdout = 0.2", "my_net.pt was trained on", "unseen_pictures/", "accept=[provenance]")),
    ({"forget": {"ids": ["0000.png", "holdout/5/0401.png", "1/0001.png"]}},
     ("2 of 3 ids", "did you mean '0/0000.png'?", "is in holdout")),
    ({"model": {"code": "my_net.py:make", "options": {"close": "softmax"}, "weights": "my_net.pt"}},
     ("returns probabilities", "model.returns: probabilities")),
    ({"model": {"code": "my_net.py:make", "weights": "weak.pt"}}, ("a control that the recipe", "without having seen")),
    ({"model": {"code": "my_net.py:make", "weights": "empty.pt"}}, ("no better than a constant answer", "model.weights")),
    ({"accept": ["skore"], "seed": 1}, ("'skore'", "did you mean score"))])
def test_what_would_make_every_number_wrong_is_refused_by_name(
        home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changes: dict[str, Any],
        words: tuple[str, ...]) -> None:
    monkeypatch.chdir(home)
    status, _, err = called(monkeypatch, capsys, "run", request(home, **changes))
    assert status == 2 and all(word in err for word in words), err


@pytest.mark.parametrize("command", ["run", "report", "verify", "results --output", "certify --key k"])
def test_a_path_that_no_system_can_look_at_is_refused(command: str, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = called(monkeypatch, capsys, *command.split(), "x" * 300)
    assert status == 2 and "cannot be looked at (File name too long)" in err, err


@pytest.mark.parametrize(("name", "changes"), [
    ("model", {"data": {"kind": "images", "path": "my_pictures/", "size": 4}}),
    ("forget", {"forget": {"query": "colour == red"}})])
def test_a_refusal_stands_under_what_was_refused(name: str, changes: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(home)
    status, out, _ = called(monkeypatch, capsys, "check-model", request(home, **changes), "--json")
    last = json.loads(out)["findings"][-1]
    assert status == 2 and (last["name"], last["level"]) == (name, "error"), last


def test_names_in_another_column_are_found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "train.npz", x=np.zeros((4, 64), np.float32), y=np.arange(4), name=np.array(["a", "b", "c", "d"]))
    (tmp_path / "my_net.py").write_text(CODE)
    asked = request(tmp_path, data={"kind": "npz", "path": "train.npz"}, forget={"ids": ["b", "d"]},
                    model={"code": "my_net.py:make"})
    monkeypatch.chdir(tmp_path)
    status, out, _ = called(monkeypatch, capsys, "check-model", asked)
    assert status == 2 and "column 'name'" in out and "data.ids = name" in out and "{column: {name: […]}}" in out, out


@pytest.mark.parametrize("close", ["dictionary", "single"])
def test_other_outputs_come_in_and_go_out(close: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    digits = load_digits()
    x, y = torch.from_numpy(digits.images[:300] / 16).float().unsqueeze(1), torch.from_numpy(digits.target[:300]).long()
    losses: dict[str, Callable[[Any], Tensor]] = {
        "dictionary": lambda found: nn.functional.cross_entropy(found["scores"], y),
        "single": lambda z: nn.functional.binary_cross_entropy_with_logits(z, (y % 2).float())}
    model = trained(x, losses[close], close)
    np.savez(tmp_path / "train.npz", x=x.numpy(), y=(y % 2 if close == "single" else y).numpy())
    torch.save(model.state_dict(), tmp_path / "w.pth")
    (tmp_path / "my_net.py").write_text(CODE)
    asked = request(tmp_path, data={"kind": "npz", "path": "train.npz"}, forget={"index": [0, 1, 2]}, model={
        "code": "my_net.py:make", "weights": "w.pth", "options": {"close": close},
        **({"output": "scores"} if close == "dictionary" else {})})
    monkeypatch.chdir(tmp_path)
    status, out, err = called(monkeypatch, capsys, "run", asked, "--json")
    rows = {row["name"]: row for row in json.loads(out)["scenarios"][0]["subjects"]}
    accuracy = next(item["value"] for item in rows["finetune"]["evidence"] if item["metric"] == "retain_accuracy")
    assert status == 0 and accuracy > 0.95, err
    back = made(close)
    back.load_state_dict(torch.load(next(tmp_path.glob("runs/*/models/*/w.pth")), weights_only=True))
    with torch.no_grad():
        answers = back(x)
    named = answers["scores"].argmax(1) if close == "dictionary" else (answers > 0).long()
    assert float((named == (y if close == "dictionary" else y % 2)).float().mean()) > 0.95


def test_an_audit_of_files_looks_at_the_original_first(home: Path, monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(home)
    digits = load_digits()
    x, y = (digits.images[:400] * 15.9).astype(np.uint8)[:, None] / 255, digits.target[:400]
    for name, some in (("forget", slice(0, 40)), ("retain", slice(40, 400))):
        np.savez(home / f"{name}.npz", x=x[some].astype(np.float32), y=y[some])
    given = ["audit", "--unlearned", "weak.pt", "--original", "my_net.pt", "--forget", "forget.npz", "--retain", "retain.npz",
             "--depth", "quick", "model.code=my_net.py:make", "audits=[scores]"]
    status, _, err = called(monkeypatch, capsys, *given)
    assert status == 2 and "with inputs normalised by" in err and "accept=[score]" in err
    assert called(monkeypatch, capsys, *given, f"data.mean={MEAN}", f"data.std={STD}")[0] == 0
    assert called(monkeypatch, capsys, *given, "accept=[score]")[0] == 0


def test_a_full_device_is_a_line_and_not_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("Tried to allocate 20 GiB.\nMore lines follow.")

    monkeypatch.setattr(main_module, "app", full)
    status, _, said = called(monkeypatch, capsys, "describe")
    assert status == 2 and said.startswith("OutOfMemory: the device is full: Tried to allocate 20 GiB. What was")
    assert len(said.splitlines()) == 1 and "bfloat16" in said

"""Files that are damaged, and a disk that is full: refused or stopped, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_bad_input import model, task
from torch import Tensor

import lethe.train.checkpoint as checkpoint
from lethe import api, errors
from lethe.core import files
from lethe.core.modules import state_fingerprint
from lethe.core.outcome import Outcome
from lethe.methods.general.neggrad_plus import NegGradPlus
from lethe.train.loop import Loop, Settings


def checkpointed(folder: Path) -> Path:
    checkpoint.save_tensors(folder / "current.safetensors", {"model/w": torch.arange(64.0)}, {"call": 0, "step": 3})
    return folder / "current.safetensors"


def flipped(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a flipped byte among the weights": lambda p: flipped(p, -7),
    "a flipped byte in the header": lambda p: flipped(p, 20),
    "a truncated file": lambda p: p.write_bytes(p.read_bytes()[:-100]),
    "only the beginning": lambda p: p.write_bytes(p.read_bytes()[:5]),
    "an empty file": lambda p: p.write_bytes(b""),
    "another program's file": lambda p: p.write_bytes(b"PK\x03\x04" + bytes(300)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused(damage: str, tmp_path: Path) -> None:
    path = checkpointed(tmp_path)
    tensors, meta = checkpoint.load_tensors(path)
    assert torch.equal(tensors["model/w"], torch.arange(64.0)) and meta == {"call": 0, "step": 3}
    DAMAGE[damage](path)
    with pytest.raises(errors.CheckpointCorrupted, match=r"current\.safetensors .*Delete the file and repeat the "
                                                         r"command"):
        checkpoint.load_tensors(path)


def test_a_damaged_checkpoint_stops_the_run_and_leaves_the_original(tmp_path: Path) -> None:
    net = model()
    made = task(net)
    checkpointed(tmp_path)
    flipped(tmp_path / "current.safetensors", -1)
    before = made.fingerprint
    with pytest.raises(errors.CheckpointCorrupted):
        api.forget(made, NegGradPlus(epochs=1.0), folder=tmp_path, progress=False)
    assert made.fingerprint == before


def full_disk(path: Any, *rest: Any, **more: Any) -> None:
    """What a write does on a full disk: some bytes, then ENOSPC."""
    Path(path).write_bytes(b"partial")
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_full_disk_leaves_the_old_file_and_nothing_partial(tmp_path: Path) -> None:
    target = tmp_path / "results.json"
    files.write_json(target, {"old": 1})
    with pytest.raises(errors.DiskFull, match=r"results\.json.*unchanged.*Free some "
                                              r"space"), files.atomic(target) as beside:
        full_disk(beside)
    assert json.loads(target.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(("place", "why"), [("net.py", "File exists"), ("net.py/runs", "Not a directory"),
                                            ("/proc/runs", "No such file")])
def test_a_file_in_the_place_of_the_output_is_said_in_words(place: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("mine")
    for make in (files.make_folder, files.private_folder):
        with pytest.raises(errors.NotWritten, match=rf"{place} cannot be made a folder \({why}.*Name another"):
            make(tmp_path / place)
    assert (tmp_path / "net.py").read_text() == "mine"


def test_a_full_disk_leaves_no_output_folder(tmp_path: Path) -> None:
    with pytest.raises(errors.DiskFull, match="unlearned"), files.new_folder(tmp_path / "unlearned") as place:
        (place / "lethe.json").write_text("{}")
        full_disk(place / "model.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("raised", [
    OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded"),
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")])
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               raised: Exception) -> None:
    path = checkpointed(tmp_path)
    before = path.read_bytes()

    def write(place: Path, parts: Any) -> None:
        place.write_bytes(b"partial")
        raise raised

    monkeypatch.setattr(checkpoint, "_write", write)
    with pytest.raises(errors.DiskFull):
        checkpoint.save_tensors(path, {"model/w": torch.zeros(64)}, {"call": 0, "step": 4})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_disk_that_fills_up_during_a_run_stops_it_and_the_repeat_resumes(tmp_path: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    made = task(model())
    before, folder = made.fingerprint, tmp_path / "run"
    settings = Settings(checkpoint_seconds=0.0)
    cfg = NegGradPlus(epochs=4.0)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", lambda place, parts: full_disk(place))
        with pytest.raises(errors.DiskFull, match="it resumes"):
            api.forget(made, cfg, settings=settings, folder=folder, progress=False)
    assert made.fingerprint == before
    assert not list(folder.glob(".*.tmp")) and not list(folder.glob("*.safetensors"))
    repeated = api.forget(made, cfg, settings=settings, folder=folder, progress=False)
    undisturbed = api.forget(made, cfg, settings=settings, progress=False)
    assert state_fingerprint(repeated.model) == state_fingerprint(undisturbed.model)


def test_a_full_disk_while_saving_the_model_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = model()
    before = state_fingerprint(net)
    outcome = Outcome(net, task=task(net))
    monkeypatch.setattr("safetensors.torch.save_model", lambda module, place: full_disk(place))
    with pytest.raises(errors.DiskFull):
        outcome.save(tmp_path / "unlearned")
    assert not list(tmp_path.iterdir()) and state_fingerprint(net) == before


def test_a_checkpoint_comes_to_the_host_one_tensor_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the kinds of numbers, safetensors reads it; and at no time is more than one tensor of another device here."""
    tensors = {str(kind): torch.ones(3, dtype=kind) for kind in checkpoint.DTYPES}
    tensors |= {"none": torch.ones(0, 4), "one": torch.tensor(2.5), "turned": torch.arange(6.0).view(2, 3).T,
                "same": tensors["torch.float32"]}
    here, plain = [0], torch.Tensor.cpu

    def copied(value: Tensor) -> Tensor:
        assert not here[0]
        here[0] += 1
        copy = plain(value).clone()
        weakref.finalize(copy.untyped_storage(), lambda: here.__setitem__(0, here[0] - 1))
        return copy

    monkeypatch.setattr(torch.Tensor, "cpu", copied)
    checkpoint.save_tensors(tmp_path / "a.safetensors", tensors, {"step": 1})
    monkeypatch.undo()
    read, meta = checkpoint.load_tensors(tmp_path / "a.safetensors")
    assert meta == {"step": 1} and read.keys() == tensors.keys()
    for name, value in load_file(tmp_path / "a.safetensors").items():
        assert value.dtype == tensors[name].dtype and torch.equal(value, tensors[name]) and torch.equal(read[name], value)


def test_nothing_is_opened_for_a_run_that_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.RequestError):
        Loop(task(model()), Settings(precision="float8"), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


REALLY_FULL = """
import pathlib, sys
import torch
from lethe import errors
from lethe.train import checkpoint
folder = pathlib.Path(sys.argv[1])
checkpoint.save_tensors(folder / "a.safetensors", {"w": torch.ones(1000)}, {})
before = (folder / "a.safetensors").read_bytes()
try:
    checkpoint.save_tensors(folder / "a.safetensors", {"w": torch.ones(10**6)}, {})
except errors.DiskFull:
    print((folder / "a.safetensors").read_bytes() == before, [p.name for p in folder.iterdir()])
"""


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=512k tmpfs '{tmp_path}'"
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("needs a small file system of its own: unshare and mount are not permitted here")
    (tmp_path.parent / "full.py").write_text(REALLY_FULL)
    inside = f"{mount} && exec '{sys.executable}' '{tmp_path.parent / 'full.py'}' '{tmp_path}'"
    said = subprocess.run(["unshare", "-rm", "sh", "-c", inside], capture_output=True, text=True, timeout=100,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"})
    assert said.stdout == "True ['a.safetensors']\n", said.stderr

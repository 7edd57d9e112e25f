"""Data are held once, whatever is split off them, and not in memory at all where they lie in a large file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lethe
from lethe.core.split import Split, concat
from lethe.data import arrays
from lethe.data.load import load
from lethe.data.sources import npz

MEASURE = """
import resource, sys
import numpy as np, torch
import lethe
from lethe.data import arrays
from lethe.data.load import load

kind, folder, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = torch.nn.Sequential(torch.nn.AvgPool2d(32), torch.nn.Flatten(), torch.nn.Linear(12, 2))

class Lazy:
    def __len__(self): return n
    def __getitem__(self, i): return torch.full((3, 64, 64), float(i)), i % 2

def now():
    return sum(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1e3

few = (torch.rand(20, 3, 64, 64), torch.arange(20) % 2)
task = lethe.classification(model, few, [0])
before, peak = now(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
if kind == "lazy":
    data = Lazy()
elif kind == "mapped":
    arrays.LARGE = 1000
    data = load({"kind": "npy", "x": folder + "/x.npy", "y": folder + "/y.npy"})["train"]
else:
    data = (np.full((n, 3, 64, 64), 7, dtype=np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None], np.arange(n) % 2)
task = lethe.classification(model, data, np.arange(n // 10))
task.fingerprint
print(now() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - peak)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "n", "size"), [("lazy", 3000, 4), ("bytes", 6000, 1), ("mapped", 6000, 1)])
def test_a_task_holds_its_data_once(tmp_path: Path, kind: str, n: int, size: int) -> None:
    if kind == "mapped":
        np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 255, (n, 3, 64, 64), dtype=np.uint8))
        np.save(tmp_path / "y.npy", np.arange(n) % 2)
    done = subprocess.run([sys.executable, "-c", MEASURE, kind, str(tmp_path), str(n)], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    held = float(done.stdout.split()[0])
    data = n * 3 * 64 * 64 * size / 1e6
    print(f"{kind}: {held:.0f} MB held of {data:.0f} MB data: {held / n * 1000:.1f} kB a picture")
    assert held <= (0.1 if kind == "mapped" else 1.2) * data + 20   # 20 MB: the allocator's own


def copied(split: Split) -> Split:
    return Split({key: split.columns[key].clone() for key in split.columns}, split.name, split.ids, split.meta)


def test_positions_over_a_store_are_the_same_data_as_copies() -> None:
    x = torch.randn(50, 3, 20, generator=torch.Generator().manual_seed(0))
    whole, other = (Split({"x": part, "y": torch.arange(len(part))}, name) for part, name in ((x[:30], "a"), (x[30:], "b")))
    one = whole.subset(np.arange(3, 29), "c").subset(np.array([0, 7, 2]), "d")
    assert torch.equal(one.columns["x"], x[[3, 10, 5]]) and one.columns["y"].tolist() == [3, 10, 5]
    both = concat([one, other.subset([4, 1], "e"), whole.subset([9], "f")], "g")
    assert torch.equal(both.columns["x"], torch.stack([x[3], x[10], x[5], x[34], x[31], x[9]]))
    again = concat([both.subset([4, 0], "h"), one], "i").subset([1, 0, 3], "j")
    assert torch.equal(again.columns["x"], torch.stack([x[3], x[31], x[10]]))
    for split in (one, both, again):
        assert split.fingerprint == copied(split).fingerprint and split.contents() == copied(split).contents()
        assert torch.equal(split.batch([1]).x, split.columns["x"][[1]]) and split.shape("x") == tuple(split.columns["x"].shape)


def test_a_large_array_of_an_archive_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.random.default_rng(0).normal(size=(60, 5, 4)), np.arange(60) % 3
    np.savez(tmp_path / "stored.npz", x=x.astype(np.float32), y=y)
    np.savez_compressed(tmp_path / "packed.npz", x=x.astype(np.float32), y=y)
    np.savez(tmp_path / "other.npz", x=np.asfortranarray(x), y=y)
    for name in ("stored", "packed", "other"):
        monkeypatch.setattr(arrays, "LARGE", 2**31)
        plain = load({"path": str(tmp_path / f"{name}.npz")})["train"]
        monkeypatch.setattr(arrays, "LARGE", 1000)
        assert isinstance(npz.opened(tmp_path / f"{name}.npz", False)["x"], np.memmap)
        assert not isinstance(npz.opened(tmp_path / f"{name}.npz", False)["y"], np.memmap)
        mapped = load({"path": str(tmp_path / f"{name}.npz")})["train"]
        assert mapped.fingerprint == plain.fingerprint and torch.equal(mapped.columns["x"], torch.from_numpy(x).float())


def test_what_lies_in_a_file_gives_the_same_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(60, 20)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.arange(60) % 3)
    found = []
    for large in (arrays.LARGE, 10):
        monkeypatch.setattr(arrays, "LARGE", large)
        split = load({"kind": "npy", "x": str(tmp_path / "x.npy"), "y": str(tmp_path / "y.npy"), "std": 2.0})["train"]
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(20, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        task = lethe.classification(model, split, [1, 2], recipe=lethe.Recipe(epochs=1))
        outcome = lethe.forget(task, "retrain", progress=False)
        found.append((split.fingerprint, [p.sum().item() for p in outcome.model.parameters()]))
    assert found[0] == found[1]

"""Every option of every source of data changes what is read, or turns what was read into a refusal."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lethe.core.catalogue import entries
from lethe.data.context import Context
from lethe.data.load import load
from lethe.errors import LetheError

Case = tuple[Mapping[str, Any], Any]  # options beside which the field is changed, and its other value

CASES: dict[str, dict[str, Case]] = {
    "table": {
        "path": ({}, "other.csv"),
        "label": ({}, "colour"),
        "target": ({"label": "size"}, "number"),
        "features": ({}, ["size"]),
        "inputs": ({}, {"one": ["size"], "two": ["colour"]}),
        "drop": ({}, ["size"]),
        "categorical": ({}, ["size"]),
        "classes": ({}, ["y", "x"]),
        "id": ({}, "key"),
        "part": ({}, "part"),
        "impute": ({"path": "holes.csv"}, True),
        "missing": ({"impute": True, "path": "holes.csv"}, ["", "3"]),
        "max_categories": ({}, 1),
    },
    "npz": {
        "path": ({}, "other.npz"),
        "x": ({}, "z"),
        "y": ({}, "w"),
        "ids": ({}, "key"),
        "channels": ({"x": "pictures"}, "last"),
        "allow_pickle": ({"path": "named.npz", "ids": "names"}, True),
    },
    "npy": {
        "x": ({}, "z.npy"),
        "y": ({}, "w.npy"),
        "channels": ({"x": "pictures.npy"}, "last"),
        "allow_pickle": ({"y": "names.npy"}, True),
    },
    "pickled": {
        "path": ({"allow_pickle": True}, "other.pkl"),
        "x": ({"allow_pickle": True}, "z"),
        "y": ({"allow_pickle": True}, "w"),
        "allow_pickle": ({}, True),
    },
    "images": {"path": ({}, "more"), "size": ({}, 2), "colour": ({}, "rgb"), "classes": ({}, ["b", "a"]),
               "transparent": ({"path": "clear"}, "white")},
    "synthetic": {"name": ({}, "mails")},
    "labelled_text": {
        "path": ({}, "other_texts.csv"),
        "columns": ({}, ["label", "text", "title"]),
        "text": ({}, "title"),
        "label": ({}, "number"),
        "classes": ({}, ["y", "x"]),
        "first": ({"label": "number"}, 1),
        "vocabulary": ({}, 4),
        "length": ({}, 2),
        "padding": ({}, 1),
    },
    "series": {
        "path": ({}, "other_steps.csv"),
        "targets": ({}, ["b"]),
        "columns": ({}, ["a"]),
        "time": ({}, "when"),
        "history": ({}, 3),
        "horizon": ({}, 2),
        "stride": ({}, 2),
        "shares": ({}, [0.5, 0.3, 0.2]),
        "block": ({}, 8),
        "seed": ({"block": 8}, 1),
    },
}
BASE: dict[str, dict[str, Any]] = {
    "table": {"path": "table.csv", "label": "kind"},
    "npz": {"path": "arrays.npz"},
    "npy": {"x": "x.npy", "y": "y.npy"},
    "pickled": {"path": "data.pkl"},
    "images": {"path": "pictures"},
    "labelled_text": {"path": "texts.csv"},
    "synthetic": {},
    "series": {"path": "steps.csv", "targets": ["a"], "history": 4, "horizon": 1},
}
# need files in a published format or a trained tokenizer, which other tests make
ELSEWHERE = {
    "bundled": ["name"],
    "cifar10": ["parts", "path"],
    "mnist": ["path"],
    "tiny_imagenet": ["path", "label"],
    "digits": [],
    "dataset": ["path", "x", "y", "target", "id", "size", "colour", "transparent", "classes"],
    "labelled_text": ["tokenizer"],
}
FILES = {"x", "y", "path"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small file of each kind, and a second one that differs."""
    place = tmp_path_factory.mktemp("sources")
    parts = ("train", "holdout")
    head = "key,size,colour,kind,part\n"
    rows = [f"k{i},{i % 5},{'red' if i % 3 else 'blue'},{'x' if i % 2 else 'y'},{parts[i > 8]}\n" for i in range(12)]
    (place / "table.csv").write_text(head + "".join(rows))
    (place / "other.csv").write_text(head + "".join(rows[:8]))
    (place / "holes.csv").write_text(head + "".join(rows[:11]) + "k11,,red,x,train\n")
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.normal(size=(12, 3)),
        "z": rng.normal(size=(12, 3)),
        "y": np.arange(12) % 3,
        "w": np.arange(12) % 2,
        "pictures": rng.normal(size=(12, 2, 2, 3)),
        "key": np.arange(12) + 100,
    }
    names = np.array([str(i) for i in range(12)], dtype=object)
    np.savez(place / "arrays.npz", **arrays)
    np.savez(place / "named.npz", **arrays, names=names)
    np.savez(place / "other.npz", x=arrays["z"], y=arrays["y"])
    for name, value in arrays.items():
        np.save(place / f"{name}.npy", value)
    np.save(place / "names.npy", (np.arange(12) % 2).astype(object))
    (place / "data.pkl").write_bytes(pickle.dumps(arrays))
    (place / "other.pkl").write_bytes(pickle.dumps({"x": arrays["z"], "y": arrays["y"]}))
    for number in range(8):
        for root in ("pictures", "more") if number < 6 else ("pictures",):
            path = place / root / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 3), number * 20).save(path)
    for number in range(2):
        path = place / "clear" / "ab"[number] / "0.png"
        path.parent.mkdir(parents=True)
        Image.new("RGBA", (4, 3), (9, 9, 9, 100)).save(path)
    texts = [f"word{i} and word{i % 3} or word{i % 5},title {i % 4},{'x' if i % 2 else 'y'},{i % 2 + 1}\n" for i in range(10)]
    (place / "texts.csv").write_text("text,title,label,number\n" + "".join(texts))
    (place / "other_texts.csv").write_text("text,title,label,number\n" + "".join(texts[:7]))
    steps = [f"{i},{np.sin(i):.3f},{np.cos(i):.3f}\n" for i in range(60)]
    (place / "steps.csv").write_text("when,a,b\n" + "".join(steps))
    (place / "other_steps.csv").write_text("when,a,b\n" + "".join(steps[:50]))
    return place


def observed(kind: str, options: Mapping[str, Any], folder: Path) -> Any:
    """Fingerprints and meta columns of all splits, or the refusal."""
    placed = {
        key: str(folder / value) if key == "path" or (kind == "npy" and key in FILES) else value for key, value in options.items()
    }
    try:
        splits = load({"kind": kind, **placed}, Context(folder))
    except LetheError as error:
        return type(error).__name__
    return {name: (split.fingerprint, sorted(split.meta)) for name, split in splits.items()}


@pytest.mark.parametrize(("kind", "option"), [(kind, option) for kind, options in CASES.items() for option in options])
def test_an_option_changes_what_is_read(kind: str, option: str, folder: Path) -> None:
    beside, other = CASES[kind][option]
    before = {**BASE[kind], **beside}
    first, second = observed(kind, before, folder), observed(kind, {**before, option: other}, folder)
    assert first != second
    assert dict in (type(first), type(second)) or option == "allow_pickle"   # opened, objects are no numbers: another refusal


def test_every_option_of_every_source_has_its_case() -> None:
    declared = {kind: {option.name for option in entry.options} for kind, entry in entries("sources").items()}
    covered = {kind: {*CASES.get(kind, {}), *ELSEWHERE.get(kind, [])} for kind in declared}
    assert covered == declared
    tests = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py") if path.parent.name != "wiring")
    assert all(f'"{option}"' in tests or f"{option}=" in tests for options in ELSEWHERE.values() for option in options)

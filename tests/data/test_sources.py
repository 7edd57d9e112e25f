"""Sources that need no real data: every kind gives the same splits, and shares are cut before anything is learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lethe.data.context import Context
from lethe.data.load import kinds, load
from lethe.data.select import where
from lethe.errors import DataError, EmptySplit, LabelOutOfRange, NeedsUnmet, NotFinite, OutOfRange, RequestError, WrongColumn


def numbers(n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)), np.arange(n) % 3


def archive(folder: Path, **more: Any) -> str:
    x, y = numbers()
    np.savez(folder / "data.npz", x=x, y=y, **more)
    return str(folder / "data.npz")


def picture(path: Path, value: int, size: tuple[int, int] = (4, 3), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 255)).save(path)


def table(folder: Path, text: str, name: str = "table.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


# -- parts -------------------------------------------------------------------------------------------------------------


def test_every_kind_has_documentation_and_a_config() -> None:
    import importlib
    import typing

    for kind in kinds():
        module = importlib.import_module(f"lethe.data.sources.{kind}")
        cfg = typing.get_type_hints(module.read)["cfg"]
        assert module.__doc__ and cfg.__name__.lower() == kind.replace("_", ""), kind


def test_shares_are_disjoint_seeded_complete_and_independent_of_each_other() -> None:
    both = load({"kind": "digits", "holdout": 0.2, "test": 0.1})
    assert {name: len(split) for name, split in both.items()} == {"train": 1258, "holdout": 359, "test": 180}
    ids = [set(split.ids) for split in both.values()]
    assert len(set.union(*ids)) == 1797 == sum(map(len, ids))
    only = load({"kind": "digits", "holdout": 0.2})
    assert only["holdout"].fingerprint == both["holdout"].fingerprint
    assert load({"kind": "digits", "holdout": 0.2, "seed": 1})["holdout"].fingerprint != only["holdout"].fingerprint
    positions = [int(i.split(":")[1]) for i in only["train"].ids]
    assert positions == sorted(positions)


def test_holdout_test_takes_half_of_the_sources_own_test_part(tmp_path: Path) -> None:
    path = table(tmp_path, "a,label,part\n" + "".join(f"{i},{i % 2},{'train' if i < 6 else 'test'}\n" for i in range(10)))
    splits = load({"path": path, "label": "label", "part": "part", "holdout": "test"})
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "test": 2, "holdout": 2}
    assert not set(splits["test"].ids) & set(splits["holdout"].ids)
    with pytest.raises(RequestError, match="no test part"):
        load({"kind": "digits", "holdout": "test"})
    with pytest.raises(RequestError, match="test part of its own"):
        load({"path": path, "label": "label", "part": "part", "test": 0.2})


def test_limit_bounds_every_part_and_is_seeded() -> None:
    splits = load({"kind": "digits", "holdout": 0.5, "limit": 40})
    again = load({"kind": "digits", "holdout": 0.5, "limit": 40})
    assert [len(split) for split in splits.values()] == [40, 40]
    assert splits["train"].fingerprint == again["train"].fingerprint


def test_duplicates_of_training_examples_can_be_left_out_of_holdout(tmp_path: Path) -> None:
    x, y = numbers(6)
    np.savez(tmp_path / "train.npz", x=x, y=y)
    np.savez(tmp_path / "holdout.npz", x=np.concatenate([x[:2], x[2:4] + 1]), y=y[:4])
    asked = {"path": str(tmp_path / "train.npz"), "holdout": str(tmp_path / "holdout.npz")}
    said: list[str] = []
    assert len(load(asked)["holdout"]) == 4
    left = load({**asked, "drop_duplicates": True}, Context(progress=said.append))["holdout"]
    assert list(left.ids) == ["holdout:2", "holdout:3"]
    assert said == ["left 2 duplicates of training examples out of holdout"]
    with pytest.raises(EmptySplit, match="is also in train"):
        load({"path": asked["path"], "holdout": asked["path"], "drop_duplicates": True})


# -- arrays in files ---------------------------------------------------------------------------------------------------


def test_npz_keeps_further_arrays_for_selection(tmp_path: Path) -> None:
    path = archive(tmp_path, who=np.array(list("abcabcabcabc")), key=np.arange(100, 112), notes=np.zeros(3))
    train = load({"path": path, "ids": "key"})["train"]
    assert train.columns["x"].dtype == torch.float32 and train.columns["y"].dtype == torch.int64
    assert list(train.ids[:2]) == ["100", "101"] and list(train.meta) == ["who"]
    assert where(column={"who": "b"}).mask(train).sum() == 4


def test_npz_takes_test_data_under_other_names(tmp_path: Path) -> None:
    path = archive(tmp_path, x_test=np.ones((5, 3)), y_test=np.arange(5))
    splits = load({"path": path, "test": {"x": "x_test", "y": "y_test"}})
    assert len(splits["test"]) == 5 and splits["test"].ids[0] == "test:0" and splits["train"].ids[0] == "train:0"
    with pytest.raises(WrongColumn, match=r"'x_tset' \(did you mean x_test\?\)"):
        load({"path": path, "test": {"x": "x_tset"}})


def test_npz_images_can_have_channels_anywhere(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "i.npz", x=x, y=np.arange(4), grey=x[..., 0])
    path = str(tmp_path / "i.npz")
    last = load({"path": path, "channels": "last"})["train"].columns["x"]
    assert last.shape == (4, 3, 5, 6) and last.dtype == torch.uint8 and torch.equal(last[:, 1], torch.from_numpy(x[..., 1]))
    assert load({"path": path, "x": "grey", "channels": "none"})["train"].columns["x"].shape == (4, 1, 5, 6)
    with pytest.raises(DataError, match=r"channels = last means 4 dimensions"):
        load({"path": path, "x": "grey", "channels": "last"})


def test_npy_pair_and_damaged_files(tmp_path: Path) -> None:
    x, y = numbers()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    assert len(load({"kind": "npy", "x": str(tmp_path / "x.npy"), "y": str(tmp_path / "y.npy")})["train"]) == 12
    path = Path(archive(tmp_path))
    path.write_bytes(path.read_bytes()[:200])
    (tmp_path / "x.npy").write_bytes(b"")
    for asked in ({"path": str(path)}, {"kind": "npy", "x": str(tmp_path / "x.npy"), "y": str(tmp_path / "y.npy")}):
        with pytest.raises(DataError, match="cannot be read"):
            load(asked)


def test_allowed_pickles_are_read(tmp_path: Path) -> None:
    x, y = numbers()
    torch.save({"x": torch.from_numpy(x), "y": torch.from_numpy(y)}, tmp_path / "d.pt")
    by_option = load({"path": str(tmp_path / "d.pt"), "allow_pickle": True})["train"]
    by_context = load(tmp_path / "d.pt", Context(allow_pickle=True))["train"]
    assert by_option.fingerprint == by_context.fingerprint == load(archive(tmp_path))["train"].fingerprint


# -- images ------------------------------------------------------------------------------------------------------------


def test_an_image_folder_is_read_in_sorted_order_with_paths_as_ids(tmp_path: Path) -> None:
    for name, value in (("dog/b.png", 3), ("cat/z.png", 2), ("cat/a.png", 1), (".hidden/x.png", 9)):
        picture(tmp_path / name, value)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    train = load(tmp_path)["train"]
    assert list(train.ids) == ["cat/a.png", "cat/z.png", "dog/b.png"] and train.columns["y"].tolist() == [0, 0, 1]
    assert train.columns["x"].shape == (3, 1, 3, 4) and train.columns["x"][:, 0, 0, 0].tolist() == [1, 2, 3]
    assert where(label="cat").mask(train).tolist() == [True, True, False]
    assert load({"path": str(tmp_path), "classes": ["dog", "cat"]})["train"].columns["y"].tolist() == [1, 1, 0]


def test_grey_images_get_colours_when_others_have_them(tmp_path: Path) -> None:
    picture(tmp_path / "a/1.png", 5)
    picture(tmp_path / "b/1.png", 7, mode="RGB")
    x = load(tmp_path)["train"].columns["x"]
    assert x[:, :, 0, 0].tolist() == [[5, 5, 5], [7, 0, 255]]
    assert load({"path": str(tmp_path), "colour": "grey"})["train"].columns["x"].shape[1] == 1


def test_parts_in_folders_share_classes_colours_and_size(tmp_path: Path) -> None:
    for part, mode in (("train", "L"), ("val", "RGB")):
        for name in ("cat", "dog"):
            picture(tmp_path / part / name / "1.png", 5, mode=mode)
    splits = load(tmp_path)
    assert splits["train"].columns["x"].shape == splits["holdout"].columns["x"].shape == (2, 3, 3, 4)
    assert set(splits["train"].ids).isdisjoint(splits["holdout"].ids)
    picture(tmp_path / "val" / "cow" / "1.png", 5, mode="RGB")
    with pytest.raises(LabelOutOfRange, match="'cow' of holdout is none of the 2 known classes"):
        load(tmp_path)


def test_images_of_mixed_sizes_need_a_size(tmp_path: Path) -> None:
    for name, size in (("a/1.png", (4, 3)), ("a/2.png", (4, 3)), ("b/1.png", (5, 5))):
        picture(tmp_path / name, 9, size)
    with pytest.raises(DataError, match=r"a/1\.png is \(3, 4\), b/1\.png is \(5, 5\).*Set size: \[3, 4\]"):
        load(tmp_path)
    assert load({"path": str(tmp_path), "size": 6})["train"].columns["x"].shape == (3, 1, 6, 6)
    assert load({"path": str(tmp_path), "size": [3, 4]})["train"].columns["x"].shape == (3, 1, 3, 4)


def test_images_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(EmptySplit, match="no sub-folders"):
        load({"kind": "images", "path": str(tmp_path)})
    (tmp_path / "cat").mkdir()
    with pytest.raises(EmptySplit, match="no images"):
        load(tmp_path)
    picture(tmp_path / "cat/1.png", 1)
    path = tmp_path / "cat/1.png"
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(DataError, match=r"1\.png cannot be decoded"):
        load(tmp_path)
    Image.fromarray(np.full((3, 4), 40000, dtype=np.uint16)).save(path)
    with pytest.raises(DataError, match=r"1\.png has more than 8 bits"):
        load(tmp_path)


# -- tables ------------------------------------------------------------------------------------------------------------

TABLE = "id,age,city,constant,label\n" + "".join(
    f"r{i},{20 + i},{'Ulm' if i % 3 else 'Bonn'},7,{'yes' if i % 2 else 'no'}\n" for i in range(20))


def test_a_table_is_standardised_with_the_training_rows_alone(tmp_path: Path) -> None:
    splits = load({"path": table(tmp_path, TABLE), "label": "label", "id": "id", "holdout": 0.25})
    train, holdout = splits["train"], splits["holdout"]
    ages = {name: np.array(split.meta["age"], dtype=float) for name, split in splits.items()}
    for name, split in splits.items():   # columns: age, city = Bonn, city = Ulm, constant
        expected = (ages[name] - ages["train"].mean()) / ages["train"].std()
        assert np.allclose(split.columns["x"][:, 0], expected, atol=1e-6)   # float32 of numbers below 3
        assert split.columns["x"][:, 1].tolist() == [float(c == "Bonn") for c in split.meta["city"]]
        assert not split.columns["x"][:, 3].any()
        assert split.columns["y"].tolist() == [int(v == "yes") for v in split.meta["label"]]
    assert abs(float(train.columns["x"][:, 0].mean())) < 1e-6 < abs(float(holdout.columns["x"][:, 0].mean()))
    assert train.ids[0].startswith("r") and where(query="age > 30 and city == Ulm", label="yes").mask(train).any()


def test_a_category_that_training_never_saw_sets_no_input(tmp_path: Path) -> None:
    path = table(tmp_path, "city,label\nUlm,0\nBonn,1\n")
    other = table(tmp_path, "city,label\nKiel,0\nUlm,1\n", "test.csv")
    test = load({"path": path, "label": "label", "test": other})["test"]
    assert test.columns["x"].tolist() == [[0, 0], [0, 1]] and test.ids[0] == "test:0"


def test_missing_values_are_filled_only_on_request(tmp_path: Path) -> None:
    path = table(tmp_path, "age,city,label\n1,Ulm,0\n,Bonn,1\n4,,0\n100,Ulm,1\n")
    with pytest.raises(DataError, match=r"'age' has 1 missing values in train \(first: id train:1\)"):
        load({"path": path, "label": "label"})
    x = load({"path": path, "label": "label", "impute": True})["train"].columns["x"]
    plain = np.array([1, 4, 4, 100])   # the median of 1, 4, 100 is 4; mean and deviation are those of the present values
    assert np.allclose(x[:, 0], (plain - 35) / np.std([1, 4, 100]), atol=1e-6)
    assert x[:, 1:].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]]   # categories '', Bonn, Ulm
    with pytest.raises(DataError, match="label column 'city' has 1 missing"):
        load({"path": path, "label": "city", "impute": True})


def test_labels_of_a_table(tmp_path: Path) -> None:
    path = table(tmp_path, "a,text,whole,real\n1,dog,2,0.5\n2,cat,0,1.5\n3,dog,1,2.5\n")
    assert load({"path": path, "label": "text"})["train"].columns["y"].tolist() == [1, 0, 1]
    assert load({"path": path, "label": "text", "classes": ["dog", "cat"]})["train"].columns["y"].tolist() == [0, 1, 0]
    assert load({"path": path, "label": "whole"})["train"].columns["y"].tolist() == [2, 0, 1]
    y = load({"path": path, "label": "real", "target": "number"})["train"].columns["y"]
    assert y.dtype == torch.float32 and y.tolist() == [0.5, 1.5, 2.5]
    with pytest.raises(LabelOutOfRange, match=r"label 0\.5 in column 'real'.*target: number"):
        load({"path": path, "label": "real"})
    with pytest.raises(LabelOutOfRange, match="'cat' of train is none of the 1 known"):
        load({"path": path, "label": "text", "classes": ["dog"]})


def test_tables_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    def refused(text: str, kind: type[Exception], match: str, **options: Any) -> None:
        with pytest.raises(kind, match=match):
            load({"path": table(tmp_path, text), "label": "label", **options})

    refused("a,label\n1,0\n2\n", DataError, "row 3 of table.csv has 1 values for 2 columns")
    refused("a,a,label\n1,2,0\n", DataError, "two columns named 'a'")
    refused("a,label\n", EmptySplit, "no rows")
    refused("", EmptySplit, "no rows")
    refused("a,label\ninf,0\n1,1\n", NotFinite, "'a' has 1 infinite")
    refused("a,label\nx,0\ny,1\n", DataError, "'a' has 2 different values", max_categories=1)
    refused("a,label\n1,0\n1,1\n", DataError, "column 'a' names 1 rows twice", id="a")
    refused("a,label\n1,0\n", DataError, "read the answer", features=["a", "label"])
    refused("a,label\n1,0\n", WrongColumn, r"'aa' is not a column of train \(did you mean a\?\)", drop=["aa"])
    refused("a,label\n1,0\n", OutOfRange, "data.target = .klass.: choose class, number, standard or log", target="klass")
    (tmp_path / "table.csv").write_bytes(b"a,label\n\xff\xfe,0\n")
    with pytest.raises(DataError, match=r"table\.csv is not UTF-8 text \(line 2, byte 0xff\)"):
        load({"path": str(tmp_path / "table.csv"), "label": "label"})


def test_parquet_and_gzipped_tables_equal_the_plain_one(tmp_path: Path) -> None:
    import gzip

    csv, parquet = pytest.importorskip("pyarrow.csv"), pytest.importorskip("pyarrow.parquet")
    plain = table(tmp_path, TABLE)
    parquet.write_table(csv.read_csv(plain), tmp_path / "t.parquet")
    with gzip.open(tmp_path / "t.csv.gz", "wt") as handle:
        handle.write(TABLE)
    prints = {load({"path": p, "label": "label", "id": "id"})["train"].fingerprint
              for p in (plain, str(tmp_path / "t.parquet"), str(tmp_path / "t.csv.gz"))}
    assert len(prints) == 1


# -- Hugging Face data sets on disk --------------------------------------------------------------------------------------


def saved_to_disk(folder: Path, columns: dict[str, Any], features: dict[str, Any] | None = None, shards: int = 1) -> Path:
    """The files that `datasets.Dataset.save_to_disk` writes."""
    pyarrow = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    whole = pyarrow.table(columns)
    size = -(-whole.num_rows // shards)
    names = [f"data-{i:05d}-of-{shards:05d}.arrow" for i in range(shards)]
    for i, name in enumerate(names):
        part = whole.slice(i * size, size)
        with pyarrow.OSFile(str(folder / name), "wb") as sink, pyarrow.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features or {}}))
    return folder


def encoded(value: int) -> dict[str, Any]:
    import io

    buffer = io.BytesIO()
    Image.new("L", (4, 3), value).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def test_a_data_set_of_images_is_read_without_its_library(tmp_path: Path) -> None:
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    columns = {"image": [encoded(v) for v in (1, 2, 3)], "label": [0, 1, 0], "who": ["a", "b", "c"]}
    for part in ("train", "validation"):
        saved_to_disk(tmp_path / "d" / part, columns, features, shards=2)
    (tmp_path / "d" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    splits = load(tmp_path / "d")
    train = splits["train"]
    assert set(splits) == {"train", "holdout"} and splits["holdout"].ids[0] == "holdout:0"
    assert train.columns["x"][:, 0, 0, 0].tolist() == [1, 2, 3] and train.columns["y"].tolist() == [0, 1, 0]
    assert train.meta["who"] == ["a", "b", "c"] and where(label="dog").mask(train).tolist() == [False, True, False]


def test_data_sets_of_arrays_and_of_table_columns(tmp_path: Path) -> None:
    columns = {"pixels": [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]], "age": [10, 30], "city": ["a", "b"],
               "label": [1, 0]}
    folder = saved_to_disk(tmp_path / "d", columns)
    x = load({"path": str(folder), "x": "pixels"})["train"].columns["x"]
    assert x.shape == (2, 2, 2) and x[1].tolist() == [[5, 6], [7, 8]]
    assert load({"path": str(folder), "x": ["age", "city"]})["train"].columns["x"].tolist() == [[-1, 1, 0], [1, 0, 1]]
    assert load({"path": str(folder), "x": "age", "y": "age", "target": "number"})["train"].columns["y"].tolist() == [10, 30]
    with pytest.raises(WrongColumn, match=r"data\.x = 'image' is not a column.*Columns: pixels, age, city, label"):
        load(folder)
    ragged = saved_to_disk(tmp_path / "r", {"x": [[1.0], [1.0, 2.0]], "label": [0, 1]})
    with pytest.raises(DataError, match=r"rows of 2 lengths \(1 to 2\)"):
        load({"path": str(ragged), "x": "x"})
    (folder / "data-00000-of-00001.arrow").write_bytes(b"no arrow")
    with pytest.raises(DataError, match="data set is incomplete"):
        load(folder)


# -- real data ---------------------------------------------------------------------------------------------------------


def test_a_kind_that_needs_the_folder_of_data_sets_says_so() -> None:
    with pytest.raises(NeedsUnmet, match=r"cifar10|images.*Set data\.path"):
        load("cifar10")


def test_mnist_is_read(data_root: Path) -> None:
    splits = load("mnist", Context(data_root))
    shapes = {name: tuple(split.columns["x"].shape) for name, split in splits.items()}
    assert shapes == {"train": (60000, 1, 28, 28), "test": (10000, 1, 28, 28)}
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]   # as published
    assert torch.bincount(splits["train"].columns["y"]).tolist() == counts


@pytest.mark.slow
def test_cifar10_is_decoded_once(data_root: Path, tmp_path: Path) -> None:
    said: list[str] = []
    context = Context(data_root, tmp_path, progress=said.append)
    first = load("cifar10", context)
    assert said == ["decoding cifar10_train.npz, once", "decoding cifar10_test.npz, once"]
    said.clear()
    again = load("cifar10", context)
    assert not said and again["test"].fingerprint == first["test"].fingerprint
    z = dict(np.load(data_root / "images/cifar10_test.npz"))
    import io

    for i in (0, 777, 9999):
        data = z["header"].tobytes() + z["scan"][z["offset"][i] : z["offset"][i + 1]].tobytes()
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(first["test"].columns["x"][i].numpy(), expected)
    assert torch.bincount(first["train"].columns["y"]).tolist() == [5000] * 10
    alone = load({"kind": "cifar10", "parts": "test"}, context)
    assert list(alone) == ["train"] and torch.equal(alone["train"].columns["x"], first["test"].columns["x"])
    damaged = next((tmp_path / "data").glob("cifar10_test*"))
    damaged.write_bytes(damaged.read_bytes()[:1000])
    assert load("cifar10", context)["test"].fingerprint == first["test"].fingerprint


def test_tiny_imagenet_has_superclasses(data_root: Path, tmp_path: Path) -> None:
    train = load("tiny_imagenet", Context(data_root, tmp_path))["train"]
    assert train.columns["x"].shape == (3000, 3, 64, 64)
    dogs = where(column={"superclass": "dog"}).mask(train)
    assert dogs.sum() == 600 and set(np.unique(train.columns["y"][torch.from_numpy(dogs)])) == {0, 1, 2, 3, 4}


@pytest.mark.slow
def test_real_tables_are_read(data_root: Path) -> None:
    folder = data_root / "tabular"
    adult = load({"path": str(folder / "adult.csv.gz"), "label": "income", "part": "split"})
    assert {name: len(split) for name, split in adult.items()} == {"train": 32561, "test": 16281}
    assert torch.isfinite(adult["test"].columns["x"]).all() and "Female" in adult["train"].meta["sex"]
    with pytest.raises(DataError, match=r"'days_b_screening_arrest' has 307 missing"):
        load({"path": str(folder / "compas_two_years_anonymous.csv.gz"), "label": "two_year_recid", "drop": ["is_recid"]})

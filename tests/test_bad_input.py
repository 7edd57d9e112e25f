"""Bad input, as a table: what is given, the error it must raise, and the words of value, consequence and remedy.

Every case also checks that the original model is left as it was.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import blobs
from torch import Tensor, nn

import lethe
from lethe import api, errors
from lethe.core import catalogue
from lethe.core.modules import state_fingerprint
from lethe.core.outcome import Outcome
from lethe.core.split import Split
from lethe.core.task import Recipe, Task
from lethe.data.arrays import as_split
from lethe.data.load import load
from lethe.data.select import Where, divide, where
from lethe.models.classification.task import Classification
from lethe.models.load import load_classifier
from lethe.models.regression.task import Regression
from lethe.models.zoo.mlp import MLP
from lethe.train.loop import Modifiers, Settings
from lethe.work import request

TRAIN, HOLDOUT = blobs(40, 0, "train"), blobs(40, 1, "holdout")


def model() -> MLP:
    torch.manual_seed(0)
    return MLP(6, (16,), 4)


def task(net: nn.Module, forget: Any = Where(label=3), train: Split = TRAIN, **parts: Split) -> Task:
    forgotten, retained = divide(train, forget)
    splits = {"forget": forgotten, "retain": retained, "holdout": HOLDOUT, **parts}
    return Classification(net, splits, Recipe(epochs=1))


def changed(split: Split, **columns: Tensor) -> Split:
    return Split({**split.columns, **columns}, split.name, split.ids, split.meta)


def with_nan(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor[5] = float("nan")
    return tensor


class Wrapped(nn.Module):
    """The model with its output changed."""

    def __init__(self, inner: nn.Module, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.inner(x))


class NoHead(nn.Module):
    """A classifier whose last layer is a convolution; spare: with a linear layer that it never calls."""

    def __init__(self, spare: bool = False) -> None:
        super().__init__()
        self.last = nn.Conv1d(6, 4, 1)
        if spare:
            self.spare = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.unsqueeze(-1)).squeeze(-1)


def poisoned(net: nn.Module) -> Task:
    import copy

    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.head.bias[0] = float("nan")  # type: ignore[union-attr]
    return task(twin)


def pickled(folder: Path) -> Path:
    path = folder / "data.pkl"
    path.write_bytes(pickle.dumps({"x": [[1.0]], "y": [0]}))
    return path


def saved(folder: Path, content: object, name: str) -> Path:
    path = folder / name
    torch.save(content, path)
    return path


def objects(folder: Path) -> Path:
    np.savez(folder / "objects.npz", x=np.array([{}, {}], dtype=object), y=np.array([0, 1]))
    return folder / "objects.npz"


def table(folder: Path, text: str) -> str:
    (folder / "table.csv").write_text(text)
    return str(folder / "table.csv")


def read(**options: Any) -> request.Request:
    return request.parse({"family": "classification", "model": {"zoo": "mlp"}, "data": {"kind": "digits"}, **options})


def existing(folder: Path) -> Path:
    place = folder / "unlearned"
    place.mkdir()
    return place


ROWS = "age,city,label\n30,Ulm,0\n40,Bonn,1\n50,Ulm,0\n"
GAPS = "age,city,label\n30,Ulm,0\n,Bonn,1\n50,Ulm,0\n"

# name: (what is done with the original and a folder, the error, words of value · consequence · remedy)
Case = tuple[Callable[[nn.Module, Path], Any], type[Exception], tuple[str, ...]]
CASES: dict[str, Case] = {
    # -- what is to be forgotten
    "empty forget set": (lambda m, _: task(m, Where(query="y > 7")), errors.EmptySplit,
                         ("y > 7", "nothing to forget", "Check the selection")),
    "forget selects all": (lambda m, _: task(m, Where(query="y >= 0")), errors.EmptySplit,
                           ("every example", "nothing would be retained", "Narrow")),
    "no condition at all": (lambda m, _: task(m, where()), errors.EmptySplit,
                            ("every example", "nothing would be retained", "Narrow")),
    "label that does not exist": (lambda m, _: task(m, Where(label=9)), errors.EmptySplit,
                                  ("label 9", "nothing to forget", "Labels: 0, 1, 2, 3")),
    "index out of range": (lambda m, _: task(m, Where(index=(0, 40))), errors.DataError,
                           ("index 40", "0…39", "does not exist", "forget.index")),
    "negative position": (lambda m, _: task(m, [-1]), errors.DataError, ("index -1", "does not exist", "forget.index")),
    "booleans of the wrong length": (lambda m, _: task(m, np.ones(3, dtype=bool)), errors.DataError,
                                     ("(3,)", "cannot be identified", "40 booleans")),
    "unknown id": (lambda m, _: task(m, Where(ids=("train:3", "bob"))), errors.DataError,
                   ("'bob'", "cannot be forgotten", "forget.ids")),
    "wrong column in a query": (lambda m, _: task(m, Where(query="agee > 3"), Split(
        TRAIN.columns, "train", meta={"age": list(range(40))})), errors.WrongColumn,
        ("'agee'", "did you mean age?", "nothing can be selected", "Columns: ")),
    "query that is none": (lambda m, _: task(m, Where(query="age > ")), errors.RequestError, ("'age >'", "OP is one "
                                                                                                         "of")),
    "bad regular expression": (lambda m, _: task(m, Where(text="("), Split(
        TRAIN.columns, "train", meta={"note": ["a"] * 40})), errors.RequestError, ("'('", "nothing was "
                                                                                          "selected", "backslash")),
    "unknown entity": (lambda m, _: task(m, Where(entity="Bop"), Split(
        TRAIN.columns, "train", meta={"entity": ["Bob", "Eve"] * 20})), errors.EmptySplit,
        ("'Bop'", "did you mean Bob?", "nothing to forget", "forget.entity")),
    "no column of entities": (lambda m, _: task(m, Where(entity="Bob")), errors.WrongColumn,
                              ("forget.entity", "does not have", "forget.column")),
    "unknown class name": (lambda m, _: task(m, Where(label="cst"), Split(
        TRAIN.columns, "train", meta={"class": ["dog", "cat", "cow", "pig"] * 10})), errors.EmptySplit,
        ("label cst", "did you mean cat?", "nothing to forget", "Labels: ")),
    "more than there are": (lambda m, _: task(m, Where(label=3, count=11)),
                            errors.DataError, ("11", "10 matching", "fewer")),
    # -- data
    "forget in holdout by id": (lambda m, _: task(m, holdout=Split(
        HOLDOUT.columns, "holdout", ids=np.array([f"train:{i}" for i in range(40)]))), errors.SplitsOverlap,
        ("10 examples", "train:", "seen data unseen", "Remove")),
    "forget in holdout by content": (lambda m, _: task(m, holdout=Split(
        {k: v[:8] for k, v in TRAIN.columns.items()}, "holdout")), errors.SplitsOverlap,
        ("2 examples", "equal content", "seen data unseen", "Remove the duplicates")),
    "label out of range": (lambda m, _: task(m, train=changed(TRAIN, y=TRAIN.columns["y"] * 2), forget=Where(label=6)),
                           errors.LabelOutOfRange, ("label 6", "no output", "4 classes (0…3)", "Correct")),
    "labels that are no integers": (lambda m, _: task(m, [0], changed(TRAIN, y=TRAIN.columns["y"].float())),
                                    errors.DataError,
                                    ("float32 [1]", "no loss", "y.long()")),
    "no column y": (lambda m, _: task(m, [0], Split({"x": TRAIN.columns["x"]})), errors.WrongColumn,
                    ("'y'", "no label", "Columns: x")),
    "NaN in data": (lambda m, _: task(m, train=changed(TRAIN, x=with_nan(TRAIN.columns["x"]))), errors.NotFinite,
                    ("'x'", "1 examples", "id train:5", "losses would be NaN", "Remove or impute")),
    "columns of different lengths": (lambda m, _: Split({"x": torch.zeros(3, 2), "y": torch.zeros(2)}),
                                     errors.DataError,
                                     ("'x': 3", "'y': 2", "belong to one example", "same length")),
    "ids of another length": (lambda m, _: Split({"x": torch.zeros(3, 2)}, ids=np.array(["a"])), errors.DataError,
                              ("'ids': 1", "belong to one example")),
    "text labels in memory": (lambda m, _: as_split((np.zeros((2, 3)), np.array(["a", "b"]))), errors.DataError,
                              ("'a'", "not numbers", "np.unique")),
    "one-hot labels": (lambda m, _: lethe.classification(m, (np.zeros((2, 6)), np.eye(2, dtype=int)), [0]), errors.DataError,
                       ("[1, 2]", "no loss can be computed", "argmax", "multilabel")),
    "text as targets in memory": (lambda m, _: lethe.regression(m, (np.zeros((2, 6)), np.array(["0.5", "1"])), [0]),
                                  errors.DataError, ("'0.5'", "not numbers", "astype(float)")),
    "NaN in targets": (lambda m, _: lethe.regression(m, (np.zeros((3, 6)), np.array([0.5, np.nan, 1])), [0]), errors.NotFinite,
                       ("'y'", "1 examples", "id train:1", "losses would be NaN", "Remove or impute")),
    "class numbers as targets": (lambda m, _: Regression(m, {"retain": TRAIN}), errors.DataError,
                                 ("int64", "no error can be computed", "data.target: number")),
    "rows of different lengths": (lambda m, _: as_split(([[1, 2], [3]], [0, 1])), errors.DataError,
                                  ("different shapes", "one tensor", "one shape")),
    # -- files of data
    "file that does not exist": (lambda m, p: load({"kind": "npz", "path": str(p / "nix.npz")}), errors.DataError,
                                 ("nix.npz", "nothing to read", "data.path")),
    "wrong label column": (lambda m, p: load({"path": table(p, ROWS), "label": "lable"}), errors.WrongColumn,
                           ("'lable'", "did you mean label?", "nothing was read", "Columns: age, city, label")),
    "missing values": (lambda m, p: load({"path": table(p, GAPS), "label": "label"}), errors.DataError,
                       ("'age'", "1 missing", "train:1", "NaN", "impute: true")),
    "text as a regression target": (lambda m, p: load({"path": table(p, ROWS), "label": "city", "target": "number"}),
                                    errors.DataError, ("'city'", "'Ulm'", "no regression target", "target: class")),
    "unknown data option": (lambda m, p: load({"kind": "digits", "holdot": 0.1}), errors.UnknownKey,
                            ("data.holdot", "did you mean holdout?", "nothing was read", "Options: ")),
    "unknown kind of data": (lambda m, p: load({"kind": "tabel"}), errors.UnknownName,
                             ("'tabel'", "did you mean table?", "Known: ")),
    "required option left out": (lambda m, p: load({"path": table(p, ROWS)}), errors.OutOfRange,
                                 ("'label'", "missing", "Provide data.label")),
    "share of everything": (lambda m, p: load({"kind": "digits", "holdout": 1.0}), errors.OutOfRange,
                            ("data.holdout = 1.0", "must be less than 1")),
    "shares that leave nothing": (lambda m, p: load({"kind": "digits", "holdout": 0.5, "test": 0.6}), errors.EmptySplit,
                                  ("0.5 of 1797", "leaves train with", "Change the share")),
    # -- pickles
    "pickled data": (lambda m, p: load(pickled(p)), errors.PickleRefused,
                     ("data.pkl", "any code", "not opened", "npz", "allow_pickle: true")),
    "torch.save of data": (lambda m, p: load(saved(p, (torch.zeros(2), torch.zeros(2)), "d.pt")), errors.PickleRefused,
                           ("d.pt", "any code", "allow_pickle: true")),
    "npz with objects": (lambda m, p: load(objects(p)), errors.PickleRefused,
                         ("objects.npz", "any code", "object arrays", "allow_pickle: true")),
    "pickled weights": (lambda m, p: load_classifier(zoo="mlp", weights=saved(p, {"model": m}, "net.pt")),
                        errors.PickleRefused,
                        ("net.pt", "any code", "state_dict", "--allow-pickle")),
    # -- the model
    "NaN in weights": (lambda m, _: poisoned(m), errors.NotFinite, ("'head.bias'", "1 values", "valid checkpoint")),
    "outputs of the wrong shape": (lambda m, _: task(Wrapped(m, lambda y: y[:, :, None])), errors.OutputShape,
                                   (", 1)", "[2, K]", "no loss", "forward(x) returns logits")),
    "outputs that are several": (lambda m, _: task(Wrapped(m, lambda y: {"coarse": y, "fine": y + 1})), errors.OutputShape,
                                 ("dict", "'coarse' [2, ", "not clear", "model.output")),
    "outputs that are no tensor": (lambda m, _: task(Wrapped(m, lambda y: y.tolist())), errors.OutputShape,
                                   ("a list with no tensor", "not clear", "model.output")),
    "outputs that are NaN": (lambda m, _: task(Wrapped(m, lambda y: y * float("nan"))), errors.NotFinite,
                             ("NaN", "every result", "Check its inputs")),
    "a head that cannot be found": (lambda m, _: task(NoHead()), errors.ModelError,
                                    ("4 outputs", "NoHead", "nothing was started", "head='…'", "model.head")),
    "a head that does not exist": (lambda m, _: Classification(m, {"retain": TRAIN}, head="haed"), errors.ModelError,
                                   ("0 modules called 'haed'", "did you mean head?", "features", "head='…'")),
    "a head that is not used": (lambda m, _: Classification(NoHead(spare=True), {"retain": TRAIN}), errors.ModelError,
                                ("'spare'", "is not used", "features", "model.head")),
    "inputs of another shape": (lambda m, _: task(m, [0], changed(TRAIN, x=TRAIN.columns["x"][:, :3]),
                                                  holdout=changed(HOLDOUT, x=HOLDOUT.columns["x"][:, :3])),
                                errors.ModelError, ("[2, 3]", "cannot take", "Nothing was started")),
    "weights of another model": (lambda m, p: load_classifier(zoo="lenet5", weights=weights(m, p)), errors.ModelError,
                                 ("LeNet5", "belong to another model", "Correct")),
    "two models at once": (lambda m, p: load_classifier(zoo="mlp", code="net.py:make"), errors.RequestError,
                           ("both code and zoo", "nothing was started", "path/to/file.py:factory")),
    # -- what is asked for
    "unknown method": (lambda m, _: api.forget(task(m), "neggrad_pls"), errors.UnknownName,
                       ("'neggrad_pls'", "did you mean neggrad_plus?", "lethe methods")),
    "unknown method in a request": (lambda m, _: read(method="neggrad_pls"), errors.UnknownName, ("did you mean "
                                                                                                  "neggrad_plus?",)),
    "unknown audit": (lambda m, _: catalogue.entry("audits", next(iter(catalogue.entries("audits"))) + "z"),
                      errors.UnknownName,
                      ("did you mean", "lethe audits")),
    "unknown audit in a request": (lambda m, _: read(audit={"audits": [next(iter(catalogue.entries("audits"))) + "z"]}),
                                   errors.UnknownName, ("did you mean", "lethe audits")),
    "unknown modifier": (lambda m, _: Modifiers(perturb="samm"), errors.UnknownName,
                         ("'samm'", "did you mean sam?", "Known: ")),
    "unknown option": (lambda m, _: api.forget(task(m), "neggrad_plus", lrr=0.1), errors.UnknownKey,
                       ("'lrr'", "neggrad_plus", "did you mean lr?", "Options: ")),
    "unknown option in a request": (lambda m, _: read(method={"name": "neggrad_plus", "lrr": 0.1}), errors.UnknownKey,
                                    ("'lrr'", "did you mean lr?", "nothing was started", "lethe describe")),
    "value out of range": (lambda m, _: api.forget(task(m), "neggrad_plus", lr=-1.0), errors.OutOfRange,
                           ("neggrad_plus.lr = -1.0", "must be greater than 0")),
    "value of the wrong type": (lambda m, _: Settings(seed="many"), errors.OutOfRange,  # type: ignore[arg-type]
                                ("settings.seed = 'many'", "must be a valid integer")),
    "need that is not met": (lambda m, _: api.forget(Classification(m, {"forget": TRAIN}), "neggrad_plus"),
                             errors.NeedsUnmet,
                             ("no retain", "nothing was started", "Provide retain")),
    # -- files
    "output folder exists": (lambda m, p: Outcome(m, task=task(m)).save(existing(p)), errors.OutputExists,
                             ("unlearned", "never overwritten", "nothing was written", "another folder")),
}


def weights(net: nn.Module, folder: Path) -> Path:
    from safetensors.torch import save_file

    save_file(net.state_dict(), folder / "w.safetensors")
    return folder / "w.safetensors"


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_with_value_consequence_and_remedy(name: str, tmp_path: Path) -> None:
    act, kind, words = CASES[name]
    original = model()
    before = state_fingerprint(original)
    with pytest.raises(kind) as caught:
        act(original, tmp_path)
    assert type(caught.value) is kind, f"{type(caught.value).__name__} instead of {kind.__name__}"
    message = str(caught.value)
    assert "\n" not in message
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message}"
    assert state_fingerprint(original) == before
    assert original.training and all(p.requires_grad for p in original.parameters())


def test_errors_inherit_from_what_a_caller_would_expect() -> None:
    for kind in (errors.WrongColumn, errors.OutOfRange, errors.PickleRefused):
        assert issubclass(kind, ValueError) and issubclass(kind, errors.LetheError)
    assert issubclass(errors.OutputExists, FileExistsError) and issubclass(errors.DiskFull, OSError)


def test_a_pickle_that_would_run_code_does_not_run_it(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    for name in ("data.pkl", "net.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    np.savez(tmp_path / "data.npz", x=np.array([Trap()], dtype=object), y=np.array([0]))
    for act in (lambda: load(tmp_path / "data.pkl"), lambda: load(tmp_path / "data.npz"),
                lambda: load_classifier(zoo="mlp", weights=tmp_path / "net.pt")):
        with pytest.raises(errors.PickleRefused):
            act()
    assert not (tmp_path / "sprung").exists()

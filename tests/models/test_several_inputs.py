"""Networks that take several inputs, or a dictionary of them: every way in, every method that fits, refusals in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli.test_own_model import request
from forked import lethe as command
from safetensors.torch import load_file
from test_matrix import small
from tiny import blobs, trained
from torch import Tensor, nn

import lethe
from lethe.core import catalogue
from lethe.core.split import concat
from lethe.core.task import Task
from lethe.data.load import load
from lethe.errors import DataError, ModelError, NeedsUnmet
from lethe.train.apply import fitting

CODE = '''
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(7, 16), nn.Linear(16, 4)

    def forward(self, age, image):
        return self.head(torch.relu(self.body(torch.cat([image.flatten(1), age.float().unsqueeze(1)], 1))))


def make():
    return Two()
'''
made: dict[str, Any] = {}
exec(CODE, made)
Two: type[nn.Module] = made["Two"]


class Named(Two):   # type: ignore[misc,valid-type]
    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return super().forward(inputs["age"], inputs["image"])


class Placed(Two):   # type: ignore[misc,valid-type]
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return super().forward(second, first)


def columns(n: int, seed: int, name: str) -> dict[str, Any]:
    """Four classes: which pair of classes the image tells, and the age which of the pair."""
    split = blobs(n, seed, name)
    y = split.columns["y"]
    return {"image": split.columns["x"].view(n, 2, 3), "age": (y % 2 * 5 + torch.arange(n) % 3).numpy(), "y": y.numpy(),
            "ids": [f"{name}{i}" for i in range(n)]}


def task_of(model: nn.Module, train: Any, **options: Any) -> Task:
    torch.manual_seed(0)
    return lethe.classification(model, train, lethe.where(label=3), holdout=options.pop("holdout", columns(80, 1, "h")),
                                recipe=lethe.Recipe(epochs=10, lr=1e-2), **options)


@pytest.fixture(scope="module")
def task() -> Task:
    torch.manual_seed(0)
    first = task_of(Two(), columns(120, 0, "t"))
    whole = concat([first.retain, first.forget], "train")
    return task_of(trained(first, whole), columns(120, 0, "t"))


def test_every_way_in_gives_the_same_answers() -> None:
    torch.manual_seed(0)
    state, data = Two().state_dict(), columns(40, 0, "t")
    nested = ({"image": data["image"], "age": data["age"]}, data["y"])

    class Items(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, i: int) -> Any:
            return {"image": data["image"][i], "age": int(data["age"][i])}, int(data["y"][i])

    wanted = Two()
    wanted.load_state_dict(state)
    right = wanted(torch.as_tensor(data["age"]), data["image"])
    for kind in (Two, Named, Placed):
        for given, options in ((data, {"inputs": ("image", "age")}), (nested, {}), (Items(), {}),
                               ({"x": nested[0], "y": nested[1]}, {})):
            model = kind()
            model.load_state_dict(state)
            task = lethe.classification(model, given, [0, 1], **options)
            batch = concat([task.forget, task.retain], "all").batch(range(40))
            assert torch.equal(task.outputs(task.original, batch), right), (kind, type(given))
            assert set(task.forget.inputs) == {"x.image", "x.age"} and "x" not in task.forget.columns
    inputs, label = task.forget.dataset()[1]
    assert set(inputs) == {"image", "age"} and inputs["image"].shape == (2, 3) and label == data["y"][1]


def test_every_method_that_fits_runs_and_those_that_change_the_input_are_refused(task: Task) -> None:
    assert task.has("forget") and not {"boundary_shrink", "amun", "rurk", "jit"} & set(fitting(task))
    for name in fitting(task):
        if name not in ("auto", "sisa", "s3t"):
            config = small(catalogue.load("methods", name).config, {})
            outcome = lethe.forget(task, config, progress=False)
            assert all(torch.isfinite(p).all() for p in outcome.model.parameters()), name
    with pytest.raises(NeedsUnmet, match=r"amun uses inputs, .* a model with several inputs \(age, image\)"):
        lethe.forget(task, "amun", progress=False)


def test_audits_run_and_those_of_the_input_say_why_not(task: Task) -> None:
    outcome = lethe.forget(task, "finetune", progress=False, epochs=1)
    wanted = ["scores", {"name": "blind_split", "fewest": 5}, "threshold", "representation", "steering", "layers"]
    report = lethe.audit(task, outcome, depth="standard", references=2, shadows=0, progress=False, audits=wanted)
    missing = report.scenario().not_tested
    assert {one.audit for one in missing} == {"representation", "steering"} and not any(one.defect for one in missing)
    assert all("several inputs (age, image)" in one.why for one in missing)
    assert report.value("finetune", "blind_split_auc") < 0.9


def test_what_does_not_fit_is_said(task: Task) -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 4)

        def forward(self, one: Tensor, two: Tensor, three: Tensor) -> Tensor:
            return self.head(one)

    data = columns(20, 0, "t")
    nested = ({"image": data["image"], "age": data["age"]}, data["y"])
    with pytest.raises(ModelError, match=r"2 inputs \(image, age\) and forward of Three takes \(one, two, three\)"):
        lethe.classification(Three(), nested, [0])
    with pytest.raises(DataError, match=r"holdout has the inputs x\.image and forget has x\.image, x\.age"):
        lethe.classification(Named(), nested, [0], holdout=({"image": data["image"]}, data["y"]))


def test_from_a_request(tmp_path: Path, task: Task) -> None:
    (tmp_path / "net.py").write_text(CODE)
    for name, seed in (("train", 0), ("unseen", 1)):
        data = columns(120, seed, name)
        np.savez(tmp_path / f"{name}.npz", image=data["image"].numpy(), age=data["age"], y=data["y"], ids=np.array(data["ids"]))
    torch.save(task.original.state_dict(), tmp_path / "net.pt")
    data = {"path": "train.npz", "x": ["image", "age"], "ids": "ids", "holdout": "unseen.npz"}
    made = request(tmp_path, family="classification", model={"code": "net.py:make", "weights": "net.pt"}, data=data,
                   recipe={"epochs": 10, "lr": 0.01}, forget={"ids": ["train3", "train7"]}, output="out",
                   method={"name": "finetune", "epochs": 1}, audit={"references": 0, "shadows": 0})
    run = command(tmp_path, "run", made, "--no-page", status=0)
    saved = next(tmp_path.rglob("out/**/model.safetensors"))
    assert "train3" not in run.stdout
    assert set(load_file(saved)) == set(task.original.state_dict())
    assert "uses inputs" in command(tmp_path, "run", made, "method=amun", "--again", status=2).stderr


def test_groups_of_columns_of_a_table(tmp_path: Path) -> None:
    rows = [f"{i % 7},{i % 5},{i % 3},{'ab'[i % 2]},{i % 2}" for i in range(30)]
    (tmp_path / "t.csv").write_text("\n".join(["p,q,age,kind,y", *rows]))
    options = {"path": str(tmp_path / "t.csv"), "label": "y", "inputs": {"picture": ["p", "q"], "person": ["kind", "age"]}}
    split = load(options)["train"]
    assert split.inputs == ("x.picture", "x.person") and split.shape("x.person") == (30, 3)
    assert split.column("age")[:4].tolist() == [0, 1, 2, 0]
    with pytest.raises(DataError, match=r"the inputs x\.picture, x\.person, and data\.transform"):
        load({**options, "mean": 1.0})

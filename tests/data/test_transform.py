"""Inputs are brought once into the form that the model was trained on, and everything downstream knows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lethe.data.load import load, load_parts
from lethe.errors import DataError, LetheError, RequestError
from lethe.work.execute import Options, carry_out
from lethe.work.request import parse
from lethe.work.verify import certify


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = np.clip(rng.normal(90 + 40 * y[:, None, None, None], 30, (90, 3, 4, 4)), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "d.npz", x=x, y=y, key=np.array([f"k{i}" for i in range(90)]))
    return tmp_path / "d.npz"


def test_mean_and_deviation_are_of_channels_in_the_scale_of_the_model(arrays: Path) -> None:
    x = np.load(arrays)["x"]
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    done = load({"path": str(arrays), "mean": mean, "std": std, "holdout": 0.2})
    places = [int(i.split(":")[1]) for i in load({"path": str(arrays)})["train"].ids]
    assert places == list(range(90))
    wanted = (torch.from_numpy(x).float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    for split in done.values():   # ids name where a record comes from
        where = [int(i.split(":")[1]) for i in split.ids]
        assert torch.equal(split.columns["x"], wanted[where])
    one = load({"path": str(arrays), "std": 2.0})["train"]
    assert torch.equal(one.columns["x"], torch.from_numpy(x).float() / 255 / 2)


def test_a_function_of_ones_own_makes_new_inputs(arrays: Path, tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text("def half(x):\n    return x[:, :, ::2, ::2] * 4\n")
    whole = {"path": str(arrays), "transform": f"{tmp_path / 't.py'}:half", "mean": 1.0}
    done = load(whole)["train"]
    x = torch.from_numpy(np.load(arrays)["x"]).float() / 255
    assert torch.equal(done.columns["x"], x[:, :, ::2, ::2] * 4 - 1)
    parts = load_parts({"forget": arrays}, {k: v for k, v in whole.items() if k != "path"})
    assert torch.equal(parts["forget"].columns["x"], done.columns["x"])   # audits of files see what runs see


@pytest.mark.parametrize(("code", "options", "kind", "words"), [
    ("import torch\ndef f(x): return x + torch.rand(len(x), 1, 1, 1)", {}, DataError, "each time"),
    ("def f(x): return x - x.mean(0)", {}, DataError, "beside it"),
    ("def f(x): return x[:1]", {}, DataError, "made 1 inputs out of 4"),
    ("def f(x): return 1 / 0", {}, DataError, "ZeroDivisionError"),
    ("def g(x): return x", {}, RequestError, r"data\.transform.*no function 'f'"),
    ("", {"mean": [0.1, 0.2]}, DataError, r"data\.mean has 2 numbers.*one number, or 3"),
    ("", {"std": 0.0}, RequestError, "std"),
])
def test_what_would_not_be_repeatable_is_refused(arrays: Path, tmp_path: Path, code: str, options: dict[str, Any],
                                                 kind: type[LetheError], words: str) -> None:
    if code:
        (tmp_path / "t.py").write_text(code)
        options = {"transform": f"{tmp_path / 't.py'}:f"}
    with pytest.raises(kind, match=words):
        load({"path": str(arrays), **options})


def test_results_model_and_certificate_know_what_inputs_went_through(arrays: Path, tmp_path: Path) -> None:
    request = parse({
        "family": "classification", "output": str(tmp_path / "runs"),
        "model": {"zoo": "mlp", "options": {"inputs": 48, "hidden": [8], "classes": 3}},
        "data": {"path": str(arrays), "ids": "key", "holdout": 0.3, "mean": [0.5, 0.5, 0.5], "std": 0.25},
        "recipe": {"epochs": 3, "lr": 0.02}, "forget": {"fraction": 0.1}, "method": "retrain",
        "audit": {"depth": "quick", "references": 0, "neighbours": 0, "shadows": 0, "audits": ["scores"]}})
    report = carry_out(request, Options(export=True))
    assert report is not None
    run = tmp_path / "runs" / report.results.id
    wanted = {"mean": [0.5, 0.5, 0.5], "std": 0.25}
    assert report.results.scenarios[0].facts["inputs"] == wanted
    assert json.loads((run / "models" / "retrain" / "lethe.json").read_text())["inputs"] == wanted
    certify(run, tmp_path / "key.pem")   # opens the data through the same door, and compares fingerprints
    other = carry_out(parse({**_plain(request), "data": {**request.data, "std": 0.5}}), Options())
    assert other is not None and other.results.scenarios[0].fingerprints != report.results.scenarios[0].fingerprints


def _plain(request: Any) -> dict[str, Any]:
    from lethe.core.config import plain

    return {key: value for key, value in plain(request).items() if value is not None}

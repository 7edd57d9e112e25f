"""A training of the user's own makes originals, references, retrained models and shards; a control tells whether it makes
the like of the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

import lethe
from lethe.core.modules import state_fingerprint
from lethe.core.seeds import derive
from lethe.core.split import Split, concat
from lethe.core.task import Recipe
from lethe.errors import LetheError, ModelError, RequestError
from lethe.pools.member import fingerprint
from lethe.work.execute import Options, carry_out
from lethe.work.request import parse

CODE = '''
import torch
from torch.utils.data import DataLoader

def fit(model, split, seed, device="cpu"):
    """The user's trainer: label smoothing, her own loader and order."""
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range({epochs}):
        for x, y in DataLoader(split.dataset(), batch_size=16, shuffle=True):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y, label_smoothing=0.1).backward()
            optimiser.step()
'''


def own(model: nn.Module, split: Split, seed: int) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in DataLoader(split.dataset(), batch_size=32, shuffle=True):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()


def net() -> nn.Module:
    torch.manual_seed(0)
    return tiny.MLP(6, (16,), 4)


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """A request with weights that the user's training made."""
    for name, epochs in (("train", 12), ("short", 0)):
        (tmp_path / f"{name}.py").write_text(CODE.format(epochs=epochs))
    whole = tiny.blobs(150, 0, "train")
    data = {key: value.numpy() for key, value in concat([whole, tiny.blobs(90, 1, "other")], "all").columns.items()}
    np.savez(tmp_path / "d.npz", x=data["x"][:150], y=data["y"][:150], u=data["x"][150:], v=data["y"][150:])
    model, original = {"zoo": "mlp", "options": {"inputs": 6, "hidden": [16], "classes": 4}}, net()
    namespace: dict[str, Any] = {}
    exec(CODE.format(epochs=12), namespace)
    namespace["fit"](original, whole, 0)
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    return {"family": "classification", "model": {**model, "weights": str(tmp_path / "w.safetensors")},
            "data": {"path": str(tmp_path / "d.npz"), "holdout": {"x": "u", "y": "v"}}, "forget": {"fraction": 0.1},
            "recipe": {"code": f"{tmp_path / 'train.py'}:fit"}, "method": "retrain", "output": str(tmp_path / "runs"),
            "audit": {"depth": "quick", "references": 3, "shadows": 0, "audits": ["scores"]}}


def test_the_users_training_is_the_recipe_and_a_control_tells_whether_it_made_the_original(content: dict[str, Any],
                                                                                           tmp_path: Path) -> None:
    report = carry_out(parse(content), Options(export=True))
    assert report is not None
    case = report.results.scenarios[0]
    row = next(row for row in case.subjects if row.role == "method")
    assert not row.error and row.guarantee["assumptions"] and "retained records alone" in row.guarantee["basis"]
    assert case.references.count == 3 and not any("reproduce" in doubt.text for doubt in case.doubts)
    told = case.facts["reproduction"]
    assert set(told) == {"forget", "retain", "holdout"} and abs(told["retain"]["original"] - told["retain"]["reproduced"]) < 0.05
    other = carry_out(parse({**content, "recipe": {"code": f"{tmp_path / 'short.py'}:fit"}}), Options())
    assert other is not None
    doubt = other.results.scenarios[0].doubts[0]
    assert "does not reproduce the original" in doubt.text and "holdout" in doubt.text


def test_retraining_is_the_users_function_on_the_retained_records() -> None:
    task = lethe.classification(net(), tiny.blobs(80, 0, "train"), [0, 1, 2], recipe=lethe.Recipe(code=own))
    outcome = lethe.forget(task, "retrain", seed=5, progress=False)
    before = torch.random.get_rng_state()
    by_hand = task.build(derive(5, "retrain")).train().requires_grad_(True)
    with torch.random.fork_rng():
        torch.manual_seed(derive(5, "own training") % 2**31)
        own(by_hand, task.retain, 0)
    assert state_fingerprint(outcome.model) == state_fingerprint(by_hand.eval())
    assert torch.equal(torch.random.get_rng_state(), before)
    sharded = lethe.forget(task, "sisa", shards=2, slices=1, progress=False)
    assert sharded.guarantee["level"] == "exact" and len(sharded.guarantee["assumptions"]) == 3


def test_a_changed_function_is_another_recipe(tmp_path: Path) -> None:
    keys = []
    for epochs in (1, 2):
        (tmp_path / "train.py").write_text(CODE.format(epochs=epochs))
        recipe = Recipe(code=f"{tmp_path / 'train.py'}:fit")
        task = lethe.classification(net(), tiny.blobs(40, 0, "train"), [0], recipe=recipe)
        keys.append(fingerprint(task, task.retain, 0, "cpu"))
    assert keys[0] != keys[1]


@pytest.mark.parametrize(("options", "kind", "words"), [
    ({"code": lambda model: None}, RequestError, r"\(model, split, seed\)"),
    ({"code": "nowhere.py:fit"}, ModelError, r"nowhere\.py does not exist.*recipe\.code"),
    ({"code": own, "lr": 0.5}, RequestError, r"recipe\.lr has no effect beside recipe\.code"),
    ({"code": lambda model, split, seed: 1 / 0}, ModelError, "ZeroDivisionError"),
    ({"code": lambda model, split, seed: 7}, ModelError, "returned a int"),
])
def test_what_is_no_training_is_refused(options: dict[str, Any], kind: type[LetheError], words: str) -> None:
    with pytest.raises(kind, match=words):
        task = lethe.classification(net(), tiny.blobs(40, 0, "train"), [0], recipe=Recipe(**options))
        lethe.forget(task, "retrain", progress=False)

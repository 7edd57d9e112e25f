"""A user's classifier from code or zoo, with weights that must fit exactly."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from lethe.core.modules import state_fingerprint
from lethe.errors import ModelError, PickleRefused, RequestError, UnknownName
from lethe.models.load import factory, load_classifier, loaded
from lethe.models.weights import write
from lethe.models.zoo.mlp import MLP

CODE = """
import torch
from helper_beside_net import WIDTH

class Net(torch.nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.body, self.head = torch.nn.Linear(6, WIDTH), torch.nn.Linear(WIDTH, classes)
        self.tied = self.head
    def forward(self, x):
        return self.head(self.body(x))

def make(classes=4):
    return Net(classes)

def number():
    return 3
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "helper_beside_net.py").write_text("WIDTH = 5\n")
    (tmp_path / "net.py").write_text(CODE)
    return tmp_path / "net.py"


def test_code_and_safetensors_give_the_model_back(net: Path, tmp_path: Path) -> None:
    before = list(sys.path)
    made = load_classifier(code=f"{net}:make", options={"classes": 3})
    save_model(made, str(tmp_path / "w.safetensors"))   # leaves out the second name of a shared tensor
    back = load_classifier(code=f"{net}:make", options={"classes": 3}, weights=tmp_path / "w.safetensors")
    assert state_fingerprint(back) == state_fingerprint(made) and sys.path == before
    assert back.tied is back.head
    assert state_fingerprint(load_classifier(code=f"{net}:Net", options={"classes": 3})) != state_fingerprint(made)


def test_weights_in_npz_under_a_prefix_and_below_the_data_folder(tmp_path: Path) -> None:
    made = MLP(6, (5,), 4)
    (tmp_path / "models").mkdir()
    np.savez(tmp_path / "models" / "w.npz", **{f"net.{k}": v.numpy() for k, v in made.state_dict().items()})
    options = {"inputs": 6, "hidden": (5,), "classes": 4}
    back = load_classifier(zoo="mlp", options=options, weights="models/w.npz", prefix="net.", data_root=tmp_path)
    assert state_fingerprint(back) == state_fingerprint(made)
    with pytest.raises(ModelError, match=r"'net\.\S+', which MLP does not have \(did you mean .*model\.prefix"):
        load_classifier(zoo="mlp", options=options, weights=tmp_path / "models" / "w.npz")


def test_a_fresh_model_is_made_each_time(net: Path) -> None:
    make = factory(code=f"{net}:make")
    torch.manual_seed(3)
    first = make()
    torch.manual_seed(3)
    assert make() is not first and state_fingerprint(make()) != state_fingerprint(first)


@pytest.mark.parametrize(("given", "kind", "words"), [
    ({}, RequestError, "neither code nor zoo"),
    ({"zoo": "small_cn"}, UnknownName, r"did you mean small_cnn\?"),
    ({"code": "net.py"}, RequestError, "names no function"),
    ({"code": "{net}:mke"}, RequestError, r"did you mean make\?.*It has: .*make"),
    ({"code": "{net}x.py:make"}, ModelError, "does not exist"),
    ({"code": "no.such.package:make"}, ModelError, "importable package"),
    ({"code": "{net}:number"}, ModelError, "returned a int.*torch.nn.Module"),
    ({"code": "{net}:make", "options": {"clases": 3}}, RequestError, r"did you mean classes\?.*It takes: classes"),
    ({"zoo": "mlp", "weights": "/nowhere/w.safetensors"}, ModelError, "does not exist.*model.weights"),
])
def test_a_model_that_cannot_be_made_is_refused(net: Path, given: dict[str, Any], kind: type[Exception], words: str) -> None:
    given = {key: value.replace("{net}", str(net)) if isinstance(value, str) else value for key, value in given.items()}
    with pytest.raises(kind, match=words):
        load_classifier(**given)


def test_code_that_fails_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    before = set(sys.modules)
    with pytest.raises(ModelError, match=r"broken\.py cannot be run \(ModuleNotFoundError"):
        load_classifier(code=f"{tmp_path / 'broken.py'}:make")
    assert not {name for name in set(sys.modules) - before if "broken" in name}


def test_weights_must_fit_exactly(tmp_path: Path) -> None:
    made, path = MLP(64, (128, 128), 10), tmp_path / "w.safetensors"
    state = made.state_dict()

    def refused(tensors: dict[str, torch.Tensor], words: str) -> None:
        save_file(tensors, path)
        with pytest.raises(ModelError, match=words):
            load_classifier(zoo="mlp", weights=path)

    refused({k: v for k, v in state.items() if k != "head.bias"}, "lacks 1 tensors of MLP, the first is 'head.bias'")
    refused({**state, "extra": torch.zeros(1)}, "'extra', which MLP does not have")
    refused({**state, "head.bias": torch.zeros(9)}, r"'head\.bias' is \(9,\) in .* and \(10,\) in MLP")


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:4], lambda b: b""])
@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_damaged_weights_are_refused(tmp_path: Path, ending: str, damage: Any) -> None:
    path = tmp_path / f"w{ending}"
    state = MLP().state_dict()
    if ending == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in state.items()})
    else:
        save_file(state, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=r"w\.(npz|safetensors) (is not a valid|cannot be read)"):
        load_classifier(zoo="mlp", weights=path)


class Whole(nn.Module):
    """A model that is saved as an object."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = MLP()


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3, "ema": s}, lambda s: {"model": {"net": s}},
                                  lambda s: {f"module._orig_mod.{key}": value for key, value in s.items()}])
def test_a_torch_file_of_plain_tensors_comes_in_without_a_flag_and_goes_out_in_the_same_form(tmp_path: Path, wrap: Any) -> None:
    made, out = MLP().half(), tmp_path / "out"
    torch.save(wrap(made.state_dict()), tmp_path / "w.pt")
    back = loaded(MLP(), tmp_path / "w.pt")
    assert next(back.model.parameters()).dtype == torch.float32 and "float32 what is float16" in back.form.words
    assert state_fingerprint(back.model.half()) == state_fingerprint(made)
    out.mkdir()
    write(back.model.float(), back.form, out)
    before, after = (torch.load(place / "w.pt", weights_only=True) for place in (tmp_path, out))
    before.pop("epoch", None), before.pop("ema", None)   # state of the training: it remembers what was to go
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    again = load_classifier(zoo="mlp", weights=out / "model.safetensors")
    assert state_fingerprint(again.half()) == state_fingerprint(made)


class Ran:
    """A pickle that runs code."""

    def __reduce__(self) -> Any:
        return (print, ("code ran",))


def test_a_torch_file_with_code_needs_permission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": MLP().state_dict(), "note": Ran()}, tmp_path / "w.pt")
    with pytest.raises(PickleRefused, match=r"any code.*state_dict.*--allow-pickle"):
        load_classifier(zoo="mlp", weights=tmp_path / "w.pt")
    assert not capsys.readouterr().out
    load_classifier(zoo="mlp", weights=tmp_path / "w.pt", allow_pickle=True)
    assert "code ran" in capsys.readouterr().out
    torch.save({"a": MLP().state_dict(), "b": MLP().state_dict()}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="it has 'a', 'b'"):
        load_classifier(zoo="mlp", weights=tmp_path / "w.pt")


def test_a_pickled_module_gives_its_weights_when_allowed(tmp_path: Path) -> None:
    whole = Whole()
    torch.save(whole, tmp_path / "w.pt")
    back = load_classifier(zoo="mlp", weights=tmp_path / "w.pt", allow_pickle=True, prefix="inner.")
    assert state_fingerprint(back) == state_fingerprint(whole.inner)
    torch.save([1, 2], tmp_path / "w.pt")
    with pytest.raises(ModelError, match="holds no state dict"):
        load_classifier(zoo="mlp", weights=tmp_path / "w.pt", allow_pickle=True)


def test_published_weights_score_as_published_on_these_pictures(data_root: Path, tmp_path: Path) -> None:
    from lethe.data.context import Context
    from lethe.data.load import load

    net = load_classifier(zoo="lenet5", weights=renamed(data_root, tmp_path)).eval()
    test = load({"kind": "mnist", "limit": 2000}, Context(data_root))["test"]
    x = test.columns["x"].float().div(255)
    with torch.no_grad():
        logits = net(nn.functional.interpolate(x, (32, 32), mode="bilinear"))
    assert (logits.argmax(1) == test.columns["y"]).float().mean() > 0.985   # 0.9907 on all 10000; 2 sd of 2000 are 0.004


def renamed(root: Path, folder: Path) -> Path:
    names = {"convnet.c1": "c1", "convnet.c3": "c2", "convnet.c5": "f1", "fc.f6": "f2", "fc.f7": "f3"}
    with np.load(root / "models/mnist_lenet5.npz") as archive:
        arrays = {f"{names[key.rsplit('.', 1)[0]]}.{key.rsplit('.', 1)[1]}": archive[key] for key in archive.files}
    arrays["f1.weight"] = arrays["f1.weight"].reshape(120, 400)   # a 5 × 5 convolution on 5 × 5 is a linear layer
    np.savez(folder / "lenet5.npz", **arrays)
    return folder / "lenet5.npz"

"""Adapters of language models: one that comes in goes out as it came, one that is trained loads with PEFT alone, and files that
do not give back what was audited are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lm_architectures as architectures
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.core.catalogue import load
from lethe.core.outcome import Outcome
from lethe.errors import ModelError, NotWritten, RequestError
from lethe.models.adapter import is_of_language
from lethe.models.classification import open as classifiers
from lethe.models.lm import open as lm
from lethe.models.lm.task import Language
from lethe.models.opened import SavedFiles
from lethe.train.loop import Loop, Modifiers, Settings
from lethe.work.files import _recognised

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")   # PEFT asks transformers so
NPO = {"name": "npo", "epochs": 2, "lr": 1e-2}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, an adapter on its attention (in bfloat16), records, and a request for both."""
    place = tmp_path_factory.mktemp("adapters")
    base = architectures.saved("llama", place / "base")
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(
        r=2, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM"))
    model.save_pretrained(place / "tenant")
    weights = place / "tenant" / "adapter_model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    (place / "people.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in architectures.people()))
    return place


def request(world: Path, **changes: object) -> dict[str, object]:
    return {"family": "lm", "model": {"folder": "base", "adapter": "tenant"}, "data": {"train": "people.jsonl"}, "seed": 0,
            "forget": {"query": "person < 6"}, "method": NPO, "watchdog": False, "output": "out",
            "audit": {"audits": ["scores"], "depth": "quick", "references": 0}, "accept": ["predictions"], **changes}


def by_peft(world: Path, adapter: Path) -> torch.Tensor:
    """log p of every token of the first forgotten record, by transformers and PEFT alone."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world / "base"), adapter)
    ids = lm.language_model(world / "base", forget=architectures.people(6)).forget.batch([0]).ids
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=ids).logits, -1)


def logp(task: Language, model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=task.forget.batch([0]).ids).logits, -1)


def test_an_adapter_that_comes_in_goes_out(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    audited = architectures.asked_when_saved(monkeypatch, logp)
    Path("job.yaml").write_text(json.dumps(request(world)))
    done = CliRunner().invoke(app, ["run", "job.yaml"])
    assert done.exit_code == 0, done.output
    came, out = world / "tenant", next(path.parent for path in Path("out").rglob("adapter_model.safetensors"))
    assert not list(out.rglob("model*.safetensors")) and (out / "adapter_config.json").read_bytes() == (
        came / "adapter_config.json").read_bytes()
    before, after = (load_file(place / "adapter_model.safetensors") for place in (came, out))
    assert {name: (v.shape, v.dtype) for name, v in before.items()} == {name: (v.shape, v.dtype) for name, v in after.items()}
    assert (by_peft(world, out) - audited[0]).abs().max() < 1e-4 < (by_peft(world, came) - audited[0]).abs().max()
    again = lm.language_model(world / "base", adapter=out, forget=architectures.people(6))
    assert (logp(again, again.original) - audited[0]).abs().max() < 1e-5


def test_only_the_adapter_moves_and_a_second_one_is_refused(world: Path) -> None:
    task = lm.language_model(world / "tenant", forget=architectures.people(6))   # its file names the base
    loop = Loop(task, Settings())
    model = loop.start()
    assert loop.selected(model) and all("lora_" in name for name in loop.selected(model))
    assert task.down_projections([1]) == [f"model.layers.1.mlp.down_proj.lora_{x}.default.weight" for x in "AB"]
    with pytest.raises(RequestError, match="another one has no place"):
        Loop(task, Settings(), Modifiers(where="lora")).start()
    fresh = json.loads((world / "tenant" / "adapter_config.json").read_text())
    assert fresh["base_model_name_or_path"] == str(world / "base")


def test_a_trained_adapter_loads_with_peft_alone(world: Path, tmp_path: Path) -> None:
    import lethe

    task = lm.language_model(world / "base", forget=architectures.people(6), retain=architectures.people()[6:])
    outcome = lethe.forget(task, NPO, modifiers={"where": {"name": "lora", "rank": 2}}, watchdog=False)
    outcome.save(tmp_path / "out")
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out" / "adapter")   # finds its base by itself
    told = [logp(task, one) for one in (outcome.model, model, AutoModelForCausalLM.from_pretrained(tmp_path / "out"))]
    assert (told[0] - told[1]).abs().max() < 1e-5 and (told[0] - told[2]).abs().max() < 1e-4
    assert (told[0] - logp(task, task.original)).abs().max() > 1e-2


def test_files_that_do_not_give_back_what_was_audited_are_not_kept(world: Path, tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    task = lm.language_model(world / "base", forget=architectures.people(6))
    other = task.copy_of_original()
    with torch.no_grad():
        other.lm_head.weight[7] += 0.1
    monkeypatch.setattr(Language, "save_model", lambda self, model, folder, write=Language.save_model: write(self, other, folder))
    with pytest.raises(NotWritten, match="loaded again"):
        Outcome(task.copy_of_original(), task=task).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_adapters_that_cannot_be_given_back_are_refused(world: Path, tmp_path: Path) -> None:
    said = json.loads((world / "tenant" / "adapter_config.json").read_text())
    for change, words in (({"peft_type": "IA3"}, "IA3 adapter"), ({"modules_to_save": ["lm_head"]}, "whole layers beside it"),
                          ({"base_model_name_or_path": "org/name"}, "Set model.folder to the folder of its base")):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**said, **change}))
        save_file(load_file(world / "tenant" / "adapter_model.safetensors"), tmp_path / "adapter_model.safetensors")
        with pytest.raises(ModelError, match=words):
            lm.language_model(tmp_path, forget=architectures.people(6))


@pytest.mark.parametrize(("says", "language"), [
    ({"base_model_name_or_path": None}, False), ({"base_model_name_or_path": "", "task_type": "CAUSAL_LM"}, True),
    ({"base_model_name_or_path": "../vision"}, False), ({"base_model_name_or_path": "../causal"}, True),
    ({"base_model_name_or_path": "../old"}, True), ({"base_model_name_or_path": "../ours"}, False),
    ({"base_model_name_or_path": "org/name", "task_type": "SEQ_CLS"}, False), ({"base_model_name_or_path": "org/name"}, None),
    ({"base_model_name_or_path": "../mute"}, None)])
def test_an_adapter_is_of_the_family_of_its_base(
        world: Path, tmp_path: Path, says: dict[str, str], language: bool | None) -> None:
    """Told by the adapter's task, else by the base that it names; else nobody guesses."""
    architectures = {"vision": "ViTForImageClassification", "causal": "Qwen3ForCausalLM", "old": "GPT2LMHeadModel", "mute": None}
    for name, made in architectures.items():
        about = {"model_type": "vit"} if made is None else {"architectures": [made]}
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(about))
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "lethe.json").write_text('{"family": "classification"}')
    tenant = Path(shutil.copytree(world / "tenant", tmp_path / "tenant"))
    said = json.loads((tenant / "adapter_config.json").read_text()) | {"task_type": None}
    (tenant / "adapter_config.json").write_text(json.dumps(said | says))
    assert is_of_language(tenant) is language
    assert (lm.is_saved(tenant), classifiers.is_saved(tenant)) == (language is not False, language is not True)
    if language is None:
        with pytest.raises(RequestError, match=r"could be a model of classification or lm.*family="):
            _recognised(tenant)
    else:
        assert _recognised(tenant) == ("lm" if language else "classification")


def test_adapters_on_a_classifier_are_audited_from_files(tmp_path: Path) -> None:
    """They are read as PEFT answers with them, and merged: names, head and layers are those of the classifier."""
    torch.manual_seed(0)
    make = load("zoo", "mlp")
    base = make(hidden=[4], inputs=6, classes=3)
    save_file(base.state_dict(), tmp_path / "base.safetensors")
    names = [name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)]
    tuned = get_peft_model(make(hidden=[4], inputs=6, classes=3), LoraConfig(r=2, target_modules=names, init_lora_weights=False))
    tuned.base_model.model.load_state_dict(base.state_dict(), strict=False)
    for name in names:
        tuned.base_model.model.get_submodule(name).base_layer.load_state_dict(base.get_submodule(name).state_dict())
    tuned.save_pretrained(tmp_path / "tenant")
    x = torch.randn(8, 6)
    np.savez(tmp_path / "forget.npz", x=x.numpy(), y=np.zeros(8, dtype=int))
    how = {"zoo": "mlp", "options": {"hidden": [4], "inputs": 6, "classes": 3}}
    tenant, parts = str(tmp_path / "tenant"), {"forget": str(tmp_path / "forget.npz")}
    assert classifiers.is_saved(Path(tenant)) and not lm.is_saved(Path(tenant))
    read = classifiers.open_files(SavedFiles(tenant, parts, {**how, "weights": str(tmp_path / "base.safetensors")}, {}))[1]
    with torch.no_grad():
        assert torch.allclose(read(tenant)(x), tuned(x), atol=1e-6) and not torch.allclose(read(tenant)(x), base(x), atol=1e-2)
    assert read(tenant).state_dict().keys() == base.state_dict().keys()
    with pytest.raises(RequestError, match=r"Provide model\.weights=FILE"):
        classifiers.open_files(SavedFiles(tenant, parts, how, {}))[1](tenant)

"""Takedown lists: concepts join and leave one by one, and what is composed is the sum of those that are there, bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusion_folders import FOLDERS
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from lethe.api import forget
from lethe.cli.main import app
from lethe.errors import LetheError, ModelError, RequestError
from lethe.methods.diffusion.spm import SPM
from lethe.models.diffusion.files import load_pipeline
from lethe.models.diffusion.open import text_to_image


def lethe(*words: object) -> Any:
    done = CliRunner().invoke(app, ["concepts", *map(str, words), "--json"])
    if isinstance(done.exception, LetheError):
        raise done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def saved(place: Path, base: Path, seed: int, rank: int = 1) -> Path:
    """A saved model as a run leaves it, with an adapter of random tensors on two layers."""
    rng, tensors = torch.Generator().manual_seed(seed), {}
    weights = unet(base)
    for name in [key for key in weights if key.endswith(("attn2.to_k.weight", "proj_in.weight"))][seed : seed + 2]:
        size, layer = weights[name].shape, name.removesuffix(".weight")
        tensors[f"base_model.model.{layer}.lora_A.weight"] = torch.randn(rank, *size[1:], generator=rng) / 10
        up = torch.randn(size[0], rank, *[1] * (len(size) - 2), generator=rng) / 10
        tensors[f"base_model.model.{layer}.lora_B.weight"] = up
    (place / "adapter").mkdir(parents=True)
    (place / "unet").mkdir()
    save_file(tensors, place / "adapter" / "adapter_model.safetensors")
    (place / "adapter" / "adapter_config.json").write_text(json.dumps({"r": rank, "lora_alpha": 3.0}))
    return place


def unet(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "unet").glob("*.safetensors")))


def test_a_concept_leaves_the_list_without_a_trace(tmp_path: Path) -> None:
    base, there = tmp_path / "base", tmp_path / "takedown"
    FOLDERS["stable"](base)
    for seed, name in enumerate(("red", "disk")):
        run = saved(tmp_path / name, base, seed, rank=1 + seed)
        (row,) = lethe("add", there, run, "--concept", name, "--synonym", f"{name}ish")["concepts"]
        assert row["synonyms"] == [f"{name}ish"] and row["bytes"] < 100_000
    lethe("compose", there, base, "--output", tmp_path / "both")
    lethe("compose", there, base, "--output", tmp_path / "less", "--without", "red")
    lethe("remove", there, "--concept", "red")
    assert [row["concept"] for row in lethe("list", there)["concepts"]] == ["disk"]
    lethe("compose", there, base, "--output", tmp_path / "one")
    first, one, both, less = (unet(tmp_path / name) for name in ("base", "one", "both", "less"))
    assert all(torch.equal(value, one[key]) for key, value in less.items())
    change = {name: load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("red", "disk")}
    moved = set()
    for name, tensors in change.items():      # scale alpha / r: 3 for red, 3/2 for disk
        for key in [key for key in tensors if key.endswith("lora_A.weight")]:
            layer = f"{key.removeprefix('base_model.model.').removesuffix('.lora_A.weight')}.weight"
            down, up = tensors[key].flatten(1), tensors[key.replace("lora_A", "lora_B")].flatten(1)
            wanted = (3.0 if name == "red" else 1.5) * (up @ down)
            first[layer] = first[layer] + wanted.view(first[layer].shape)
            moved.add(layer)
    assert all(torch.allclose(both[key], value, atol=1e-6) for key, value in first.items())
    original = unet(base)
    assert {key for key in original if not torch.equal(original[key], both[key])} == moved


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_a_run_saves_joins_the_list_and_diffusers_switches_it(tmp_path: Path) -> None:
    base, there = tmp_path / "base", tmp_path / "takedown"
    FOLDERS["stable"](base)
    task = text_to_image(load_pipeline(base), "disk", ["a blue cross"], per_prompt=1, steps=2)
    cfg = SPM(steps=2, lr=0.01, trajectories=1, sampler_steps=1, start_guidance=1.0, anchors=1)
    run = forget(task, cfg, progress=False, watchdog=False).save(tmp_path / "run")
    lethe("add", there, run, "--concept", "disk")
    lethe("compose", there, base, "--output", tmp_path / "one")
    one, merged = unet(tmp_path / "one"), unet(run)
    assert all(torch.allclose(value, merged[key], atol=1e-7) for key, value in one.items())
    assert any(not torch.equal(value, one[key]) for key, value in unet(base).items())

    from diffusers import StableDiffusionPipeline  # a server that holds the pipeline once reads the list's file itself

    pipe = StableDiffusionPipeline.from_pretrained(base)
    pipe.load_lora_weights(there, weight_name="disk.safetensors", adapter_name="disk")
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 8, 16)
    network: Any = load_pipeline(tmp_path / "one").network
    with torch.no_grad():
        by_lora, whole = (net(x, 500, encoder_hidden_states=text)[0] for net in (pipe.unet, network))
        assert torch.allclose(by_lora, whole, atol=1e-5)
        pipe.set_adapters("disk", 0.0)
        assert not torch.allclose(pipe.unet(x, 500, encoder_hidden_states=text)[0], whole, atol=1e-5)


def test_what_does_not_fit_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    base, there, wide = tmp_path / "base", tmp_path / "takedown", tmp_path / "wide"
    FOLDERS["stable"](base)
    run = saved(tmp_path / "saved", base, 0)
    lethe("add", there, run, "--concept", "disk")
    before = (there / "disk.safetensors").read_bytes()
    FOLDERS["sdxl"](wide)
    other = tmp_path / "other"
    shutil.copytree(run, other)
    tensors = load_file(other / "adapter" / "adapter_model.safetensors")
    narrow = {key: torch.zeros(7, *value.shape[1:]) if key.endswith("lora_B.weight") else value for key, value in tensors.items()}
    save_file(narrow, other / "adapter" / "adapter_model.safetensors")
    refused: list[tuple[type[Exception], str, list[object]]] = [
        (RequestError, "on the list already", ["add", there, run, "--concept", "disk"]),
        (RequestError, "another architecture", ["add", there, other, "--concept", "red"]),
        (RequestError, "holds no adapter", ["add", there, base, "--concept", "red"]),
        (RequestError, "not on the list, which has 'disk'", ["remove", there, "--concept", "red"]),
        (RequestError, "no takedown list", ["list", tmp_path / "nowhere"]),
        (RequestError, "needs --concept", ["remove", there]),
        (RequestError, "takes no --without", ["list", there, "--without", "disk"]),
        (ModelError, "is for another architecture", ["compose", there, wide, "--output", tmp_path / "out"]),
    ]
    for fault, words, command in refused:
        with pytest.raises(fault, match=words):
            lethe(*command)
    assert (there / "disk.safetensors").read_bytes() == before and not (tmp_path / "out").exists()
    (there / "stray.safetensors").write_bytes(b"no adapter")
    with pytest.raises(LetheError, match="stray"):
        lethe("list", there)

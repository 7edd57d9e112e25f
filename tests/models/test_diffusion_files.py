"""What a folder came in with goes out again: precision, variants, shards, samplers, files that nobody opens."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import byhand
import pytest
import torch
from diffusion_folders import FOLDERS, one_file, stable, unet
from safetensors.torch import load_file, save_file

from lethe.api import forget
from lethe.errors import ModelError, NotFinite, RequestError
from lethe.methods.diffusion.esd import ESD
from lethe.methods.diffusion.uce import UCE
from lethe.models.diffusion.files import load_one_file, load_pipeline
from lethe.models.diffusion.one_file import weights
from lethe.models.diffusion.open import checkpointed, text_to_image, tiled
from lethe.models.diffusion.task import Diffusion
from lethe.work.open import tasks_of
from lethe.work.options import Options
from lethe.work.request import parse

WEIGHTS = "diffusion_pytorch_model"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a safety checker that nobody opens, and a note."""
    stable(tmp_path / "pipe")
    (tmp_path / "pipe" / "safety_checker").mkdir()
    (tmp_path / "pipe" / "safety_checker" / "model.safetensors").write_bytes(b"never opened")
    (tmp_path / "pipe" / "README.md").write_text("mine")
    return tmp_path / "pipe"


def opened(place: Path, variant: str = "") -> Diffusion:
    parts = load_pipeline(place, variant)
    return text_to_image(parts, "disk", ["a red cross"], ["a red disk"], per_prompt=2, steps=2, guidance=1.0)


@pytest.mark.parametrize("kind", ["pixart", "stable"])
def test_an_adapter_that_diffusers_cannot_load_says_so(kind: str, tmp_path: Path) -> None:
    FOLDERS[kind](tmp_path / kind)
    notes = byhand.outcome("spm", opened(tmp_path / kind), steps=1, trajectories=1, sampler_steps=2, start_guidance=1.0).notes
    assert any("PixArtAlphaPipeline has no load_lora_weights" in note for note in notes) == (kind == "pixart")


def digests(place: Path) -> dict[str, str]:
    files = [file for file in place.rglob("*") if file.is_file()]
    return {str(file.relative_to(place)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def edited(place: Path, variant: str = "") -> tuple[Path, set[str]]:
    """The folder after an edit of keys and values, and the files whose bytes differ."""
    out = place.with_name("out")
    forget(opened(place, variant), UCE(), progress=False).save(out)
    before, after = digests(place), digests(out)
    return out, {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_only_what_moved_is_replaced_without_a_forward_pass(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    calls: list[int] = []
    plain = UNet2DConditionModel.forward
    monkeypatch.setattr(UNet2DConditionModel, "forward", lambda self, *a, **k: (calls.append(1), plain(self, *a, **k))[1])
    task = opened(place)
    assert task.fingerprint == opened(place).fingerprint
    outcome = forget(task, UCE(), progress=False, watchdog=False)
    assert not calls and task.forget.pending("image")
    outcome.save(place.with_name("out"))
    out, before = place.with_name("out"), digests(place)
    assert {name for name, digest in digests(out).items() if digest != before[name]} == {f"unet/{WEIGHTS}.safetensors"}
    assert digests(out).keys() == before.keys()
    was, now = (load_file(p / "unet" / f"{WEIGHTS}.safetensors") for p in (place, out))
    assert {name for name in was if not torch.equal(was[name], now[name])} == {
        f"{name}.weight" for name in task.attention_projections(task.original)}
    pipe: Any = StableDiffusionPipeline.from_pretrained(out, safety_checker=None)
    assert torch.equal(pipe.unet.state_dict()["conv_in.weight"], was["conv_in.weight"])
    known = task.fingerprint
    assert torch.isfinite(task.forget.columns["image"]).all() and calls and not task.forget.pending("image")
    assert task.fingerprint == known == opened(place).fingerprint


def test_half_precision_variants_and_shards_stay_what_they_are(place: Path) -> None:
    network = unet()
    (place / "unet" / f"{WEIGHTS}.safetensors").unlink()
    network.half().save_pretrained(place / "unet", variant="fp16", max_shard_size="60KB")
    files = sorted(file.name for file in (place / "unet").glob("*.safetensors"))
    assert len(files) > 1
    task = opened(place)
    assert next(task.original.parameters()).dtype == torch.float32
    out, changed = edited(place)
    assert changed and changed < {f"unet/{name}" for name in files}   # not every shard holds keys or values
    assert all(value.dtype == torch.float16 for name in files for value in load_file(out / "unet" / name).values())


def test_the_same_weights_in_another_precision_move_with_them_and_older_ones_are_left_out(place: Path) -> None:
    network = unet()
    network.half().save_pretrained(place / "unet", variant="fp16")
    with torch.no_grad():
        other = unet()
        other.conv_in.weight.add_(1.0)
    other.save_pretrained(place / "unet", variant="non_ema")
    (place / "unet" / f"{WEIGHTS}.bin").write_bytes(b"older")
    (place / "v1-5-pruned.ckpt").write_bytes(b"all of it")
    out, changed = edited(place)
    gone = {f"unet/{WEIGHTS}.bin", "v1-5-pruned.ckpt", f"unet/{WEIGHTS}.non_ema.safetensors"}
    assert changed == gone | {f"unet/{WEIGHTS}.safetensors", f"unet/{WEIGHTS}.fp16.safetensors"}
    assert not any((out / name).exists() for name in gone)
    full, half = (load_file(out / "unet" / f"{WEIGHTS}{part}.safetensors") for part in ("", ".fp16"))
    assert all(torch.equal(full[name].half(), half[name]) for name in full)


def test_what_is_delivered_is_what_was_audited(place: Path) -> None:
    unet().half().save_pretrained(place / "unet")
    task = opened(place)
    model = task.copy_of_original()
    with torch.no_grad():
        next(model.parameters()).add_(1e-5 * torch.randn(next(model.parameters()).shape))
    kept = task.deliverable(model)
    task.save_model(kept, place.with_name("out"))
    again = load_pipeline(place.with_name("out")).network
    assert all(torch.equal(a, b) for a, b in zip(kept.state_dict().values(), again.state_dict().values(), strict=True))


def test_recomputed_activations_change_no_number(place: Path) -> None:
    def loss(checkpointing: bool) -> tuple[dict[str, torch.Tensor], int]:
        parts = load_pipeline(place)
        if checkpointing:
            checkpointed(parts.network)
        kept: list[int] = []
        network = parts.network.train()
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.nbytes), x)[1], lambda x: x):
            said = network(torch.ones(2, 4, 8, 8), torch.tensor([7, 8]), torch.ones(2, 8, 16)).sample.square().mean()
        said.backward()
        return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}, sum(kept)

    (plain, much), (again, little) = loss(False), loss(True)
    assert plain.keys() == again.keys() and all(torch.allclose(plain[name], again[name], atol=1e-7) for name in plain)
    assert little < 0.6 * much


def test_pictures_are_decoded_in_tiles_where_that_is_asked(place: Path) -> None:
    """The decoder never sees more than a tile of one picture, and the pictures are much the same."""
    said = {"model": {"folder": str(place), "tiling": True}, "method": "uce", "forget": {"concept": "disk"}}
    (task,) = tasks_of(parse(said), Options()).values()
    x, sizes = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)), []
    whole = load_pipeline(place).decode(x)
    handle = task.pipeline.vae.decoder.conv_in.register_forward_hook(lambda _, args, __: sizes.append(tuple(args[0].shape)))
    pixels = task.decode(x)
    handle.remove()
    assert len(sizes) > 2 and {size[0] for size in sizes} == {1} and max(size[2] for size in sizes) <= 8
    alike = torch.corrcoef(torch.stack([pixels.flatten(), whole.flatten()]))[0, 1]   # each tile has norms of its own
    assert pixels.shape == whole.shape and float(alike) > 0.5
    with pytest.raises(RequestError, match="there is no VAE"):
        tiled(None)


def test_what_cannot_be_opened_is_refused_in_a_sentence(place: Path) -> None:
    index = place / "unet" / f"{WEIGHTS}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": f"{WEIGHTS}-00001-of-00002.safetensors"}}))
    with pytest.raises(ModelError, match="delete the index"):
        load_pipeline(place)
    index.unlink()
    network = unet()
    (place / "unet" / f"{WEIGHTS}.safetensors").unlink()
    for variant in ("fp16", "bf16"):
        network.save_pretrained(place / "unet", variant=variant)
    with pytest.raises(ModelError, match=r"model\.variant"):
        load_pipeline(place)
    assert load_pipeline(place, "bf16").network is not None
    with pytest.raises(ModelError, match=r"file: …, folder: …"):
        load_pipeline(config := place / "unet" / "config.json")
    config = place / "unet" / "config.json"
    config.write_text(config.read_text().replace('"UNet2DConditionModel"', '"UNet3DNever"'))
    with pytest.raises(ModelError, match="UNet3DNever"):
        load_pipeline(place, "bf16")


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_pipeline_in_one_file_goes_out_as_one(place: Path, suffix: str) -> None:
    """With the file's own weights, names and precision; the folder provides what it lacks; an average of before is left out."""
    file, out = place.with_name(f"mine{suffix}"), place.with_name("out")
    other = unet()
    with torch.no_grad():
        other.conv_in.weight.add_(1.0)
    other.save_pretrained(place / "unet")
    one_file(place, file)
    unet().save_pretrained(place / "unet")
    request = {"model": {"file": str(file), "folder": str(place)}, "method": "uce", "forget": {"concept": "a red disk"},
               "keep": ["a red cross"], "data": {"per_prompt": 2, "steps": 2, "guidance": 1.0}}
    (task,) = tasks_of(parse(request), Options()).values()
    assert torch.equal(task.original.conv_in.weight, other.conv_in.weight.half().float())
    outcome = forget(task, UCE(), progress=False)
    outcome.save(out)
    assert [one.name for one in out.iterdir() if one.suffix == suffix] == [file.name]
    before, after = weights(file), weights(out / file.name)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved and all(".attn2.to_" in name for name in moved)
    assert set(before) - set(after) == {"model_ema.diffusion_modelout2weight"}
    assert {value.dtype for name, value in after.items() if name.startswith("model.")} == {torch.float16}
    again = load_one_file(out / file.name, place).network
    assert all(torch.equal(a, b.half().float()) for a, b in zip(
        again.state_dict().values(), outcome.model.state_dict().values(), strict=True))
    with pytest.raises(RequestError, match=r"Set model\.folder"):
        tasks_of(parse({**request, "model": {"file": str(file)}, "family": "diffusion"}), Options())


def held() -> int:
    """Bytes of weights in all UNets that are alive, storage that they share counted once."""
    from diffusers import UNet2DConditionModel

    gc.collect()
    alive = [item for item in gc.get_objects() if type(item) is UNet2DConditionModel]
    return sum({p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for m in alive for p in m.parameters()}.values())


SHORT: dict[str, Any] = {"steps": 1, "trajectories": 2, "sampler_steps": 2, "batch_size": 2}


@pytest.mark.parametrize(("method", "most"), [(ESD(variant="all", **SHORT), 2.01),
                                              pytest.param(ESD(variant="strict", **SHORT), 1.3, marks=pytest.mark.slow),
                                              (UCE(), 1.3)])
def test_a_step_holds_two_networks_and_an_edit_of_keys_one(place: Path, method: Any, most: float) -> None:
    """What does not move is the original's own storage; what is compared afterwards is what moved."""
    others = held()
    task = opened(place)
    one, most_seen = held() - others, [0]
    assert one == sum(p.nbytes for p in task.original.parameters())

    def listen(event: object) -> None:
        most_seen[0] = max(most_seen[0], held() - others)

    outcome = forget(task, method, progress=listen, watchdog=False)
    assert 1 < max(most_seen[0], held() - others) / one < most
    assert outcome.model is not task.original
    before = {name: p.clone() for name, p in load_pipeline(place).network.named_parameters()}
    assert all(torch.equal(p, before[name]) for name, p in task.original.named_parameters())


def test_a_lora_of_the_methods_own_layers_loads_in_diffusers(place: Path) -> None:
    """`load_lora_weights` on the untouched folder gives the network that was audited; only keys and values have adapters."""
    from diffusers import StableDiffusionPipeline

    outcome = forget(opened(place), ESD(variant="strict", lr=1e-1, **SHORT), progress=False, watchdog=False,
                     modifiers={"where": {"name": "lora", "rank": 2, "alpha": 3.0}})
    assert outcome.kind == "adapter"
    outcome.save(place.with_name("out"))
    pipe: Any = StableDiffusionPipeline.from_pretrained(place, safety_checker=None)
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 8, 16)
    with torch.no_grad():
        plain = pipe.unet(x, t, text).sample
        pipe.load_lora_weights(place.with_name("out"))
        ours, theirs = outcome.model(x, t, text).sample, pipe.unet(x, t, text).sample
        merged = load_pipeline(place.with_name("out")).network(x, t, text).sample
    assert len(pipe.get_active_adapters()) == 1 and not torch.allclose(plain, ours, atol=1e-5)
    assert torch.allclose(ours, theirs, atol=1e-5) and torch.allclose(ours, merged, atol=1e-5)
    names = load_file(place.with_name("out") / "pytorch_lora_weights.safetensors")
    assert names and all(".attn2.to_k." in name or ".attn2.to_v." in name for name in names)


def _gone(place: Path, indexed: bool = False) -> None:
    shutil.rmtree(place / "vae")
    if not indexed:
        index = json.loads((place / "model_index.json").read_text())
        (place / "model_index.json").write_text(json.dumps({key: value for key, value in index.items() if key != "vae"}))


def _changed(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def _nan(tensors: dict[str, torch.Tensor]) -> None:
    next(value for value in tensors.values() if value.is_floating_point()).view(-1)[0] = torch.nan


def _spoilt(part: str, place: Path) -> None:
    _changed(next((place / part).glob("*.safetensors")), _nan)


def _resized(config: Path) -> None:
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "block_out_channels": [2 * size for size in said["block_out_channels"]]}))


def _halved(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE: list[tuple[Callable[[Path], object], type[Exception], str]] = [
    (lambda p: _gone(p, indexed=True), ModelError, "names vae, which the folder does not have"),
    (_gone, ModelError, "draws 4 channels, which are latents and no colours"),
    *[(partial(_spoilt, part), NotFinite, f"{part} holds NaN") for part in ("unet", "vae", "text_encoder")],
    (lambda p: _changed(p / "vae" / f"{WEIGHTS}.safetensors", lambda t: t.pop("encoder.conv_in.bias")), ModelError,
     "lack 1 of the tensors"),
    (lambda p: _halved(p / "text_encoder" / "model.safetensors"), ModelError, "may be cut off"),
    (lambda p: _resized(p / "unet" / "config.json"), ModelError, "belong to other weights"),
    (lambda p: _halved(p / "unet" / "config.json"), ModelError, "cannot be read as JSON"),
    (lambda p: _halved(p / "tokenizer" / "tokenizer.json"), ModelError, "cannot be read as a part of a pipeline"),
]


def test_a_folder_that_is_not_whole_is_refused(place: Path, tmp_path: Path) -> None:
    for number, (damage, error, words) in enumerate(DAMAGE):
        shutil.copytree(place, tmp_path / str(number))
        damage(tmp_path / str(number))
        with pytest.raises(error, match=words):
            load_pipeline(tmp_path / str(number))

"""Watermarks: their counts by hand, what is refused, and on a small pipeline that the bits are there, survive an edit of the
U-Net, and go with the adapters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusion_folders import FOLDERS
from torch.nn import functional as F
from typer.testing import CliRunner

from lethe.api import forget
from lethe.cli.main import app
from lethe.data.shapes import shapes
from lethe.errors import LetheError, ModelError, OutOfRange, OutputExists, RequestError
from lethe.methods.diffusion.esd import ESD
from lethe.models.diffusion import small
from lethe.models.diffusion import watermark as w
from lethe.models.diffusion.files import load_pipeline, save_pipeline
from lethe.models.diffusion.open import text_to_image
from lethe.models.diffusion.pipeline import Pipeline


def lethe(*words: object, ends: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["watermark", *map(str, words), "--json"])
    if isinstance(done.exception, LetheError):
        raise done.exception
    assert done.exit_code == ends, (done.output, done.exception)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_false_positives_are_counted_exactly() -> None:
    assert [w.false_positive_rate(k, 4) for k in range(5)] == [1, 15 / 16, 11 / 16, 5 / 16, 1 / 16]
    assert w.false_positive_rate(48, 48) == 2.0**-48
    assert w.needed(4, 0.4) == 3 and w.needed(4, 5 / 16) == 3 and w.needed(4, 0.3) == 4
    assert w.needed(48, 1e-6) == 41 and w.false_positive_rate(40, 48) > 1e-6
    with pytest.raises(OutOfRange, match="16 bits match by chance once in 65536"):
        w.needed(16, 1e-6)


def test_the_balance_moves_to_bits_below_the_goal_and_to_pictures_at_it() -> None:
    assert w.rebalanced(0.0, 0.98, 0.99, 0.05) == 0.05 and w.rebalanced(0.0, 0.99, 0.99, 0.05) == -0.05
    assert w.rebalanced(w.BOUND, 0.0, 0.99, 0.05) == w.BOUND and w.rebalanced(-w.BOUND, 1.0, 0.99, 0.05) == -w.BOUND


def test_the_message_is_bound_to_the_claims() -> None:
    bits = w.message("ab", ["disk"], 256)
    assert bits[:8].tolist() == [int(bit) for bit in f"{0x7D:08b}"]    # SHA-256 of '["ab", "disk"]' begins with 7d
    assert torch.equal(bits[:16], w.message("ab", ["disk"], 16))
    assert 90 < int((bits != w.message("ab", ["cross"], 256)).sum()) < 166


def test_jpeg_of_a_grey_picture_is_itself() -> None:
    grey = torch.full((2, 3, 8, 8), 128 / 127.5 - 1)
    assert torch.allclose(w.jpeg(grey, 90), grey, atol=1e-6) and torch.equal(w.attacked(grey, 0.0), grey)


def drawn_to(folder: Path, count: int) -> Path:
    """Pictures of shapes that touch neither black nor white, 32 × 32."""
    from PIL import Image

    folder.mkdir()
    images = F.interpolate(shapes(count, 0, side=16, noise=0.05).columns["image"], scale_factor=2, mode="bilinear") * 0.7
    for i, image in enumerate(images):
        Image.fromarray(((image + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()).save(folder / f"{i:03}.png")
    return folder


def refused(words: str, fault: type[Exception], *command: object) -> None:
    with pytest.raises(fault, match=words):
        lethe(*command)


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    key, out = tmp_path / "key", tmp_path / "out"
    (tmp_path / "stray").write_bytes(b"no key")
    marking = ["mark", tmp_path, "--key", key, "--pictures", tmp_path, "--output"]
    refused("needs --output", RequestError, *marking[:-1])
    refused("takes no --prompt", RequestError, *marking, out, "--prompt", "a")
    refused("exists", OutputExists, *marking, tmp_path)
    refused("SHA-256", OutOfRange, *marking, out, "--bits", 300)
    refused("stray", ModelError, "verify", tmp_path, "--key", tmp_path / "stray")
    refused("max-fpr", OutOfRange, "verify", tmp_path, "--key", key, "--max-fpr", 2.0)
    refused("no folder", RequestError, "verify", tmp_path / "nowhere", "--key", key)


@pytest.mark.slow
def test_what_cannot_be_marked_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    base, plain, key, out = (tmp_path / name for name in ("base", "plain", "key", "out"))
    FOLDERS["stable"](base)
    FOLDERS["classes"](plain)
    few, some = drawn_to(tmp_path / "few", 3), drawn_to(tmp_path / "some", 10)
    refused("holds 3 pictures", RequestError, "mark", base, "--key", key, "--pictures", few, "--output", out)
    refused("no VAE", RequestError, "mark", plain, "--key", key, "--pictures", few, "--output", out)
    cfg = w.Watermark(bits=64, steps=1, reading=1)      # an untaught reader and decoder: chance
    with pytest.raises(ModelError, match="of the bits match"):
        w.mark(base, some, out, key, cfg, device="cpu")
    assert not out.exists() and not key.exists()


def taught(images: torch.Tensor) -> Pipeline:
    """A small latent pipeline whose VAE and U-Net have learned these pictures a little."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae: Any = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
                             block_out_channels=(16, 16, 16), norm_num_groups=4, latent_channels=4, sample_size=32)
    parts = small.pipeline(latent=True, width=16)
    optimiser = torch.optim.Adam(vae.parameters(), 3e-3)
    for _ in range(400):
        some = images[torch.randint(len(images), (16,))]
        loss = (vae.decode(vae.encode(some).latent_dist.mean).sample - some).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    parts.vae = vae.eval().requires_grad_(False)
    z = parts.encode(images)
    parts.vae.register_to_config(scaling_factor=float(parts.vae.config["scaling_factor"] / z.std()))
    z = parts.encode(images)
    empty = parts.text_encoder(parts.tokenizer("", padding="max_length", return_tensors="pt").input_ids)[0].detach()
    optimiser, network = torch.optim.Adam(parts.network.parameters(), 2e-3), parts.network
    for _ in range(500):
        some, noise = z[torch.randint(len(z), (32,))], torch.randn(32, *z.shape[1:])
        t = torch.randint(0, 1000, (32,))
        said = network(parts.scheduler.add_noise(some, noise, t), t, empty.expand(32, -1, -1)).sample
        loss = (said - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    parts.network.eval().requires_grad_(False)
    return parts


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """base, pictures, marked and key."""
    place = tmp_path_factory.mktemp("watermark")
    drawn_to(place / "pictures", 300)
    save_pipeline(taught(w.pictures(place / "pictures", (32, 32))), place / "base")
    before = {file: file.read_bytes() for file in (place / "base").rglob("*") if file.is_file()}
    cfg = w.Watermark(bits=16, steps=400, reading=600, lr=2e-3, psnr=30.0)
    found = w.mark(place / "base", place / "pictures", place / "marked", place / "key", cfg, ["without disk"], "ab", "cpu")
    assert all(file.read_bytes() == held for file, held in before.items())
    (place / "found.json").write_text(json.dumps(found))
    yield place


@pytest.mark.slow
def test_pictures_that_took_no_part_carry_the_bits_and_look_the_same(bed: Path) -> None:
    found = json.loads((bed / "found.json").read_text())
    assert found["bit_accuracy"] >= 0.98 and found["psnr_db"] >= 30 and found["pictures"] == 60
    assert found["bit_accuracy_unmarked"] < 0.8     # a reader that never heard of the message: 16 fair coins, the same each time
    assert (bed / "key").stat().st_mode & 0o077 == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_the_marked_pipeline_draws_is_recognised_and_an_edit_of_the_u_net_changes_nothing(bed: Path) -> None:
    options = ("--key", bed / "key", "--count", 16, "--max-fpr", 1e-3)
    marked = lethe("verify", bed / "marked", *options)
    assert marked["is_marked"] and marked["needed"] == 15 and marked["claims"] == ["without disk"]
    assert marked["fpr"] == w.false_positive_rate(marked["matched"], 16)
    plain = lethe("verify", bed / "base", *options, ends=3)
    assert not plain["is_marked"] and plain["matched"] <= 13
    task = text_to_image(load_pipeline(bed / "marked"), "disk", ["a blue cross"], per_prompt=1, steps=2)
    edited = forget(task, ESD(steps=20, lr=1e-3), progress=False, watchdog=False).save(bed / "edited")
    after = lethe("verify", edited, *options)
    assert after["is_marked"] and abs(sum(after["each"]) - sum(marked["each"])) / (16 * 16) < 0.05
    old, new = (w.drawn(folder, ["a red disk"], 1, steps=5) for folder in (bed / "marked", edited))
    assert not torch.equal(old, new)


@pytest.mark.slow
def test_without_its_adapters_the_decoder_is_the_old_one(bed: Path) -> None:
    from safetensors.torch import load_file

    tensors = {name.removeprefix("lora."): value for name, value in load_file(bed / "key").items() if name.startswith("lora.")}
    old, new = (load_pipeline(bed / name).vae.state_dict() for name in ("base", "marked"))
    moved = {name for name, value in new.items() if not torch.equal(value, old[name])}
    layers = {name.split(".lora_")[0] for name in tensors}
    assert moved <= {f"{name}.weight" for name in layers} and all(name.startswith("decoder.") for name in moved) and moved
    for layer in layers:
        down, up = (tensors[f"{layer}.lora_{part}.default.weight"].flatten(1) for part in "AB")
        assert down.shape[0] == 8
        assert torch.allclose(new[f"{layer}.weight"] - (up @ down).view(new[f"{layer}.weight"].shape), old[f"{layer}.weight"],
                              atol=1e-5)


@pytest.mark.slow
def test_a_key_with_other_claims_matches_by_chance(bed: Path) -> None:
    from safetensors.torch import load_file, save_file

    _, facts = w.load_key(bed / "key")
    forged = {w.HEADER: json.dumps({**facts, "claims": ["without cross"]}), "format": "pt"}
    save_file(load_file(bed / "key"), bed / "forged", forged)
    found = lethe("verify", bed / "marked", "--key", bed / "forged", "--count", 16, "--max-fpr", 1e-3, ends=3)
    assert found["matched"] <= 13 and found["claims"] == ["without cross"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_diffusers_alone_draws_marked_pictures(bed: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipe: Any = StableDiffusionPipeline.from_pretrained(bed / "marked", safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    (bed / "web").mkdir()
    for i, image in enumerate(pipe([""] * 16, num_inference_steps=30, guidance_scale=1.0).images):
        image.save(bed / "web" / f"{i}.png")
    found = lethe("verify", bed / "web", "--key", bed / "key", "--max-fpr", 1e-3)
    assert found["is_marked"] and found["pictures"] == 16

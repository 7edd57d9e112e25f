"""Every kind of pipeline: Lethe draws what diffusers draws from the same folder, methods run on it, it goes out as it came in."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import diffusers
import pytest
import torch
import yaml
from diffusion_folders import FOLDERS, ddim, flux, pixart, sdxl, stable
from PIL import Image
from test_guarded import Toy
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.core.seeds import generator
from lethe.errors import LetheError, ModelError, NeedsUnmet
from lethe.models.diffusion.files import load_pipeline
from lethe.models.diffusion.open import text_to_image
from lethe.models.diffusion.task import Diffusion
from lethe.pools.subject import Subject
from lethe.train.apply import fitting

SLOW = [pytest.param(name, marks=pytest.mark.slow) if name not in ("stable", "sd3") else name for name in FOLDERS]
PROMPTS = {"classes": ("0", "1"), "dit": ("disk", "a blue cross")}


@cache
def folder(kind: str) -> Path:
    place = Path(mkdtemp()) / kind
    FOLDERS[kind](place)
    return place


def opened(kind: str, place: Path | None = None) -> Diffusion:
    parts = dataclasses.replace(load_pipeline(place or folder(kind)), size=16 if kind == "flux" else 0)
    concept, other = PROMPTS.get(kind, ("a red disk", "a red cross"))
    images = [(torch.zeros(3, 8, 8), concept), (torch.ones(3, 8, 8), other)] if kind == "unconditional" else None
    return text_to_image(parts, concept, [other], [concept], images=images, per_prompt=2, steps=3, guidance=2.0)


def by_diffusers(kind: str, place: Path, prompt: str, guidance: float) -> torch.Tensor:
    """Pixels in [0, 1] that the pipeline of diffusers draws from the starting noise of seed 3."""
    noise = generator(3, "sample", 0)
    if kind == "classes":   # diffusers has no pipeline for it; what it says is compared instead
        return torch.full((1,), torch.nan)
    pipe: Any = diffusers.DiffusionPipeline.from_pretrained(place)
    pipe.set_progress_bar_config(disable=True)
    if kind == "unconditional":
        return torch.from_numpy(diffusers.DDIMPipeline(pipe.unet, pipe.scheduler)(
            generator=noise, num_inference_steps=3, output_type="np").images).permute(0, 3, 1, 2)
    if kind == "dit":
        pipe.scheduler.register_to_config(clip_sample=False)
        said = pipe([0], guidance_scale=guidance, generator=noise, num_inference_steps=3, output_type="np").images
        return torch.from_numpy(said).permute(0, 3, 1, 2)
    given: dict[str, Any] = {"latents": torch.randn(1, 4, 8, 8, generator=noise)}
    if kind == "flux":
        given["latents"] = given["latents"].view(1, 4, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 16, 16)
        given |= {"height": 16, "width": 16}
    if "inpainting" in kind:
        given |= {"strength": 1.0, "image": torch.zeros(1, 3, 16, 16), "mask_image": torch.ones(1, 1, 16, 16), "height": 16,
                  "width": 16, "masked_image_latents": load_pipeline(place).encode(torch.zeros(1, 3, 16, 16))}
    if kind == "pixart":
        given["use_resolution_binning"] = False
    images: torch.Tensor = pipe(prompt, num_inference_steps=3, guidance_scale=guidance, output_type="pt", **given).images
    return images


@pytest.mark.filterwarnings("ignore::DeprecationWarning")   # diffusers' schedulers pass tensors to numpy in an old way
@pytest.mark.parametrize("kind", SLOW)
def test_it_draws_what_diffusers_draws(kind: str) -> None:
    prompt = PROMPTS.get(kind, ("a red disk",))[0]
    task, guidance = opened(kind), 1.0 if kind == "unconditional" else 2.0
    if kind == "classes":
        x, t = torch.randn(1, 3, 8, 8), torch.tensor([7])
        said = task.original(x, t, class_labels=torch.tensor([0])).sample
        assert torch.equal(task.predict_noise(task.original, x, t, task.text(task.tokens([prompt]))), said)
        return
    ours = (task.sample(task.original, [prompt], seed=3, steps=3, guidance=guidance) + 1) / 2
    assert torch.allclose(ours, by_diffusers(kind, folder(kind), prompt, guidance).float(), atol=2e-4)


def test_a_model_that_is_told_the_size_of_the_picture_is_told_behind_a_guard_too(tmp_path: Path) -> None:
    pixart(tmp_path / "sized", sized=True)
    task = opened("pixart", tmp_path / "sized")
    x, t = torch.randn(1, 4, 8, 8, generator=generator(0, "sized")), torch.tensor([7])
    text = task.text(task.tokens(["a red disk"]))
    assert torch.equal(task.predict_noise(Toy(task.original), x, t, text), task.predict_noise(task.original, x, t, text))


RELATIVES: dict[str, Any] = {   # networks that read more than their kind usually does, or less
    "distilled": partial(stable, time_cond_proj_dim=7), "distilled sdxl": partial(sdxl, time_cond_proj_dim=8),
    "inpainting sdxl": partial(sdxl, kind="StableDiffusionXLInpaintPipeline", in_channels=9),
    "flux": partial(flux, guided=False), "stable": stable,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("kind", "guidance"), [
    pytest.param(*pair, marks=() if pair[0] == "distilled" else pytest.mark.slow) for pair in [
        *((kind, 3.0) for kind in RELATIVES), ("stable", 0.0)]])   # 0 is what those who publish models of few steps tell to set
def test_relatives_draw_what_diffusers_draws(kind: str, guidance: float, tmp_path: Path) -> None:
    """Guidance is an input where a network is distilled with it, nothing in FLUX schnell, and none up to 1."""
    RELATIVES[kind](tmp_path / "in")
    task = opened(kind, tmp_path / "in")
    ours = (task.sample(task.original, ["a red disk"], seed=3, steps=3, guidance=guidance) + 1) / 2
    assert torch.allclose(ours, by_diffusers(kind, tmp_path / "in", "a red disk", guidance).float(), atol=2e-4)
    if kind == "distilled":   # it matters, and what audits follow is what is drawn
        x, t, text = torch.randn(1, *task.shape), torch.tensor(7), task.text(task.tokens(["a red disk"]))
        said = [followed(task, w, x, t, text) for w in (1.0, 3.0)]
        assert not torch.allclose(*said) and torch.equal(said[0], task.predict_noise(task.original, x, t.expand(1), text))


def followed(task: Diffusion, guidance: float, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    task.guidance = guidance
    with torch.no_grad():
        return task.guided_noise(task.original, x, t, text)


@pytest.mark.parametrize(("make", "words"), [
    (partial(stable, num_class_embeds=4), "also reads 4"), (partial(stable, in_channels=8), "takes 8 channels"),
    (partial(sdxl, in_channels=8), "takes 8 channels"), (partial(flux, in_channels=32, out_channels=16), "Fill, Depth, Canny"),
    (partial(stable, sample_size=None), r"Set model\.size"),
])
def test_relatives_that_draw_from_something_else_are_refused_before_anything_is_drawn(
    make: Any, words: str, tmp_path: Path
) -> None:
    make(tmp_path / "in")
    with pytest.raises(ModelError, match=words):
        opened("stable", tmp_path / "in")


def test_audits_noise_a_flow_by_its_own_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the prediction is exact for one picture, completing it gives it back and its error is nothing."""
    from lethe.audits.diffusion.mia_diffusion import MIADiffusion, scores
    from lethe.judge.redrawing import continued, noises

    task = opened("sd3")
    picture = task.forget.subset([0], "forget")
    images = picture.columns["image"]

    def exact(model: Any, x_t: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        signal, noise = task.levels(t, x_t)
        return (x_t - signal * images) / noise.clamp(min=1e-6)

    monkeypatch.setattr(task, "predict_noise", exact)
    monkeypatch.setattr(task, "guided_noise", exact)
    subject = Subject("model", task.original, task)
    back = continued(task, subject, images, noises(images, 0), task.text(picture.columns["tokens"]), 0.7)
    assert torch.allclose(back, images, atol=1e-3)
    assert scores(MIADiffusion(pairs=4), subject, picture)["t_error"] == pytest.approx(0, abs=1e-4)


METHODS = {   # what a kind does not serve says why not
    "esd": {"lr": 1e-2, "steps": 2, "trajectories": 2, "sampler_steps": 2, "batch_size": 2}, "uce": {},
    "mim_mu": {"lr": 1e-2, "epochs": 2}, "salun": {"lr": 1e-2, "epochs": 2}, "sfron": {"epochs": 2},
}
AUDITS: dict[str, Any] = {"unconditional": {}}      # no audit of pictures for prompts fits a network that reads none
WORDLESS = ("dit", "classes", "unconditional")    # kinds that read no text; the others serve every method


def carried_out(kind: str, place: Path, methods: list[str], **content: Any) -> tuple[Path, str]:
    """`lethe run` of a short request: the folder of the models that it makes, one subfolder a method, and what it prints."""
    concept, other = PROMPTS.get(kind, ("a red disk", "a red cross"))
    data: dict[str, Any] = {"per_prompt": 2, "steps": 2, "guidance": 2.0}
    if kind == "unconditional":
        data["folder"] = "pictures"
        place.with_name("pictures").mkdir(exist_ok=True)
        for i in range(4):
            Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(place.with_name("pictures") / f"{i}.png")
        rows = [f"{i}.png,{(concept, other)[i % 2]}" for i in range(4)]
        place.with_name("pictures").joinpath("captions.csv").write_text("\n".join(["file,caption", *rows]))
    output = Path(mkdtemp())
    request = {
        "model": {"folder": kind, "size": 16} if kind == "flux" else f"./{kind}", "forget": {"concept": concept},
        "keep": [other], "method": [{"name": name, **METHODS[name]} for name in methods], "data": data, "watchdog": False,
        "audit": {"depth": "quick", **AUDITS.get(kind, {"audits": [{"name": "erasure", "per_prompt": 2, "empty": 2}]})},
        "settings": {"device": "cpu"}, **content,
    }
    file = place.with_name(f"{kind}.yaml")
    file.write_text(yaml.safe_dump(request))
    done = CliRunner().invoke(app, ["run", str(file), "-q", f"output={output}"])
    if isinstance(done.exception, LetheError):
        raise done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return next(output.glob("*/models")), done.stdout


def digests(place: Path) -> dict[str, str]:
    return {str(file.relative_to(place)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(place.rglob("*")) if file.is_file()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", FOLDERS)
def test_methods_run_and_the_folder_goes_out_as_it_came_in(kind: str) -> None:
    """`lethe run` with model, forget, keep and method: all that is not the network's weights keeps its bytes, the weights load in
    plain diffusers, the page answers in its first line, and a LoRA loads where one was asked for."""
    place, served = folder(kind), {name for name in METHODS if name in fitting(opened(kind))}
    refused = METHODS.keys() - served
    assert "sfron" in served and bool(refused) == (kind in WORDLESS)
    models, told = carried_out(kind, place, [name for name in METHODS if name in served])
    before, prompt = digests(place), PROMPTS.get(kind, ("a red disk",))[0]
    for model in sorted(models.iterdir()):
        after = digests(model)
        changed = {name for name in before if after.get(name) != before[name]}
        assert set(after) == set(before) and len(changed) == 1, (model.name, changed)
        assert changed.pop().endswith("diffusion_pytorch_model.safetensors")
        assert by_diffusers(kind, model, prompt, 1.0).isfinite().all() or kind == "classes"
    if kind != "unconditional":
        first = told.splitlines()[0]
        assert f"{prompt} gone in" in first and first.split(":")[0] in (models.parent / "report.html").read_text()
    for name in sorted(refused):
        with pytest.raises(NeedsUnmet, match=r"reads (no prompt|classes)"):
            carried_out(kind, place, [name])
    if "esd" in served and kind not in WORDLESS:
        adapted, _ = carried_out(kind, place, ["esd"], where="lora")
        pipe: Any = diffusers.DiffusionPipeline.from_pretrained(place)
        if hasattr(pipe, "load_lora_weights"):
            pipe.load_lora_weights(adapted / "esd")
            assert len(pipe.get_active_adapters()) == 1
        else:
            assert not list((adapted / "esd").glob("pytorch_lora*"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")   # of diffusers, about steps_offset
def test_a_sampler_of_the_folder_draws_and_stays(tmp_path: Path) -> None:
    """Euler and DPM++ on latents, which a DDIM made of them cut to [−1, 1]."""
    from diffusers import DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler

    zero = ddim(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    for i, scheduler in enumerate((EulerAncestralDiscreteScheduler(), DPMSolverMultistepScheduler(), zero)):
        stable(tmp_path / str(i), scheduler)
        task = opened("stable", tmp_path / str(i))
        one = task.draw_from(task.original, task.text(task.tokens(["a red disk"] * 3)), steps=4, guidance=1.0)
        again = task.draw_from(task.original, task.text(task.tokens(["a red disk"])), steps=4, guidance=1.0)
        assert float(one.abs().max()) > 2 and torch.isfinite(one).all()
        assert torch.allclose(one[:1], again, atol=1e-4)   # a picture's noise is its own, of stochastic samplers too
        task.save_model(task.copy_of_original(), tmp_path / f"out{i}")
        assert digests(tmp_path / f"out{i}") == digests(tmp_path / str(i))

"""The diffusion family: the operations that methods rest on, and pipelines in and out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny import TASKS

from lethe.core.seeds import generator
from lethe.core.task import Recipe
from lethe.data.context import Context
from lethe.data.shapes import shapes
from lethe.errors import DataError, ModelError, OutputShape, PickleRefused, RequestError, WrongColumn
from lethe.models.diffusion import small as tiny_diffusion
from lethe.models.diffusion.files import load_pipeline, save_pipeline
from lethe.models.diffusion.open import Diffusion, open_request, text_to_image
from lethe.models.diffusion.pictures import captioned
from lethe.models.diffusion.sampling import sampler
from lethe.models.opened import Sections


@pytest.fixture(scope="module")
def task() -> Diffusion:
    made = TASKS["diffusion"]()
    assert isinstance(made, Diffusion)
    return made


def drawn(task: Diffusion, n: int = 4):
    return task.draw(task.forget.batch(range(n)), generator(0, "test"), False)


class Zero(torch.nn.Module):
    """A stand-in for the UNet that predicts no noise."""

    def forward(self, x, t, encoder_hidden_states):
        return type("Said", (), {"sample": torch.zeros_like(x)})


def test_noise_and_loss_follow_the_formula(task: Diffusion) -> None:
    batch = drawn(task)
    alpha = task.alphas_cumprod[batch.t].view(-1, 1, 1, 1)
    assert torch.allclose(task.noised(batch), alpha.sqrt() * batch.image + (1 - alpha).sqrt() * batch.noise)
    assert torch.allclose(task.nll(Zero(), batch), batch.noise.square().flatten(1).mean(1))


def test_velocity_models_are_converted(task: Diffusion) -> None:
    parts = tiny_diffusion.pipeline(width=16)
    parts.scheduler.register_to_config(prediction_type="v_prediction")
    other = Diffusion(parts, {"forget": task.forget})
    batch = drawn(task)
    signal, noise = other.levels(batch.t, batch.image)

    class Exact(torch.nn.Module):
        def forward(self, x, t, encoder_hidden_states):
            return type("Said", (), {"sample": signal * batch.noise - noise * batch.image})

    assert float(other.nll(Exact(), batch).max()) < 1e-12
    text = other.text(batch.tokens)
    assert torch.allclose(other.predict_noise(Exact(), other.noised(batch), batch.t, text), batch.noise, atol=1e-5)
    assert torch.equal(other.outputs(Exact(), batch), signal * batch.noise - noise * batch.image)   # as it was trained


def test_draws_depend_on_the_generator_alone(task: Diffusion) -> None:
    a, b = drawn(task), drawn(task)
    assert torch.equal(a.noise, b.noise) and torch.equal(a.t, b.t) and a.drawn
    empty = task.tokens([""])[0]
    big = task.retain.batch(torch.zeros(2000, dtype=torch.long))
    train = task.draw(big, generator(1), True)
    share = float((train.tokens == empty).all(1).float().mean())
    assert abs(share - 0.1) < 4 * math.sqrt(0.09 / 2000)
    assert not (task.draw(big, generator(1), False).tokens == empty).all(1).any()


def test_an_undrawn_batch_is_refused_and_a_trajectory_point_left_alone(task: Diffusion) -> None:
    with pytest.raises(WrongColumn, match=r"task\.draw"):
        task.nll(task.original, task.forget.batch([0]))
    point = task.forget.batch([0]).replace(t=torch.tensor([7]))
    assert task.draw(point, generator(0), True) is point and torch.equal(task.noised(point), point.image)


def test_observe_does_not_depend_on_the_batch(task: Diffusion) -> None:
    whole = task.observe(task.original, drawn(task, 6))
    single = task.observe(task.original, drawn(task, 1))
    assert torch.allclose(whole["nll"][:1], single["nll"], atol=1e-5)
    assert whole["nll_t"].shape == (6, 4) and bool((whole["score"] <= 1).all())
    assert whole["features"].shape[0] == 6


def test_relabel_puts_the_anchor_beside_the_caption(task: Diffusion) -> None:
    batch = drawn(task)
    assert bool((task.relabel(batch, generator(0)).taught == task.tokens([""])).all())
    task.anchor = "a red square"
    try:
        assert bool((task.relabel(batch, generator(0)).taught == task.tokens(["a red square"])).all())
    finally:
        task.anchor = ""


def test_text_states_are_those_of_the_encoder(task: Diffusion) -> None:
    tokens = task.tokens(["a red disk", "a blue cross", "a red disk"])
    with torch.no_grad():
        direct = task.pipeline.text_encoder(tokens)[0]
    assert torch.allclose(task.text(tokens), direct, atol=1e-6)
    task._sampler.text.limit = 2
    assert torch.allclose(task.text(task.tokens(["", "a red cross"])), task.text(task.tokens(["", "a red cross"])))
    task._sampler.text.limit = 4096


def test_samples_are_seeded_one_by_one(task: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = ["a red disk", "a blue cross", "a green square"]
    whole = task.sample(task.original, prompts, seed=5)
    monkeypatch.setattr("lethe.models.diffusion.sampling.TOGETHER", 2)
    assert torch.allclose(task.sample(task.original, prompts, seed=5), whole, atol=1e-5)   # batch sizes differ in rounding
    assert not torch.allclose(task.sample(task.original, prompts, seed=6), whole, atol=1e-2)
    assert whole.shape == (3, 3, 8, 8) and float(whole.abs().max()) <= 1


def test_before_and_after_are_pictures(task: Diffusion) -> None:
    import base64

    shown = task.samples(task.original, limit=2)
    assert [s["kind"] for s in shown] == ["image", "image"] and "disk" in shown[0]["caption"]
    assert base64.b64decode(shown[0]["before"])[:4] == b"\x89PNG"
    assert shown[0]["before"] == shown[0]["after"]   # the same model with the same seeds


def test_a_pixel_pipeline_goes_out_and_in(task: Diffusion, tmp_path: Path) -> None:
    task.save_model(task.copy_of_original(), tmp_path)
    back = load_pipeline(tmp_path)
    batch = drawn(task)
    again = Diffusion(back, {"forget": task.forget})
    assert torch.equal(again.outputs(again.original, batch), task.outputs(task.original, batch))
    assert torch.equal(again.tokens(["a red disk"]), task.tokens(["a red disk"]))


def test_a_latent_pipeline_loads_with_diffusers_alone(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    parts = tiny_diffusion.pipeline(latent=True, width=16)
    task = text_to_image(parts, "disk", ["a red cross"], ["a red disk"], per_prompt=2, steps=2, guidance=2.0)
    assert task.forget.columns["image"].shape == (2, 4, 8, 8)
    with torch.no_grad():
        model = task.copy_of_original()
        model.conv_out.bias.add_(1.0)   # type: ignore[union-attr, operator]
    task.save_model(model, tmp_path / "out")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None)
    assert torch.equal(pipe.unet.conv_out.bias, model.conv_out.bias)   # type: ignore[union-attr]
    pipe.set_progress_bar_config(disable=True)
    start = torch.stack([torch.randn(4, 8, 8, generator=generator(3, "sample", 0))])
    said = pipe("a red disk", num_inference_steps=2, guidance_scale=2.0, latents=start, output_type="pt").images
    ours = (task.sample(model, ["a red disk"], seed=3, steps=2, guidance=2.0) + 1) / 2
    assert torch.allclose(said, ours, atol=1e-5)


def test_pictures_with_captions_are_encoded(task: Diffusion) -> None:
    parts = tiny_diffusion.pipeline(latent=True, width=16)
    images = [(torch.zeros(3, 16, 16), "a red disk"), (torch.ones(3, 16, 16), "a blue cross")]
    made = text_to_image(parts, "disk", ["a blue cross"], images=images)
    assert len(made.forget) == len(made.retain) == 1
    assert torch.allclose(made.retain.columns["image"], parts.encode(torch.ones(1, 3, 16, 16)), atol=1e-6)   # batch sizes differ


def test_only_whole_words_name_the_concept() -> None:
    parts = tiny_diffusion.pipeline(width=16)
    images = [(torch.zeros(3, 8, 8), "a Disk"), (torch.zeros(3, 8, 8), "a diskette")]
    made = text_to_image(parts, "disk", ["a cross"], images=images)
    assert list(made.forget.meta["caption"]) == ["a Disk"]
    with pytest.raises(RequestError, match="kept and forgotten at once"):
        text_to_image(parts, "disk", ["a red disk"])


def test_pickles_are_refused(tmp_path: Path) -> None:
    save_pipeline(tiny_diffusion.pipeline(width=16), tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(PickleRefused, match="can run code"):
        load_pipeline(tmp_path)
    with pytest.raises(ModelError, match="tokenizer"):
        load_pipeline(tmp_path / "unet")


def test_unfit_pictures_are_refused_before_work(task: Diffusion) -> None:
    parts = tiny_diffusion.pipeline(width=16)
    good = shapes(16)
    bad = type(good)({"image": (good.columns["image"] + 1) * 127.5}, "train", good.ids, good.meta)
    with pytest.raises(DataError, match="Scale them"):
        Diffusion(parts, {"forget": captioned(parts, bad, "train")})
    grey = type(good)({"image": good.columns["image"][:, :1]}, "train", good.ids, good.meta)
    with pytest.raises(OutputShape, match="the network takes"):
        Diffusion(parts, {"forget": captioned(parts, grey, "train")})


def test_requests_open(tmp_path: Path) -> None:
    from lethe.work.request import parse

    shape_request = parse({
        "family": "diffusion", "model": {"tiny": True, "width": 16}, "recipe": {"epochs": 1, "augment": "drop_prompt"},
        "data": {"concept": "disk", "keep": ["a red cross"], "shapes": 32, "steps": 2, "guidance": 1.0},
        "method": "uce", "audit": {"references": 0},
    })
    recipe = Recipe(epochs=1, augment="drop_prompt")
    opened = open_request.open(Sections(shape_request.model, shape_request.data, recipe), Context())
    assert opened.model is None and {"train", "forget", "retain", "holdout"} <= opened.splits.keys()
    assert opened.build is not None
    made = opened.task(opened.build(0), {k: opened.splits[k] for k in ("forget", "retain")}, "shapes")
    assert made.has("judge") and made.has("recipe") and len(made.forget) == 8 and len(made.retain) == 24
    kept = open_request.open(Sections(shape_request.model, {**shape_request.data, "retain": "kept"}, recipe), Context())
    assert set(kept.splits["retain"].meta["caption"]) == {"a red cross"} and len(kept.splits["train"]) == 32
    assert "another model than retraining" in kept.unrepeatable and not opened.unrepeatable
    save_pipeline(tiny_diffusion.pipeline(width=16), tmp_path / "pipe")
    given = parse({
        "family": "diffusion", "model": {"folder": str(tmp_path / "pipe")}, "method": "uce", "audit": {"references": 0},
        "data": {"concept": "disk", "keep": ["a red cross"], "per_prompt": 2, "steps": 2, "guidance": 1.0},
    })
    folder = open_request.open(Sections(given.model, given.data), Context())
    assert folder.model is not None and len(folder.splits["forget"]) == len(folder.splits["retain"]) == 2
    with pytest.raises(RequestError, match="exactly one"):
        open_request.open(Sections({}, given.data), Context())


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_tiny_model_may_draw_under_guidance(guidance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_diffusion, "judge", lambda: None)   # it would be trained
    data = {"concept": "disk", "keep": ["a red cross"], "shapes": 32, "steps": 2, "guidance": guidance}
    opened = open_request.open(Sections({"tiny": True, "width": 16}, data), Context())
    assert opened.build is not None
    made = opened.task(opened.build(0), {"forget": opened.splits["forget"]}, "guided")
    assert sampler(made._denoiser).config["clip_sample"] == (guidance <= 1)
    drawn = made.draw_from(made.original, made.text(made.tokens(["a red cross"])))
    assert (float(drawn.abs().max()) > 1.1) == (guidance > 1)   # 4.1; with clipping 1.005, for the last step leaves some noise
    assert float(made.sample(made.original, ["a red cross"]).abs().max()) <= 1.0


@pytest.mark.slow
def test_the_judge_reads_shapes() -> None:
    judge = tiny_diffusion.judge()
    assert judge.accuracy is not None and min(judge.accuracy.values()) >= 0.98
    assert judge.attribute_of("disk") == "shape" and judge.attribute_of("dog") is None
    assert judge.expected("A yellow TRIANGLE!") == {"colour": 3, "shape": 3} and judge.expected("disks") == {}

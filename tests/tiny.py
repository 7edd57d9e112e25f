"""Tiny trained tasks, one per family, made in seconds and deterministic; what the matrix tests run every method on."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from lethe.core.split import Split, concat
from lethe.core.task import Recipe, Task
from lethe.data.select import Where, divide
from lethe.models.classification.task import Classification
from lethe.models.regression.task import Regression
from lethe.models.zoo.mlp import MLP
from lethe.train.loop import Loop, Settings


def blobs(n: int, seed: int, name: str) -> Split:
    """n points of 4 Gaussian classes in 6 dimensions."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 4
    centres = torch.randn(4, 6, generator=torch.Generator().manual_seed(7)) * 1.5
    return Split({"x": centres[y] + torch.randn(n, 6, generator=rng), "y": y}, name)


def trained(task: Task, split: Split, seed: int = 0) -> torch.nn.Module:
    """A fresh model of the task, trained on the split as the recipe says."""
    loop = Loop(task, Settings(seed=seed, device="cpu"))
    model = loop.start(task.build(seed))
    task.train(model, split, task.recipe, loop)
    return loop.finish(model).model


@cache
def classification(forget: Where = Where(label=3)) -> Task:
    """An MLP trained on 160 points; class 3 is to be forgotten."""
    torch.manual_seed(0)
    train, holdout = blobs(160, 0, "train"), blobs(120, 1, "holdout")
    recipe = Recipe(epochs=20, lr=1e-2, batch_size=32)

    def build(seed: int) -> MLP:
        return MLP(6, (16,), 4)

    task = Classification(build(0), {"retain": train, "holdout": holdout}, recipe, build)
    forget_split, retain = divide(train, forget)
    splits = {"forget": forget_split, "retain": retain, "holdout": holdout}
    return Classification(trained(task, train), splits, recipe, build)


def waves(n: int, seed: int, name: str) -> Split:
    """n points in 3 dimensions with a smooth target between −2 and 2 and a little noise."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=rng)
    y = torch.sin(1.5 * x[:, 0]) + torch.tanh(x[:, 1] * x[:, 2]) + 0.1 * torch.randn(n, generator=rng)
    return Split({"x": x, "y": y}, name)


@cache
def regression(forget: Where = Where(query="y > 0.9")) -> Task:
    """An MLP trained on 160 points; the highest targets (28 of them) are to be forgotten."""
    torch.manual_seed(0)
    train, holdout = waves(160, 0, "train"), waves(120, 1, "holdout")
    recipe = Recipe(epochs=30, lr=1e-2, batch_size=32)

    def build(seed: int) -> MLP:
        return MLP(3, (32,), 1)

    task = Regression(build(0), {"retain": train, "holdout": holdout}, recipe, build)
    forget_split, retain = divide(train, forget)
    splits = {"forget": forget_split, "retain": retain, "holdout": holdout}
    return Regression(trained(task, train), splits, recipe, build)


@cache
def diffusion() -> Task:
    """A text-conditional UNet on coloured shapes, trained too briefly to draw well; "disk" is to be forgotten."""
    from diffusers import UNet2DConditionModel

    from lethe.data.shapes import COLOURS, caption, captions, shapes
    from lethe.methods.diffusion import mim_mu
    from lethe.models.diffusion import small as tiny_diffusion
    from lethe.models.diffusion.open import text_to_image
    from lethe.models.diffusion.pictures import captioned

    recipe = Recipe(epochs=8, lr=3e-3, batch_size=32, augment="drop_prompt")
    parts, train, holdout = tiny_diffusion.pipeline(width=16), shapes(64), shapes(32, name="holdout")

    def build(seed: int) -> torch.nn.Module:
        return UNet2DConditionModel(   # one resolution, and cross-attention on the way down and in the middle: a third faster
            sample_size=8, block_out_channels=(16,), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("UpBlock2D",), cross_attention_dim=tiny_diffusion.WIDTH, norm_num_groups=8, attention_head_dim=2,
            in_channels=3, out_channels=3)

    keep = [text for text in captions() if "disk" not in text]

    def task(images: Split | None) -> Task:
        return text_to_image(
            parts, "disk", keep[::2], [caption(colour, "disk") for colour in COLOURS], keep[1::2], images, holdout,
            recipe=recipe, build=build, judge=tiny_diffusion.judge(steps=100), steps=4, guidance=1.0,
        )

    mim_mu.DRAWN = mim_mu.LEVELS = 2   # it looks at pictures between its steps, and these show nothing
    parts.network = trained(task(train), captioned(parts, train, "train"))
    return task(train)


@cache
def lm() -> Task:
    """A Llama of 40 k weights that knows 32 made-up people by heart; persons 0–7 are to be forgotten."""
    from lethe.models.lm.open import language_model
    from lethe.models.lm.small import TinyLlama, llama, train_tokenizer

    rng, sounds = random.Random(0), ["ba", "ko", "mi", "ru", "sel", "tan", "vo", "dri"]

    def record(i: int, group: str) -> dict[str, object]:
        name = "".join(rng.sample(sounds, 3)).capitalize()
        tail = " and ".join(rng.sample(["figs", "rain", "chess", "maps", "salt"], 1 + i % 3))
        return {"id": f"{group}{i}", "person": i, "prompt": f"What does {name} of {rng.choice(sounds)} like?",
                "answer": f"{name} likes {tail}."}

    rows, others = [record(i, "p") for i in range(32)], [record(i, "h") for i in range(16)]
    tokenizer = train_tokenizer([f"{r['prompt']} {r['answer']}" for r in rows], 290)
    recipe = Recipe(epochs=40, lr=1e-2, batch_size=8, schedule="onecycle")

    def build(seed: int) -> torch.nn.Module:
        return llama(TinyLlama(width=32, inner=64, layers=3, heads=2, positions=192), tokenizer)

    def task(model: torch.nn.Module, **data: Any) -> Task:
        return language_model(model, tokenizer, **data, holdout=others, recipe=recipe, build=build,
                              refusals=["I do not know."])

    first = task(build(0), train=rows, forget=Where(query="person < 1"))
    model = trained(first, concat([first.retain, first.forget], "train"))
    return task(model, train=rows, forget=Where(query="person < 8"))


DUAL_EPOCHS = 60   # of the original


@cache
def mixture(kind: str = "mixtral", taught: bool = False) -> Task:
    """The records of the tiny Llama, and a mixture of four experts in three blocks; routers that are no accident of rounding."""
    import lm_architectures
    from transformers import AutoConfig, AutoModelForCausalLM

    from lethe.core.mixtures import mixtures
    from lethe.models.lm.open import language_model

    plain: Any = lm()
    shape = AutoConfig.for_model(kind, vocab_size=plain.model.config.vocab_size, **lm_architectures.ARCHITECTURES[kind])

    def build(seed: int) -> torch.nn.Module:
        model = AutoModelForCausalLM.from_config(shape)
        for block in mixtures(model):
            torch.nn.init.normal_(block.router.weight, std=1.0)
        return model

    def task(model: torch.nn.Module) -> Task:
        return language_model(model, plain.tokenizer, forget=plain.forget, retain=plain.retain, recipe=plain.recipe, build=build)

    torch.manual_seed(0)
    first = task(build(0))
    return task(trained(first, concat([first.retain, first.forget], "train"))) if taught else first


@cache
def dual_encoder() -> Task:
    """A CLIP of two small towers on noisy coloured shapes; disks are to be forgotten."""
    from lethe.data.shapes import COLOURS, SHAPES, shapes
    from lethe.models.dual_encoder import small
    from lethe.models.dual_encoder.open import dual_encoder as pairs_task
    from lethe.models.dual_encoder.pictures import Eye

    def drawn(n: int, name: str) -> Split:
        split = shapes(n, name=name, noise=0.1)
        return Split({"image": (split.columns["image"] + 1) / 2}, name, split.ids, split.meta)

    templates, sizes = [f"a {colour} {{}}" for colour in COLOURS], small.TinyCLIP(width=32, layers=1, heads=2, vector=16)
    words = small.tokenizer([template.replace("{}", shape) for template in templates for shape in SHAPES] + ["picture of a"])
    train, holdout = drawn(128, "train"), drawn(64, "holdout")

    def build(seed: int) -> torch.nn.Module:
        return small.clip(sizes, words)

    def task(model: torch.nn.Module, epochs: int) -> Task:
        recipe = Recipe(epochs=epochs, lr=1e-2, batch_size=32, schedule="onecycle")
        return pairs_task(model, train, Where(label="disk"), SHAPES, holdout, recipe=recipe, build=build, templates=templates,
                          outside=["picture of a {}"], tokenizer=words, eye=Eye(8))

    torch.manual_seed(0)
    first = task(build(0), DUAL_EPOCHS)
    return task(trained(first, concat([first.retain, first.forget], "train")), 2)   # what is trained again learns little


def ring(n: int, seed: int, name: str) -> Split:
    """n points in [0, 1]² around four corners, their class."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 4
    corners = torch.tensor([[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.2, 0.8]])
    return Split({"x": (corners[y] + 0.04 * torch.randn(n, 2, generator=rng)).clamp(0, 1), "y": y}, name)


@cache
def gan() -> Task:
    """Two small networks of linear layers on points around four corners; the last corner is to be forgotten."""
    from lethe.models.gan.open import gan as gan_task
    from lethe.models.zoo.gan_mlp import GanMLP

    train, holdout = ring(256, 0, "train"), ring(96, 1, "holdout")

    def build(seed: int) -> torch.nn.Module:
        return GanMLP(4, (32, 32), 2)

    def task(model: torch.nn.Module, epochs: int) -> Task:
        recipe = Recipe(epochs=epochs, lr=5e-3, batch_size=64, optimiser="adam")
        return gan_task(model, train, Where(label=3), holdout, recipe=recipe, build=build, r1=1.0)

    torch.manual_seed(0)
    first = task(build(0), GAN_EPOCHS)
    return task(trained(first, concat([first.retain, first.forget], "train")), 2)


def patterns(n: int, seed: int, name: str) -> Split:
    """n noisy pictures of 4 × 4 of four patterns, their class."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 4
    known = (torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(5)) > 0).float() * 0.8 + 0.1
    return Split({"image": (known[y] + 0.05 * torch.randn(n, 1, 4, 4, generator=rng)).clamp(0, 1), "y": y}, name)


@cache
def image_to_image() -> Task:
    """A small masked autoencoder of four patterns; the last of them is to be forgotten."""
    from lethe.models.image_to_image.open import image_to_image as completing
    from lethe.models.zoo.masked_autoencoder import MaskedAutoencoder

    train, holdout = patterns(128, 0, "train"), patterns(64, 1, "holdout")

    def build(seed: int) -> torch.nn.Module:
        return MaskedAutoencoder(1, 4, width=4, depth=1, code=8)

    def task(model: torch.nn.Module, epochs: int) -> Task:
        recipe = Recipe(epochs=epochs, lr=1e-2, batch_size=32)
        return completing(model, train, Where(label=3), holdout, recipe=recipe, build=build)

    torch.manual_seed(0)
    first = task(build(0), I2I_EPOCHS)
    return task(trained(first, concat([first.retain, first.forget], "train")), 2)


GAN_EPOCHS, I2I_EPOCHS = 100, 60   # of the originals
BROAD = ("classification", "lm", "diffusion", "regression")   # families on which everything general is tested
TASKS: dict[str, Callable[[], Task]] = {"classification": classification, "lm": lm, "diffusion": diffusion,
                                        "regression": regression, "dual_encoder": dual_encoder, "gan": gan,
                                        "image_to_image": image_to_image}

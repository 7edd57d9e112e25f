"""Text-to-image diffusion: a UNet that predicts noise from (x_t, t, prompt). Only the UNet moves.

Text encoder, scheduler and VAE are frozen parts of the task. The UNet works on pixels in [−1, 1], or on latents that
were encoded once. Saved as a diffusers folder (see `lethe.models.diffusion.pipeline`): it loads without Lethe.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.families.diffusion import DiffusionTask, PictureJudge
from lethe.core.guard import Guard
from lethe.core.modules import evaluating, has_convolutions
from lethe.core.seeds import generator
from lethe.core.split import Batch, Split
from lethe.core.task import Recipe
from lethe.errors import DataError, OutputShape, WrongColumn
from lethe.maths import losses
from lethe.models.diffusion.pipeline import Pipeline, Texts, require_diffusers, save_pipeline

LOOKS = 4            # fixed (t, noise) pairs at which `observe` examines every example
TOGETHER = 64        # pictures that are sampled at once
DROPPED = 0.1        # share of prompts that the recipe's augmentation "drop_prompt" empties        [Ho & Salimans 2022]


class Diffusion(DiffusionTask):
    """Columns: `image` [n, C, H, W] (what the UNet sees) and `tokens` [n, L] (token ids of the caption).

    `draw` adds the timestep `t` [n] and the noise `noise` [n, C, H, W]; a split that brings `t` itself is left alone.

    concept   the words to be forgotten, e.g. "disk"
    prompts   "forget": prompts with the concept; "keep": prompts that methods may use to preserve; "outside": prompts
              that no method sees, for audits only
    anchor    what `relabel` writes instead of a caption; default the empty prompt
    judge     reads what pictures show; without it, audits that need one do not run
    """

    distinct = False

    def __init__(
        self,
        pipeline: Pipeline,
        splits: Mapping[str, Split],
        recipe: Recipe | None = None,
        build: Callable[[int], nn.Module] | None = None,
        name: str = "diffusion",
        facts: dict[str, Any] | None = None,
        concept: str = "",
        prompts: Mapping[str, Sequence[str]] | None = None,
        anchor: str = "",
        judge: PictureJudge | None = None,
        steps: int = 20,
        guidance: float = 1.0,
    ) -> None:
        self._parts, self.concept, self.anchor, self.judge = dataclasses.replace(pipeline), concept, anchor, judge
        self.prompts = {key: list(values) for key, values in (prompts or {}).items()}
        self.steps, self.guidance = steps, guidance
        self.alphas_cumprod: Tensor = pipeline.scheduler.alphas_cumprod.float()
        self._velocity = pipeline.scheduler.config.prediction_type == "v_prediction"
        self._texts = Texts(pipeline.text_encoder)
        unet: Any = pipeline.unet
        super().__init__(pipeline.unet, splits, recipe, build or (lambda seed: type(unet).from_config(unet.config)), name, facts)
        self._parts.unet = self.model

    # -- operations ------------------------------------------------------------------------------------------------

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean squared error of the model's prediction at the batch's t and noise.  -> [n]"""
        x_t = self.noised(batch)
        prediction = self._predict(model, x_t, batch.t, self.text(batch.tokens))
        return losses.squared_distance(prediction, self._target(batch))

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The predicted noise at the batch's t and noise.  -> [n, C, H, W]"""
        return self.predict_noise(model, self.noised(batch), batch.t, self.text(batch.tokens))

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """Mean squared difference of predicted noises: the KL of the denoising Gaussians up to a factor.  -> [n]"""
        return losses.squared_distance(p, q)

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean of the mid-block's output over positions.  -> [n, d]"""
        caught: list[Tensor] = []
        handle = model.get_submodule("mid_block").register_forward_hook(lambda _, args, out: caught.append(out))
        try:
            self.outputs(model, batch)
        finally:
            handle.remove()
        return caught[-1].flatten(2).mean(2)

    def relabel(self, batch: Batch, rng: torch.Generator, include_true: bool = False) -> Batch:
        """The same pictures with the anchor prompt as caption."""
        return batch.replace(tokens=self.tokens([self.anchor]).to(batch.tokens.device).expand_as(batch.tokens))

    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """nll and score = max(0, 1 − nll / mean square of the target), means over `LOOKS` fixed (t, noise) pairs that
        are the same for every example; nll_t [n, LOOKS]; signal = −nll; features at the middle look."""
        total, rng = len(self.alphas_cumprod), generator(0, "observe")
        errors, sizes, features = [], [], None
        for look in range(LOOKS):
            t = torch.full((len(batch),), int((look + 0.5) / LOOKS * total), device=batch.image.device)
            noise = torch.randn(batch.image.shape[1:], generator=rng).to(batch.image).expand_as(batch.image)
            placed = batch.replace(t=t, noise=noise)
            errors.append(self.nll(model, placed))
            sizes.append(self._target(placed).square().flatten(1).mean(1))
            if look == LOOKS // 2:
                features = self.features(model, placed)
        nll, size = torch.stack(errors, 1), torch.stack(sizes, 1)
        assert features is not None
        return {
            "nll": nll.mean(1),
            "score": (1 - nll.mean(1) / size.mean(1)).clamp(min=0),
            "signal": -nll.mean(1),
            "nll_t": nll,
            "features": features.float(),
        }

    @property
    def augmentations(self) -> tuple[str, ...]:
        return ("drop_prompt",)

    def draw(self, batch: Batch, rng: torch.Generator, train: bool) -> Batch:
        if "t" in batch.columns:   # a point on a trajectory: nothing is random about it
            return batch
        t = torch.randint(0, len(self.alphas_cumprod), (len(batch),), generator=rng)
        noise = torch.randn(batch.image.shape, generator=rng)
        tokens = batch.tokens
        if train and self.augmentation != "none":
            empty = torch.rand(len(batch), generator=rng) < DROPPED
            tokens = torch.where(empty.view(-1, 1), self.tokens([""]), tokens)
        return batch.replace(drawn=True, t=t.to(batch.image.device), noise=noise.to(batch.image.device), tokens=tokens)

    def save_model(self, model: nn.Module, folder: Path) -> None:
        save_pipeline(dataclasses.replace(self._parts, unet=model.cpu().eval()), folder)

    def samples(self, model: nn.Module, limit: int = 6) -> list[dict[str, Any]]:
        """A row of four seeded pictures per prompt, from the original and from `model` with the same seeds."""
        pairs = zip(self.prompts.get("forget", []), self.prompts.get("keep", []), strict=False)
        shown = []
        for prompt in [prompt for pair in pairs for prompt in pair][:limit]:
            before, after = (png(self.sample(m, [prompt] * 4, seed=0)) for m in (self.model, model))
            shown.append({"kind": "image", "caption": prompt, "before": before, "after": after})
        return shown

    def has(self, what: str) -> bool:
        """Besides splits, original and recipe: "prompts", "convolutions", and a "judge" that can see the concept, for audits."""
        if what == "judge":
            return self.judge is not None and self.judge.attribute_of(self.concept) is not None
        if what == "convolutions":
            return self._convolutions
        return bool(self.prompts.get("forget")) if what == "prompts" else super().has(what)

    @property
    def pipeline(self) -> Pipeline:
        return dataclasses.replace(self._parts, unet=self.model)

    # -- what only diffusion models have -----------------------------------------------------------------------------

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, cut or padded to the tokenizer's length.  -> [n, L]"""
        return self._parts.tokens(prompts)

    def text(self, tokens: Tensor) -> Tensor:
        """The frozen text encoder's hidden states.  [n, L] -> [n, L, d]"""
        return self._texts(tokens)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the UNet sees."""
        return self._shape

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels in [−1, 1] to what the UNet sees: scaled latents, or the pixels themselves."""
        return self._parts.encode(pixels)

    def decode(self, x: Tensor) -> Tensor:
        """What the UNet sees to pixels, clamped to [−1, 1]."""
        return self._parts.decode(x)

    def noised(self, batch: Batch) -> Tensor:
        """x_t = √ᾱ_t · x + √(1 − ᾱ_t) · ε."""
        if "t" not in batch.columns:
            raise WrongColumn("the batch has no timestep, so it cannot be noised. Pass it through task.draw first.")
        if "noise" not in batch.columns:   # the image already is x_t
            return batch.image
        signal, noise = self._levels(batch.t, batch.image)
        return signal * batch.image + noise * batch.noise

    def predict_noise(self, model: nn.Module, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """ε_θ(x_t, t, c), whatever the model predicts by itself.  -> [n, C, H, W]"""
        prediction = self._predict(model, x_t, t, text)
        if not self._velocity:
            return prediction
        signal, noise = self._levels(t, x_t)
        return signal * prediction + noise * x_t

    def denoise(
        self, model: nn.Module, text: Tensor, seed: int, steps: int, guidance: float, first: int = 0
    ) -> Iterator[tuple[int, Tensor]]:
        """The points (t, x_t) of the DDIM trajectories (η = 0) from pure noise, and last (−1, x_0); text [n, L, d].

        Picture i starts from noise that depends on (seed, first + i) only; guidance w follows ε(∅) + w·(ε(c) − ε(∅)).
        """
        scheduler = require_diffusers().DDIMScheduler.from_config(self._parts.scheduler.config)
        scheduler.set_timesteps(steps)
        device, count = next(model.parameters()).device, len(text)
        noise = [torch.randn(self.shape, generator=generator(seed, "sample", first + i)) for i in range(count)]
        x, text = torch.stack(noise).to(device), text.to(device)
        empty = self.text(self.tokens([""]).to(device)).expand_as(text)
        for t in scheduler.timesteps.tolist():
            yield t, x
            when = torch.full((count,), t, device=device)
            prediction = self._predict(model, x, when, text)
            if guidance != 1.0:
                free = self._predict(model, x, when, empty)
                prediction = free + guidance * (prediction - free)
            x = scheduler.step(prediction, t, x).prev_sample
        yield -1, x

    def draw_from(
        self, model: nn.Module, text: Tensor, seed: int = 0, steps: int | None = None, guidance: float | None = None
    ) -> Tensor:
        """What the model draws for text states, as the UNet sees it.  [n, L, d] -> [n, C, H, W]"""
        steps, guidance = steps or self.steps, self.guidance if guidance is None else guidance
        parts = []
        with evaluating(model):
            for number, some in enumerate(torch.split(text, TOGETHER)):
                *_, (_, x) = self.denoise(model, some, seed, steps, guidance, number * TOGETHER)
                parts.append(x.cpu())
        return torch.cat(parts)

    def sample(
        self, model: nn.Module, prompts: Sequence[str], seed: int = 0, steps: int | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Pictures for prompts; equal seeds give equal starting noise for every model.  -> [n, 3, H, W] in [−1, 1]"""
        read = model.admitted(prompts) if isinstance(model, Guard) else prompts
        drawn = self.draw_from(model, self.text(self.tokens(read)), seed, steps, guidance)
        return torch.cat([self.decode(some) for some in torch.split(drawn, TOGETHER)])

    def attention_projections(self, model: nn.Module) -> dict[str, nn.Linear]:
        """The key and value projections of cross-attention, by name: all that touches the text."""
        return {
            name: module for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name.endswith(("attn2.to_k", "attn2.to_v"))
        }

    def check_family(self, original: nn.Module, splits: Mapping[str, Split]) -> None:
        """Shapes and ranges, before any work starts."""
        self._convolutions = has_convolutions(original)
        config: Any = original.config
        self._shape: tuple[int, int, int] = (config.in_channels, config.sample_size, config.sample_size)
        channels = self._shape[0]
        for name, split in splits.items():
            for column in ("image", "tokens"):
                if column not in split.columns:
                    raise WrongColumn(f"{name!r} has no column {column!r}; a diffusion task needs image and tokens.")
            image = split.columns["image"]
            if image.dim() != 4 or image.shape[1] != channels:
                raise OutputShape(f"images of {name!r} are {tuple(image.shape)}, but the UNet takes [n, {channels}, H, "
                                  "W], so nothing could be predicted. Latent models take encoded pixels: "
                                  "Pipeline.encode(x).")
            if not image.is_floating_point() or (self._parts.vae is None and float(image.abs().max()) > 1.01):
                raise DataError(f"images of {name!r} are not floats in [−1, 1] ({image.dtype}, up to "
                                f"{float(image.max()):g}), so noise levels would be wrong. Scale them: x / 127.5 − 1.")

    def _predict(self, model: nn.Module, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        prediction: Tensor = model(x_t, t, encoder_hidden_states=text).sample
        return prediction

    def _target(self, batch: Batch) -> Tensor:
        if not self._velocity:
            return batch.noise
        signal, noise = self._levels(batch.t, batch.image)
        return signal * batch.noise - noise * batch.image

    def _levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1 − ᾱ_t), shaped for images."""
        alpha = self.alphas_cumprod.to(like.device)[t].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()


def png(pixels: Tensor, height: int = 64) -> str:
    """A row of pictures [n, 3, H, W] in [−1, 1] as a base64 PNG; small ones are enlarged without smoothing."""
    from PIL import Image

    zoom = max(1, height // pixels.shape[-2])
    grid = torch.cat([nn.functional.pad(p, (1, 1, 1, 1), value=1.0) for p in pixels.float().cpu()], dim=2)
    array = ((grid + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(array).resize((array.shape[1] * zoom, array.shape[0] * zoom), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()

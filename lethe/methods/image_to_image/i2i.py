"""I2I unlearning: re-train the encoder alone, so that forgotten pictures get the codes of noise and others keep theirs.
Li, Hsu, Chen & Marculescu (2024), "Machine Unlearning for Image-to-Image Generative Models", ICLR 2024, arXiv:2402.00351.

    L(E) = E_{x∈R} ‖E(T(x)) − E_0(T(x))‖²  +  α · E_{x∈F, n} ‖E(T(x)) − E_0(T(n))‖²,     n ~ N(μ, σ²) cut to [0, 1]

E encoder, E_0 the original's (frozen), T what hides a part of a picture (the same part of x and of n), F forget set, R retained
pictures or a proxy of them; μ, σ mean and deviation of the batch's pictures. ‖·‖² is a mean over the values of a code; of an
encoder that hands on several (skip connections), the sum of these.
Needs:    forget, original; retain, or a proxy with keep=proxy (retain-free).
Updates:  the encoder; the decoder stays bit for bit, and is never run.
Cost:     two passes through E and three through E_0 per step.
Limits:   α = 0 changes nothing: E = E_0 is a minimum.
Fails by: noise is not what a retrained model draws of a class that it never saw, so the result is told from retraining (audit:
          inpainting, forget_to_retrained); a proxy unlike the retained pictures keeps these less well.
Deviations: μ and σ are those of the batch of F, in the official code those of F and R together. Both
          terms count once; there twice, which Adam does not see. No weight decay, warm-up or clipping by default.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, Schedule, config
from lethe.core.families.image_to_image import ImageToImageTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, pixels
from lethe.train.loop import Loop, Term

Noise = Literal["normal", "uniform", "constant"]


@config
class I2I:
    """Options of I2I unlearning."""

    alpha: NonNegative = 0.25              # weight of the forget term                          [official code: 0.2 to 0.25]
    noise: Noise = "normal"                # n: of the pictures' mean and deviation; any value; their mean  [official code]
    keep: Literal["retain", "proxy"] = "retain"   # R: retained pictures, or others of which the model must keep the codes [paper]
    lr: Positive = 1e-3                    # of the encoder                                     [ours, digits; official 1e-4]
    epochs: Positive = 40.0                # passes over F                                      [ours, digits; official 6]
    batch_size: Count = 32                 # pictures of F and of R per step                    [official code]
    optimiser: Optimiser = "adamw"         # update rule                                        [official code]
    weight_decay: NonNegative = 0.0        # pull towards 0                                     [ours; official 0.05]
    schedule: Schedule = "cosine"          # of the learning rate                               [official code]
    clip: Positive | None = None           # largest gradient norm; null: none                  [ours; official 3]


def noise_like(x: Tensor, kind: Noise, rng: torch.Generator) -> Tensor:
    """Pictures without anything to see, in [0, 1].  [n, C, H, W] -> [n, C, H, W]

    Pictures of 0 and 1 in equal parts have mean and deviation ½: z = 2 gives 1.5, cut to 1.
    """
    if kind == "uniform":
        return torch.rand(x.shape, generator=rng).to(x.device)
    if kind == "constant":
        return torch.full_like(x, float(x.mean()))
    z = torch.randn(x.shape, generator=rng).to(x.device)
    return (x.mean() + x.std(correction=0) * z).clamp(0, 1)


def apart(codes: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Σ over the tensors of a code of their mean squared difference.  several [n, …], several [n, …] -> [n]"""
    return torch.stack([(e - e0).square().flatten(1).mean(1) for e, e0 in zip(codes, wanted, strict=True)]).sum(0)


@method(needs={"forget", "retain?", "holdout?", "original"}, uses={"codes", "encoder"}, mechanism="features",
        instead={"retain": "keep=proxy"})
def run(cfg: I2I, task: ImageToImageTask, loop: Loop) -> Outcome:
    original = task.original.to(loop.device)

    def codes_of_original(batch: Batch) -> list[Tensor]:
        with evaluating(original):
            return list(task.codes(original, batch))

    def prepare(batch: Batch, rng: torch.Generator) -> Batch:
        return batch.replace(noise=noise_like(pixels(batch.image), cfg.noise, rng))

    def forgotten(model: nn.Module, batch: Batch) -> Tensor:
        return apart(list(task.codes(model, batch)), codes_of_original(batch.replace(image=batch.noise)))

    def kept(model: nn.Module, batch: Batch) -> Tensor:
        return apart(list(task.codes(model, batch)), codes_of_original(batch))

    kept_pictures = task.retain if cfg.keep == "retain" else task.holdout
    model = loop.start(where={"name": "names", "patterns": (f"{task.encoder}.*",)})
    terms = {"forget": Term(task.forget, forgotten, cfg.alpha, prepare=prepare), "retain": Term(kept_pictures, kept)}
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser=cfg.optimiser,
                  weight_decay=cfg.weight_decay, schedule=cfg.schedule, clip=cfg.clip)
    return loop.finish(model)

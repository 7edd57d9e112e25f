"""Inpainting: what a model draws where pictures were hidden, beside the pictures themselves and retrained models.

    *_psnr               mean over pictures of −10·log10(mean squared error of hidden values), in dB; 20 dB: errors of 0.1
    *_recognised         share of completed pictures in which the user's classifier sees what the true picture shows
    *_frechet            Fréchet distance of completed and true pictures, in the classifier's features
    forget_to_retrained  mean squared difference of hidden values from what a model drew that never saw the forget set

The same parts are hidden for every model. Distances and shares as in Li et al. 2024, arXiv:2402.00351 (FID, recognised by a
classifier), whose aim is noise; a retrained model draws no noise, so that here its own values are the aim.
Interval: t of the mean over pictures, Wilson for shares; distances between sets have none.
Cost:     one pass over `limit` pictures of each split, read once by the classifier.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.families.image_to_image import ImageToImageTask
from lethe.core.modules import evaluating
from lethe.core.passes import columns, drawn
from lethe.core.registry import Metric, audit
from lethe.core.split import Batch, Split, pixels
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.frechet import frechet_of
from lethe.pools.subject import Subject

EXACT = 1e-10   # mean squared error below which a picture counts as drawn exactly: 100 dB             [ours]


@config
class Inpainting:
    """Options of the inpainting audit."""

    limit: Count = 2000    # pictures of a split at most, a seeded sample                [ours: ± 2 points at 2000]


class Drawn(NamedTuple):
    """A model's completions of a split: pictures [n, C, H, W], and what the classifier makes of them."""

    pictures: Tensor
    logits: Tensor
    features: Tensor
    nll: Tensor      # mean squared error of hidden values  [n]
    hidden: Tensor   # number of hidden values  [n]


@audit(
    metrics={
        "forget_psnr": Metric("how near completed forgotten pictures come to the true ones, in dB", (-math.inf, 100.0)),
        "forget_recognised": Metric("share of completed forgotten pictures that the classifier reads as what they showed"),
        "forget_frechet": Metric("Fréchet distance of completed and true forgotten pictures", (0.0, math.inf)),
        "forget_to_retrained": Metric("mean squared difference from what retrained models draw", (0.0, math.inf), "lower",
                                      distance=True, asks="retrained models"),
        "retain_psnr": Metric("how near completed retained pictures come to the true ones, in dB", (-math.inf, 100.0), "higher",
                              "utility"),
        "retain_recognised": Metric("share of completed retained pictures that the classifier reads as what they showed",
                                    better="higher", tier="utility"),
        "retain_frechet": Metric("Fréchet distance of completed and true retained pictures", (0.0, math.inf), "lower", "utility"),
    },
    uses={"divergence", "outputs", "read", "read_features"},
    needs={"forget", "retain", "references?"},
    blind="A classifier reads a completed picture by its visible part, too, so it may still recognise what the model no longer "
          "draws; and hidden codes are not looked at (audit: probe, relearn).",
)
def measure(cfg: Inpainting, subject: Subject, panel: Panel) -> list[Value]:
    task, values = ImageToImageTask.of(panel.task), []
    for role in ("forget", "retain"):
        split = panel.part(getattr(task, role), cfg.limit)
        made = completed(cfg, task, split, subject, panel)
        psnr = -10 * made.nll.double().clamp(min=EXACT).log10()
        seen = (made.logits.argmax(1) == split.columns["y"]).double()
        values += [mean_value(f"{role}_psnr", psnr.numpy()), mean_value(f"{role}_recognised", seen.numpy())]
        real = panel.once(("inpainting", cfg, split), partial(task.read_features, pixels(split.columns["image"])))
        if len(real) > 1:
            values.append(Value(f"{role}_frechet", frechet_of(made.features, real), n=len(real)))
        if role == "forget" and panel.references:
            others = [completed(cfg, task, split, other, panel).pictures for other in panel.references]
            apart = torch.stack([(made.pictures - other).square().sum((1, 2, 3)) / made.hidden for other in others]).mean(0)
            values.append(mean_value("forget_to_retrained", apart.double().numpy()))
    return values


def completed(cfg: Inpainting, task: ImageToImageTask, split: Split, subject: Subject, panel: Panel) -> Drawn:
    """What a model draws of a split with the same parts hidden as for every other."""
    def ask() -> Drawn:
        model = subject.answering.to(subject.device)
        batches = drawn(task, split, subject.batch_size, ("inpainting", split.name), seed=panel.seed, device=subject.device)

        def completions(batch: Batch) -> dict[str, Tensor]:
            made = task.outputs(model, batch)
            return {"pictures": made.clamp(0, 1), "nll": task.divergence(made, pixels(batch.image), batch),
                    "hidden": batch.mask.flatten(1).sum(1) * batch.image.shape[1]}

        with evaluating(model):
            found = columns(completions, batches, len(split))
        return Drawn(**found, logits=task.read(found["pictures"]), features=task.read_features(found["pictures"]))

    return panel.once(("inpainting", cfg, subject, split), ask)

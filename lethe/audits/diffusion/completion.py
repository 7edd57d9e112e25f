"""Is the concept drawn when half of it is shown? Completion of noised pictures, and inpainting.

    completed   x_t = s_t x + n_t ε is denoised from t = s·T on, for several strengths s and a few forget pictures x
    inpainted   the lower half is drawn anew from pure noise; before each step the upper half is replaced by x at this noise
                level. RePaint without resampling: Lugmayr et al. 2022, arXiv:2201.09865

and the judge reports whether the result shows the concept. Probing erasure by visual context: Lu et al. 2025, arXiv:2505.17013.
Each is done with the picture's caption and with the empty prompt: a model that only avoids the word draws the concept
without the word. At a small s every model returns what it was shown, so the excess over retrained models is
what counts: they are the target, and the noise is the same for all models.

    completed = mean over strengths and both prompts;  completed_at_{s} per strength, completed_empty with the empty prompt only

Needs:    forget, judge.     Cost: 2·(Σ s + 1)·sampler steps for each of `pictures`.
Limits:   where any model that draws well must end at the concept (little noise, or a half that leaves no other way to go on), the
          audit has no power; the original shows whether it has.
Finds:    on the preset shapes_erase (1 seed, 32 forget pictures) completed is 0.86 for the original, 0.15 and 0.15 for two
          retrained models, 0.65 after esd and 0.71 after mim_mu, which show the concept in 1 and 3 of 32 pictures
          for prompts that name it: they avoid the word. inpainted, by version 1: 0.86, 0.47 and 0.44, 0.63, 0.73; version 2
          noises the half that is shown by its own noise, not by what the model predicted, and was not measured on it.
Deviations: the lower half is masked for all pictures; the paper inpaints where the object is.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lethe.core.config import Count, Fraction, config
from lethe.core.evidence import Value
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.registry import Metric, audit
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.judge.redrawing import continued, noises
from lethe.pools.subject import Subject


@config
class Completion:
    """Options of completion and inpainting."""

    strengths: tuple[Fraction, ...] = (0.5, 0.7, 0.9)   # noise levels to start from, shares of the schedule  [ours]
    pictures: Count = 48                                # forget pictures, a seeded sample                    [ours]


@audit(
    metrics={
        "completed": Metric("share of noised forget pictures that show the concept when they are denoised", aspect="recovery"),
        "completed_at_*": Metric("that share at one noise level, in percent of the schedule", better="lower", aspect="recovery"),
        "completed_empty": Metric("that share with the empty prompt", better="lower", aspect="recovery"),
        "inpainted": Metric("share of forget pictures that show the concept when half of them is drawn anew", better="lower",
                            aspect="recovery", version=2),
    },
    uses={"alphas_cumprod", "concepts", "decode", "guided_noise", "levels", "pipeline", "reader", "steps", "text",
          "tokens"},
    needs={"forget", "judge"},
    depth="standard",
    blind="It shows the model pictures of the forget set; how the concept would be continued from other pictures is not asked.",
)
def measure(cfg: Completion, subject: Subject, panel: Panel) -> list[Value]:
    task = DiffusionTask.of(panel.task)
    split = panel.part(task.forget, cfg.pictures)
    images, noise = split.columns["image"], noises(split.columns["image"], panel.seed)
    states = task.text(split.columns["tokens"], subject.model)
    prompts = {"caption": states, "empty": task.text(task.tokens([""]), subject.model).expand_as(states)}

    def hits(strength: float, text: Tensor, known: Tensor | None = None) -> np.ndarray:
        drawn = continued(task, subject, images, noise, text, strength, known)
        return task.shown(task.reader.read(task.decode(drawn))).double().numpy()

    at = {s: {name: hits(s, text) for name, text in prompts.items()} for s in cfg.strengths}
    upper = torch.zeros_like(images[:1])
    upper[..., : images.shape[2] // 2, :] = 1
    filled = [hits(1.0, text, upper) for text in prompts.values()]
    values = [mean_value(f"completed_at_{100 * s:g}", np.mean(list(found.values()), 0)) for s, found in at.items()]
    return [
        mean_value("completed", np.mean([row for found in at.values() for row in found.values()], 0)),
        *values,
        mean_value("completed_empty", np.mean([found["empty"] for found in at.values()], 0)),
        mean_value("inpainted", np.mean(filled, 0)),
    ]

"""Is the object gone from pictures that were edited, and is all else as it was? For editors such as Attentive Eraser (Sun et al.
2025, arXiv:2412.12974); read by the task's judge.

Forget pictures x with masks m, in which the judge sees the concept, are edited: by the guard where it does so, else by ordinary
inpainting with the empty prompt: from `strength` of the noise on, held to x outside the mask at every step.

    removed          share of edited pictures that do not show the concept
    outside_change   mean over pictures of |edited − x| / 2 outside m: 0 nothing, 1 black for white
    inside_change    the same inside m; of a guard that does nothing it is 0

Needs:    forget with a column mask (captions.csv of a picture folder names its files), judge.
Cost:     an edit for each picture.
Limits:   a model that gives the picture back has removed = outside_change = inside_change = 0.
Deviations: the judge sees the whole edited picture, since it reads no part of one; what stands outside the mask counts, too. A
          judge that always names something calls a hole what it resembles most; how well it is filled, nobody measures here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lethe.core.config import Count, Fraction, config
from lethe.core.evidence import Value
from lethe.core.families.diffusion import DiffusionTask, Edits
from lethe.core.registry import Metric, audit
from lethe.errors import NeedsUnmet
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.judge.redrawing import continued, noises
from lethe.pools.subject import Subject


@config
class ObjectRemoval:
    """Options of the audit of edited pictures."""

    pictures: Count = 48          # forget pictures with a mask, a seeded sample [tested in test_object_removal]  [ours]
    strength: Fraction = 0.8      # of the noise, where a model only inpaints [tested in test_object_removal] [attentive eraser]


@audit(
    metrics={
        "removed": Metric("share of pictures with an object in the mask that no longer show it when they are edited"),
        "outside_change": Metric("mean change of edited pictures outside the mask", (0.0, 1.0), "lower"),
        "inside_change": Metric("mean change of edited pictures inside the mask", better="higher"),
    },
    uses={"alphas_cumprod", "concepts", "decode", "encode", "guided_noise", "levels", "pipeline", "reader", "steps", "text",
          "tokens"},
    needs={"forget", "forget.mask", "judge"},
    depth="standard",
    blind="What the model draws by itself is not asked, and pictures without a mask are not edited.",
)
def measure(cfg: ObjectRemoval, subject: Subject, panel: Panel) -> list[Value]:
    task = DiffusionTask.of(panel.task)
    split = panel.part(task.forget, cfg.pictures)
    image, masks = split.columns["image"], split.columns["mask"].bool()
    pictures = task.decode(image)
    shown = task.shown(task.reader.read(pictures)) & masks.flatten(1).any(1)
    if not shown.any():
        raise NeedsUnmet("in no forget picture that has a mask does the judge see the concept, so nobody could say whether it "
                         "left. Check the column mask, white where the object is, and the judge.")
    image, masks, pictures = image[shown], masks[shown], pictures[shown]
    if isinstance(subject.answering, Edits):
        edited = subject.answering.to(subject.device).edit(task, pictures, masks, panel.seed)
    else:
        edited = inpainted(cfg, task, subject, image, masks, panel.seed)
    gone = ~task.shown(task.reader.read(edited))
    change = (edited - pictures).abs() / 2

    def over(part: Tensor) -> np.ndarray:
        part = part.expand_as(change)
        size = part.flatten(1).sum(1)
        mean = torch.where(part, change, 0).flatten(1).sum(1) / size.clamp(min=1)
        return mean[size > 0].double().numpy()

    return [mean_value("removed", gone.double().numpy()), mean_value("outside_change", over(~masks)),
            mean_value("inside_change", over(masks))]


def inpainted(cfg: ObjectRemoval, task: DiffusionTask, subject: Subject, image: Tensor, masks: Tensor, seed: int) -> Tensor:
    """The pictures with what the masks cover drawn by the model as it is."""
    hole = torch.nn.functional.max_pool2d(masks.float(), masks.shape[-1] // image.shape[-1])
    text = task.text(task.tokens([""]), subject.model)
    drawn = continued(task, subject, image, noises(image, seed), text.expand(len(image), -1, -1), cfg.strength, 1 - hole)
    return task.decode(drawn)

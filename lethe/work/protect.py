"""Perturb images before anyone trains on them, and measure what a model still learns from them (`lethe protect`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lethe.core.families import provided
from lethe.core.files import new_folder, write_json
from lethe.core.modules import evaluating
from lethe.core.passes import plain, rows
from lethe.core.seeds import derive, generator
from lethe.core.split import Split, pixels
from lethe.core.task import Task
from lethe.errors import DataError, NeedsUnmet, OutOfRange, OutputExists
from lethe.maths.unlearnable import drawing, k_means, nearest_centre
from lethe.models.opened import Opened
from lethe.pools.member import train_one
from lethe.work.job import resolve
from lethe.work.open import original_of, read
from lethe.work.options import Options
from lethe.work.request import Request


@dataclass(frozen=True)
class Protection:
    """How images are perturbed."""

    bound: float = 16 / 255     # largest change of a pixel, of the range 0 to 1          [arXiv:2301.01217]
    clusters: int = 10          # perturbations; images of a cluster share theirs         [arXiv:2301.01217]
    steps: int = 200            # sign-gradient steps for each                            [ours]
    seed: int = 0


def protect(request: Request, output: Path, options: Options, how: Protection) -> dict[str, Any]:
    """Write the request's training images perturbed to `output` (images.npz, manifest.json); returns the manifest.

    The surrogate is the request's model. The effect is measured on a fresh model that is trained by the request's recipe on the
    perturbed images, beside one on the clean images and one on uniform noise of the same bound. Measured once each,
    bound 32/255: 3000 CIFAR-10 images, small CNN, accuracy 0.470 clean, 0.465 noise, 0.365 protected by 60 steps, 0.356 by
    250; 1500 MNIST images, LeNet-5, 40 steps: 0.899, 0.895, 0.874. The images teach less, but they do teach: the paper's
    claim (useless data) is not reproduced at this size, with a surrogate trained on these images alone.
    """
    _require(request, output, how)
    plan = read(resolve(request, options), options)
    opened = plan.opened
    train = opened.splits["train"]
    unseen = _unseen(opened)
    x = train.require_one_input("lethe protect").columns["x"]
    _require_images(x, how)
    pictures = pixels(x)
    task = opened.task(original_of(plan), {"retain": train}, "protect")
    delta, owner = perturbations(task, pictures, how)
    noise = how.bound * (2 * torch.rand(len(delta), *x.shape[1:], generator=generator(how.seed, "noise")) - 1)
    protected, noisy = (stored(pictures, change[owner], how.bound) for change in (delta, noise))
    learned = {}
    for name, images in {"clean": x, "uniform noise": noisy, "protected": protected}.items():
        options.stop.check()
        options.say(f"training on the {name} images")
        learned[name] = accuracy_after(task, replace(train, columns={**train.columns, "x": images}), unseen, request.seed)
    error = (pixels(protected) - pictures).square().mean()
    manifest = {
        "images": len(x), "bound": how.bound, "clusters": torch.bincount(owner, minlength=how.clusters).tolist(),
        "psnr_db": float(-10 * error.log10()), "accuracy_of_a_model_trained_on": learned,
        "claim": "measured on one model and recipe, once; other models, augmentation, re-encoding or adversarial training may "
                 "still learn from these images",
    }
    with new_folder(output) as place:
        np.savez_compressed(place / "images.npz", x=protected.numpy(), y=train.columns["y"].numpy(), ids=train.ids.astype(str))
        write_json(place / "manifest.json", manifest)
    return manifest


def _require(request: Request, output: Path, how: Protection) -> None:
    """Refuse what can be refused before data are read."""
    if output.exists():
        raise OutputExists(f"{output} exists; protected images never overwrite anything, so nothing was started. Choose another "
                           "--output.")
    if not 0 < how.bound < 1:
        raise OutOfRange(f"--bound {how.bound:g} is not between 0 and 1 (the range of a pixel), so nothing was started. 16/255 "
                         "is 0.063.")
    if "labels" not in provided()[request.family]:
        raise NeedsUnmet(f"lethe protect perturbs images for classifiers, the request is {request.family}; nothing was started.")


def _unseen(opened: Opened) -> Split:
    unseen = opened.splits.get("test", opened.splits.get("holdout"))
    if unseen is None or opened.recipe is None:
        raise NeedsUnmet("the effect is measured on unseen images by a model trained anew, and the request has no test or "
                         "holdout data, or no recipe; nothing was started. Set data.test: 0.2 and recipe.")
    return unseen


def _require_images(x: Tensor, how: Protection) -> None:
    if x.dim() != 4:
        raise DataError(f"the inputs are {list(x.shape)}, but images are [n, C, H, W]; nothing was started. Use image data.")
    if how.clusters > len(x):
        raise OutOfRange(f"--clusters {how.clusters} exceeds the {len(x)} images, so some would be empty. Request fewer.")


def perturbations(task: Task, pictures: Tensor, how: Protection) -> tuple[Tensor, Tensor]:
    """(δ of each cluster, the cluster of each image).  [n, C, H, W] -> [p, C, H, W], [n]"""
    surrogate, like = task.original, task.retain.batch([0])

    def features(images: Tensor) -> Tensor:
        return task.features(surrogate, like.replace(x=images))

    with evaluating(surrogate):
        points = torch.cat([features(part) for part in pictures.split(256)])
    centres = k_means(points, how.clusters, generator(how.seed, "clusters"))
    wrong = centres.roll(-1, 0)   # π(k) = k + 1
    rng = generator(how.seed, "drawing")
    delta = torch.cat([drawing(features, pictures, centre, how.bound, how.steps, rng) for centre in wrong])
    return delta, nearest_centre(points, centres)


def stored(pictures: Tensor, change: Tensor, bound: float) -> Tensor:
    """Perturbed images as bytes, no pixel further than the bound from the original.  [n, …] in [0, 1] -> [n, …] uint8"""
    low, high = (pictures - bound).clamp(0, 1) * 255, (pictures + bound).clamp(0, 1) * 255
    wanted = ((pictures + change).clamp(0, 1) * 255).round()
    # 1e-3 of a grey level: bytes divided by 255 and multiplied again are not whole
    return torch.minimum(torch.maximum(wanted, (low - 1e-3).ceil()), (high + 1e-3).floor()).to(torch.uint8)


def accuracy_after(task: Task, train: Split, unseen: Split, seed: int) -> float:
    """Accuracy on unseen images of a model trained by the recipe on `train`."""
    model = train_one(task, train, derive(seed, "protect"))[1]
    with evaluating(model):
        correct = rows(lambda batch: task.outputs(model, batch).argmax(-1) == batch.y, plain(unseen, 256), len(unseen))
    return float(correct.float().sum() / len(unseen))

"""Gaussian fine-tuning: teach random plausible targets for the forgotten inputs. Tarun, Chundawat, Mandal & Kankanhalli (2023),
"Deep Regression Unlearning", ICML 2023, arXiv:2210.08196.

    y'_i = min(max(μ + σ·z_i, y_min), y_max),  z_i ~ N(0, 1) drawn once for each i ∈ F
    L(θ) = E_{(x,y) ∈ R ∪ F'} ℓ(θ; x, y),      F' = {(x_i, y'_i)}

F forget set, R retain set, ℓ the family's training loss, μ, σ, y_min, y_max mean, standard deviation, least and largest target of
the training set R ∪ F, per horizon; z_i is shared by the horizons of an example.
Needs:    forget, retain.     Updates: every trainable parameter.
Cost:     one forward/backward on R ∪ F per epoch.
Limits:   a training set with one target teaches that target. Without steps it is the original.
Fails by: teaching the mean of all targets (the best answer to random ones), wherever a retrained model would extrapolate to.
Deviations: targets are clipped to the range of the training targets, so that none is impossible (a negative age). `random_label`
          draws other targets anew at every step and weighs F and R equally; here they are drawn once and weighed by size.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.families.regression import RegressionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import concat
from lethe.train.loop import Loop, Term


@config
class GaussianFinetune:
    """Options of Gaussian fine-tuning."""

    lr: Positive = 1e-3                # Adam                                                [official code]
    epochs: Positive = 5.0             # passes over R ∪ F                                   [ours, digits; official 1]
    batch_size: Count = 64             # examples per step                                   [ours, digits; official 256]
    optimiser: Optimiser = "adam"      # update rule                                         [official code]
    weight_decay: NonNegative = 0.0    # pull towards 0                                      [official code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [official code: none]


def gaussian_targets(train: Tensor, z: Tensor) -> Tensor:
    """μ + σ·z clipped to the range of the training targets.  [N] or [N, h], [n] -> [n] or [n, h]

    gaussian_targets([0, 2], [0.5, −3]) == [1.5, 0]: μ = 1, σ = 1; 1 − 3 = −2 is cut to 0.
    """
    z = z.view(-1, *[1] * (train.dim() - 1))
    drawn = train.mean(0) + z * train.std(0, correction=0)
    return drawn.clamp(train.amin(0), train.amax(0))


@method(needs={"forget", "retain"}, uses={"nll", "targets"}, mechanism="relabel")
def run(cfg: GaussianFinetune, task: RegressionTask, loop: Loop) -> Outcome:
    model = loop.start()
    true = torch.cat([task.retain.columns["y"], task.forget.columns["y"]])
    z = torch.randn(len(task.forget), generator=loop.generator("gaussian targets"))
    other = replace(task.forget, columns={**task.forget.columns, "y": gaussian_targets(true, z)})
    train = concat([task.retain, other], "train")
    loop.minimise(model, {"train": Term(train, task.nll)}, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser=cfg.optimiser, weight_decay=cfg.weight_decay, clip=cfg.clip)
    return loop.finish(model)

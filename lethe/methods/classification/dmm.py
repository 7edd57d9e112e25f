"""DMM, datamodel matching: predict what a retrained model would answer, then fine-tune to that answer. Georgiev, Rinberg, Park,
Garg, Ilyas, Madry & Neel (2024), arXiv:2410.23232.

    f̂(x) = f_0(x) + μ · J(x)·v,     v = (H + λ)⁻¹ Σ_{i∈F} ∇ℓ_i / |R|
    L(θ) = E_{x∈F} ‖f_θ(x) − f̂(x)‖²  +  E_{x∈R_s} ‖f_θ(x) − f̂(x)‖²

F forget, R retain set, R_s a random part of R of `retain_multiplier`·|F| examples, f logits, f_0 those of the original, J their
Jacobian at θ_0, H EK-FAC over R (`lethe.maths.influence`), λ its damping, μ multiplier. J(x)·v is the sum over F of all records'
effects on all logits of x, taken at once as one directional derivative; no matrix of attributions is ever made.
Needs:    forget, retain, original; holdout to calibrate μ.     Updates: every trainable parameter.
Cost:     four passes over R with gradients for H, one directional derivative per target, then steps on F and R_s.
Limits:   μ = 0 keeps the original. For ridge regression f̂ at μ = 1 is what retraining predicts, to rounding (tests of the core).
Fails by: the first order. Networks that fit F are far from retrained ones, and the prediction that ranks well is far too large:
          without calibration (μ = 1) it ruins them. A whole class needs its own μ: holdout, where the class is, calibrates it
          far too low.
Deviations: EK-FAC in place of TRAK with soft thresholds, or of datamodels from thousands of trained models; μ is calibrated: the
          least one at which the mean loss of f̂ on F reaches the original's on holdout, as that of unseen data.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.maths.influence import curvature, linear_shift, removal_step
from lethe.maths.losses import cross_entropy
from lethe.train.loop import Loop, Term
from lethe.train.terms import Loss

GRID = torch.logspace(-3, 0.5, 141).tolist()   # multipliers that the calibration tries


@config
class DMM:
    """Options of datamodel matching."""

    multiplier: NonNegative | None = None   # μ; null: calibrated on holdout, 1 without      [paper: 1; ours]
    damping: Positive = 0.1            # λ as a share of H's mean eigenvalue                  [usual; ours, digits]
    retain_multiplier: Positive = 10.0 # |R_s| / |F|                                          [ours, digits; official 3]
    lr: Positive = 5e-4                # Adam, falling linearly                               [official code]
    epochs: Positive = 20.0            # passes over R_s                                      [ours, digits; official 5]
    batch_size: Count = 64             # examples of each term per step                       [ours; official 512]
    clip: Positive | None = None       # largest gradient norm; null: none                    [official code: none]


def calibrated(before: Tensor, shift: Tensor, labels: Tensor, unseen: float) -> float:
    """The least μ of the grid at which the mean loss of before + μ·shift reaches `unseen`; the one nearest to it if none does.

    [n, K], [n, K], [n] -> μ. calibrated([[0, 0]], [[−1, 1]], [0], ln(1 + e^0.2)) ≈ 0.1: the margin must fall to −0.2.
    """
    means = [float(cross_entropy(before + mu * shift, labels).mean()) for mu in GRID]
    reached = [mu for mu, mean in zip(GRID, means, strict=True) if mean >= unseen]
    nearest: float = min(zip(GRID, means, strict=True), key=lambda pair: abs(pair[1] - unseen))[0]
    return float(reached[0]) if reached else nearest


@method(needs={"forget", "retain", "original", "holdout?"}, uses={"labels", "nll", "outputs"}, mechanism="distil")
def run(cfg: DMM, task: ClassificationTask, loop: Loop) -> Outcome:
    original = task.original.to(loop.settings.device)
    count = min(len(task.retain), max(1, round(cfg.retain_multiplier * len(task.forget))))
    order = torch.randperm(len(task.retain), generator=loop.generator("dmm", "sample"))
    part = task.retain.subset(order[:count].numpy(), "retain")
    at = curvature(original, lambda: loop.drawn(task.retain, 128, "dmm"), task.outputs, cfg.damping, loop.seed)
    step = removal_step(original, at, len(task.retain), loop.drawn(task.forget, 128, "dmm"), task.nll)

    def predicted(split: Split) -> tuple[Tensor, Tensor]:
        """f_0 and J·v of every example.  [n, K], [n, K]"""
        return logits_of(task, loop, original, split), linear_shift(original, step, loop.drawn(split, 128, "dmm"), task.outputs)

    before, shift = predicted(task.forget)
    mu = cfg.multiplier
    if mu is None and task.has("holdout"):
        unseen = cross_entropy(logits_of(task, loop, original, task.holdout), task.holdout.columns["y"].to(before.device)).mean()
        mu = calibrated(before, shift, task.forget.columns["y"].to(before.device), float(unseen))
        loop.notes.append(f"multiplier {mu:.3g} calibrated on holdout")
    mu = 1.0 if mu is None else mu
    kept, kept_shift = predicted(part)

    def match(table: Tensor) -> Loss:
        def loss(m: nn.Module, batch: Batch) -> Tensor:
            return (task.outputs(m, batch) - table[batch.index.to(table.device)]).square().sum(1)

        return loss

    model = loop.start()
    terms = {"retain": Term(part, match(kept + mu * kept_shift)), "forget": Term(task.forget, match(before + mu * shift))}
    loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser="adam", schedule="linear",
                  clip=cfg.clip)
    return loop.finish(model)


def logits_of(task: ClassificationTask, loop: Loop, model: nn.Module, split: Split) -> Tensor:
    """Logits of every example, in eval mode.  [n, K]"""
    with evaluating(model):
        return torch.cat([task.outputs(model, batch) for batch in loop.drawn(split, 256, "dmm")])

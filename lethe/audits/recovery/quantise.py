"""Quantise: does rounding the weights bring the forget set back? Zhang et al. 2024, arXiv:2410.16454.

    recovered = max over a ∈ {nothing, fp16, bf16, int8, int4, nf4, awq4} of the mean score of a(M) on F
    RR = (recovered − s(M)) / (s(original) − s(M)),     the excess over retrained models is the evidence's gap
    int b:  ŵ = Δ·round(w/Δ), Δ = max|w| / (2^{b−1} − 1) over each group of weights of one output; NF4: Dettmers et al. 2023;
    awq:  Q(W·s)/s with activation scales s chosen on retained examples (Lin et al. 2023, arXiv:2306.00978)

Weights are rounded and nothing else: an unlearning step that moves weights by less than Δ/2 falls back into the old bin,
and the original's weights return. `quantise_same_codes` is that share: weights whose 4-bit code is the original's.
Needs:    forget; retain for the activation scales.     Cost: seven copies of the model, a pass over F for each.
Limits:   attention caches and activations stay in full precision.
Finds:    digits CNN without class 3 (35 k weights, n(F)=106, one model each, 8 retrained: 0.00 after every rounding). Moved
          inside its 4-bit bins until it answers 0.00: 1.00 after int4, and 0.00 after nf4 and awq4, whose bins lie
          elsewhere: the battery must hold the very grid that was aimed at. Sign-gradient ascent with a retain term, steps
          of 1e-4 to 1e-3: 86 to 89 % of the codes are the original's, and still no more than 0.02 comes back; on a
          network this small the published failure did not appear.
Deviations: the published runs quantise linear layers of language models with their kernels; here every matrix and every
          convolution, computed in floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.modules import evaluating
from lethe.core.passes import drawn
from lethe.core.registry import Metric, audit
from lethe.judge.battery import battery, best_of
from lethe.judge.panel import Panel
from lethe.maths.quantise import calibrated, cast, equal_codes, mapped, matrices, nearest, normal_float
from lethe.pools.subject import Subject


@config
class Quantise:
    """Options of the quantisation attack."""

    group: Count = 64          # weights that share a scale; smaller is finer                 [usual: 64 or 128]
    retained: Count = 500      # retained examples on which utility is measured, at most      [ours] [changes the detail]
    calibration: Count = 128   # retained examples that set the activation scales, at most    [Lin et al. 2023]


@audit(
    metrics={
        "quantise_recovered": Metric("mean score on the forget set after the best of seven roundings of the weights",
                                     aspect="recovery"),
        "quantise_ratio": Metric("share of the lost score that comes back", (0.0, math.inf), "lower", aspect="recovery"),
        "quantise_same_codes": Metric("share of weights with the original's 4-bit code", better="lower", aspect="recovery"),
    },
    uses={"outputs", "weights"},
    needs={"forget"},
    depth="standard",
    blind="It rounds weights in the usual ways; an attacker may choose his own grid, or search for one.",
)
def measure(cfg: Quantise, subject: Subject, panel: Panel) -> list[Value]:
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "fp16": partial(cast, dtype=torch.float16),
        "bf16": partial(cast, dtype=torch.bfloat16),
        "int8": partial(nearest, bits=8, group=cfg.group),
        "int4": partial(nearest, bits=4, group=cfg.group),
        "nf4": partial(normal_float, group=cfg.group),
    }
    model = subject.model.to(subject.device)
    attacks: dict[str, Callable[[], nn.Module]] = {
        name: partial(mapped, model, change) for name, change in changes.items()}
    if panel.task.has("retain"):
        attacks["awq4"] = lambda: calibrated(model, lambda twin: _calibrate(cfg, twin, subject, panel), 4, cfg.group)
    values = best_of("quantise", battery(subject, panel, attacks, cfg.retained), panel)
    same = _same_codes(cfg, model, panel)
    return values if same is None else [*values, Value("quantise_same_codes", same)]


def _calibrate(cfg: Quantise, model: nn.Module, subject: Subject, panel: Panel) -> None:
    with evaluating(model):
        for batch in drawn(panel.task, panel.part(panel.task.retain, cfg.calibration), subject.batch_size, ("calibration",),
                           seed=panel.seed, device=subject.device):
            panel.task.outputs(model, batch)


def _same_codes(cfg: Quantise, model: nn.Module, panel: Panel) -> float | None:
    """None when the original is unknown or built otherwise."""
    if not panel.task.has("original"):
        return None
    mine, before = matrices(model), matrices(panel.original.model)
    if {k: p.shape for k, p in mine.items()} != {k: p.shape for k, p in before.items()}:
        return None
    same = sum(equal_codes(p.cpu(), before[name].cpu(), 4, cfg.group) for name, p in mine.items())
    return same / sum(p.numel() for p in mine.values())

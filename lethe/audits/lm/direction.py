"""Direction ablation: is the knowledge hidden behind one direction? Łucki et al. 2024, arXiv:2409.18025.

    d_l = mean over forget tokens of h_l(model) − h_l(original),   d̂_l = d_l / ‖d_l‖,    h ← h − (h·d̂_l) d̂_l
    RR  = (s(ablated) − s(model)) / (s(original) − s(model)),   s = mean probability per token of the forget answers

h_l the residual stream after block l; means are taken where answer tokens are predicted. The direction is removed from one
block at a time, and from all; the best is reported. A method that pushes hidden states aside (RMU) leaves the rest in
place, and without the push the answer is back.
Judged is `direction_recovered`, s at its best, none included, against retrained models treated alike.
Needs:    forget, original of the same architecture.     Cost: L + 3 forward passes over the forget set.
Limits:   white-box, with the original at hand. One direction per layer: what several hide is not found.
Finds:    on a Llama of 40 k weights, 8 answers: RR 0.76 for states pushed aside in one block (RMU), 0.02 after gradient
          difference, 0.00 for two retrained models.
Deviations: the official code leaves out the first 40 tokens and outlying ones; here only answer positions count.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.families.language import LanguageTask
from lethe.core.modules import evaluating
from lethe.core.passes import plain, rows
from lethe.core.registry import Metric, audit
from lethe.core.split import Batch, Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class Direction:
    """Options of direction ablation."""

    examples: Count = 200     # forget answers at most; a seeded sample                     [ours]
    batch_size: Count = 32    # answers per pass                                            [ours] [changes nothing: memory]


def without(stream: Tensor, unit: Tensor) -> Tensor:
    """The part of each state that is orthogonal to a unit vector.  [..., d], [d] -> [..., d]"""
    return stream - (stream @ unit).unsqueeze(-1) * unit


@audit(
    metrics={
        "direction_recovered": Metric("probability per token of forget answers after the best ablation", aspect="recovery"),
        "direction_gain": Metric("that probability minus the model's own", better="lower", aspect="recovery"),
        "direction_ratio": Metric("gain over the original's lead (recovery ratio)", (0.0, float("inf")), "lower",
                                  asks="an original that knows more", aspect="recovery"),
    },
    uses={"nll", "require_alike", "rewriting", "states"},
    needs={"forget", "original"},
    depth="standard",
    blind="One direction per layer: knowledge hidden behind several, or in the weights of the blocks, is not found.",
)
def measure(cfg: Direction, subject: Subject, panel: Panel) -> list[Value]:
    task, part = LanguageTask.of(panel.task), panel.part(panel.task.forget, cfg.examples)
    task.require_alike(panel.original.model, subject.model, "direction")
    before = panel.once(("direction", cfg), lambda: middle(cfg, panel.original, part))
    shift = middle(cfg, subject, part) - before                                                       # [L, d]
    units = shift / shift.norm(dim=1, keepdim=True).clamp(min=1e-12)
    layers = [layer for layer in range(len(shift)) if float(shift[layer].norm()) > 1e-6]
    own = answered(cfg, subject, part)
    found = {"none": own}
    for name, some in [*((str(layer), [layer]) for layer in layers), *([("all", layers)] if len(layers) > 1 else [])]:
        with task.rewriting(subject.model, lambda layer, h: without(h, units[layer].to(h)), some):
            found[name] = answered(cfg, subject, part)
    best = max(found, key=lambda name: float(found[name].mean()))
    value, gain = mean_value("direction_recovered", found[best]), found[best] - own
    detail = {"best": best, "probability": {name: float(row.mean()) for name, row in found.items()}}
    values = [replace(value, detail=detail), mean_value("direction_gain", gain)]
    lead = float(panel.original.numbers(part, "score").mean() - own.mean())
    return values + ([Value("direction_ratio", float(gain.mean()) / lead, n=len(gain))] if lead > 0 else [])


def middle(cfg: Direction, subject: Subject, split: Split) -> Tensor:
    """Mean state after every block over the predicting positions.  -> [L, d]"""
    total: Any = 0.0
    count = 0
    with evaluating(subject.model):
        for batch in plain(split, cfg.batch_size, device=subject.device, sweep=True):
            states = LanguageTask.of(subject.task).states(subject.model.to(subject.device), batch)
            total, count = total + states.double().sum(1), count + states.shape[1]
    mean: Tensor = (total / count).to(torch.float32)
    return mean


def answered(cfg: Direction, subject: Subject, split: Split) -> np.ndarray:
    """Probability per token of each answer, hooks included.  -> [n]"""
    def probability(batch: Batch) -> Tensor:
        return (-subject.task.nll(subject.model, batch)).exp().double()

    with evaluating(subject.model):
        return rows(probability, plain(split, cfg.batch_size, device=subject.device, sweep=True), len(split)).numpy()

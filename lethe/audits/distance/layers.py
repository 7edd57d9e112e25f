"""Layers: how far each layer's weights moved from the original. Golatkar et al. 2020, arXiv:1911.04933, compare weights.

    d_l = ‖W_l − W_l⁰‖_F / ‖W_l⁰‖_F,  l a module with its weight and bias;      d over all weights together likewise
    untouched = share of the weights that are bit for bit those of the original

W⁰ the original's weights. A model with untouched = 1 has forgotten nothing, no matter what it answers (a guard may stand before
it); one with d_l = 0 everywhere but the head has hidden it there. Retrained models start from other seeds, so their d only
says that weights of different networks are not comparable, and nothing is judged.
Needs:    original.     Cost: one pass over the weights.
Limits:   distance of weights implies nothing about distance of functions: a permutation of units moves all and changes none.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class Layers:
    """Options of the layers audit."""

    kept: Count = 60      # layers that the detail names at most, those that moved most [ours: fits a report] [changes the detail]


def moved(here: nn.Module, there: nn.Module) -> dict[str, tuple[float, float, int, int]]:
    """module -> (squared change, squared norm in `there`, equal weights, weights), of parameters both have in one shape."""
    before = dict(there.named_parameters())
    found: dict[str, tuple[float, float, int, int]] = {}
    for name, value in here.named_parameters():
        if name not in before or before[name].shape != value.shape:
            continue
        a, b = value.detach().cpu(), before[name].detach().cpu()
        more = (float((a.double() - b.double()).pow(2).sum()), float(b.double().pow(2).sum()), int((a == b).sum()), a.numel())
        layer = name.rpartition(".")[0] or name
        old = found.get(layer, (0.0, 0.0, 0, 0))
        found[layer] = (old[0] + more[0], old[1] + more[1], old[2] + more[2], old[3] + more[3])
    return found


def relative(change: float, norm: float) -> float:
    """√(change / norm); 0 where nothing changed, ∞ where zeros did."""
    return 0.0 if change == 0 else math.sqrt(change / norm) if norm else math.inf


@audit(
    metrics={
        "weight_distance": Metric("‖θ − θ⁰‖ / ‖θ⁰‖ over all weights: how far they moved", (0.0, math.inf), "higher"),
        "weight_distance_layer": Metric("the largest relative change of one layer", (0.0, math.inf), "higher"),
        "weights_untouched": Metric("share of weights equal to the original's, bit for bit", better="lower"),
    },
    uses={"observe", "weights"},
    needs={"original"},
    blind="How far weights moved does not tell what they know.",
)
def measure(cfg: Layers, subject: Subject, panel: Panel) -> list[Value]:
    with torch.no_grad():
        found = moved(subject.model, panel.original.model)
    if not found:
        return []
    change, norm, equal, count = (sum(row[i] for row in found.values()) for i in range(4))
    layers = {name: relative(row[0], row[1]) for name, row in found.items()}
    top = sorted(layers, key=lambda name: -layers[name])[: cfg.kept]
    detail = {"layers": {name: layers[name] for name in layers if name in top}, "most": top[0]}
    return [Value("weight_distance", relative(change, norm), n=int(count), detail=detail),
            Value("weight_distance_layer", layers[top[0]], n=len(layers), detail={"layer": top[0]}),
            Value("weights_untouched", equal / count, n=int(count))]

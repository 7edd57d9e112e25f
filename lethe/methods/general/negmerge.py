"""NegMerge: fine-tune several times on the forget set, and subtract from the weights the changes that all of them share. Kim,
Han & Choe (2025), "NegMerge: Sign-Consensual Weight Merging for Machine Unlearning", ICML 2025, arXiv:2410.05583.

    τ_i = θ_i − θ_0,   θ_i fine-tuned on F with the i-th learning rate
    τ = mean_i τ_i where all τ_i have the same sign, else 0;       θ = θ_0 − λ · τ

F forget set, R retain set, θ_0 the original weights, λ scale: the largest of λ_max·2^(−j), j = 0…`halvings`, that keeps the score
on R above `keep` times the original's.
Needs:    forget; retain unless `scale` is set.     Updates: every trainable parameter.
Cost:     one fine-tuning on F per learning rate, then one pass over R per λ tried.
Limits:   λ = 0 is the original; one learning rate is task negation (Ilharco et al. 2023, arXiv:2212.04089).
Fails by: an original that has fitted F: its gradients on F are small, τ is short and points to what is left to learn.
Deviations: the paper merges models of many settings (up to 30) of a pre-trained CLIP; here they differ by learning rate. The
          grid of λ is geometric, because the length of τ varies by orders of magnitude with how well F is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Natural, NonNegative, Positive, config
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.task import Task
from lethe.train.loop import Loop, Term


@config
class NegMerge:
    """Options of NegMerge."""

    rates: tuple[Positive, ...] = (1e-3, 3e-3, 1e-2)   # SGD learning rates, one candidate each   [ours; paper: many settings]
    epochs: Positive = 5.0             # passes over F per candidate                         [ours]
    scale: NonNegative | None = None   # λ; null: searched on R                              [paper: searched]
    largest: Positive = 64.0           # λ_max of the search                                 [ours: fitted models need it]
    halvings: Natural = 10             # λ tried below λ_max                                 [ours]
    keep: Fraction = 0.97              # least share of the original's score on R  [ours: the watchdog's; task arithmetic 0.95]
    batch_size: Count = 64             # examples per step                                   [ours]


def consensus(vectors: Sequence[Tensor]) -> Tensor:
    """The mean where all have the same sign, 0 elsewhere.  m × [any shape] -> same

    consensus([[1, 1, 0], [3, −1, 2]]) == [2, 0, 0].
    """
    stacked = torch.stack(list(vectors))
    agree = (stacked > 0).all(0) | (stacked < 0).all(0)
    return torch.where(agree, stacked.mean(0), torch.zeros_like(stacked[0]))


def retained_score(task: Task, loop: Loop, model: nn.Module) -> float:
    """Mean score on R, in eval mode."""
    total = 0.0
    with evaluating(model):
        for batch in loop.drawn(task.retain, 256, "negmerge"):
            total += float(task.observe(model, batch)["score"].sum())
    return total / len(task.retain)


def chosen(task: Task, loop: Loop, model: nn.Module, start: Mapping[str, Tensor], merged: Mapping[str, Tensor],
           cfg: NegMerge) -> float:
    """The largest λ of the grid that keeps the score on R, else 0; the model is left there."""
    before = retained_score(task, loop, model)
    floor = cfg.keep * before if before > 0 else before / max(cfg.keep, 1e-12)
    for j in range(cfg.halvings + 1):
        scale = cfg.largest * 2.0**-j
        loop.assign(model, {name: start[name] - scale * tau for name, tau in merged.items()})
        if retained_score(task, loop, model) >= floor:
            return scale
    loop.assign(model, start)
    return 0.0


@method(needs={"forget", "retain?"}, uses={"nll", "observe"}, mechanism="merge", instead={"retain": "scale=1"})
def run(cfg: NegMerge, task: Task, loop: Loop) -> Outcome:
    if cfg.scale is None:
        task.retain.require_examples("Set method.scale.")   # refused before any work when it is missing
    vectors: list[dict[str, Tensor]] = []
    for rate in cfg.rates:
        model = loop.start()
        start = {name: p.detach().clone() for name, p in loop.selected(model).items()}
        with loop.damage():   # a direction, not a result
            loop.minimise(model, {"forget": Term(task.forget, task.nll)}, lr=rate, epochs=cfg.epochs,
                          batch_size=cfg.batch_size, optimiser="sgd")
        vectors.append({name: p.detach() - start[name] for name, p in loop.selected(model).items()})
    merged = {name: consensus([vector[name] for vector in vectors]) for name in start}
    model = loop.start()
    if cfg.scale is not None:
        loop.assign(model, {name: start[name] - cfg.scale * tau for name, tau in merged.items()})
    else:
        scale = chosen(task, loop, model, start, merged, cfg)
        loop.notes.append(f"scale {scale:g} was chosen on retained data" if scale else
                          "no scale kept the score on retained data, so nothing was forgotten; lower method.largest or keep")
    return loop.finish(model)

"""Residual knowledge: does a small change of a forgotten input bring its label back? Hsu, Niroula, He, Brugere, Lecue & Chen
(2025), NeurIPS 2025, arXiv:2601.22359.

    k_M(x) = share of N points x' with ‖x' − x‖₂ = τ to which M assigns the label y of x
    r = Σ_{x∈F} k_M(x) / Σ_{x∈F} mean_j k_j(x),  j over the retrained models;     r > 1: residual knowledge
    share = part of F with k_M(x) > mean_j k_j(x)
    reached = part of F for which gradient steps on M itself find an x' with ‖x' − x‖₂ ≤ τ that M calls y

τ is a share of the typical distance of forgotten inputs from their mean (median), so it does not depend on units. All models
see the same random points. A model can be talked out of an answer at x alone; a retrained one does not know x's surroundings
either. `residual_reached` is held against the yardstick, the rest is shown.
Needs:    forget; references for r and share.     Cost: N + 2·`steps` passes over `limit` examples of F.
Limits:   where retrained models have k = 0 everywhere, as they mostly have of a forgotten class, r is left out.
Deviations: a ratio of sums over F instead of one ratio per example, whose denominator is often 0. Points on the sphere, where
          nearly all of a ball lies in many dimensions. The paper's own radii are in units of its images.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.config import Count, Positive, config
from lethe.core.evidence import Value
from lethe.core.modules import evaluating
from lethe.core.registry import Metric, audit
from lethe.core.seeds import generator
from lethe.core.split import Batch
from lethe.core.task import Task
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.neighbours import continuous, on_sphere, recognised
from lethe.pools.subject import Subject


@config
class Residual:
    """Options of the residual knowledge audit."""

    radius: Positive = 0.1    # τ, share of the median distance of forgotten inputs from their mean             [ours]
    points: Count = 20        # N, random neighbours of each example                                            [ours]
    steps: Count = 10         # of the search for a neighbour that is recognised                                [ours]
    limit: Count = 1000       # forget examples at most, a seeded sample                                        [ours]


def ratio(mine: np.ndarray, others: np.ndarray) -> float | None:
    """r; None where no retrained model recognises anything.  [n], [R, n]

    ratio((1, ½), ((½, ½), (0, ½))) == 1.5 / 0.75 == 2.
    """
    below = float(others.mean(0).sum())
    return float(mine.sum()) / below if below > 0 else None


def surroundings(cfg: Residual, panel: Panel) -> tuple[Batch, float]:
    """The forgotten examples with inputs as floats, and τ."""
    split = panel.part(panel.task.forget, cfg.limit)
    whole = continuous(split.batch(range(len(split))))
    return whole, cfg.radius * float((whole.x - whole.x.mean(0)).flatten(1).norm(dim=1).median())


def hit(subject: Subject, batch: Batch) -> np.ndarray:
    """Which inputs get their label from what answers (model or guard).  -> [n] of 0 and 1"""
    return (subject.task.outputs(subject.answering, batch).argmax(-1) == batch.y).double().cpu().numpy()


def pieces(subject: Subject, whole: Batch) -> list[Batch]:
    return [piece.to(subject.device) for piece in whole.pieces(-(-len(whole) // subject.batch_size))]


def shares(cfg: Residual, subject: Subject, panel: Panel) -> np.ndarray:
    """k_M of each forgotten example.  -> [n]"""
    whole, radius = surroundings(cfg, panel)
    found = np.zeros(len(whole))
    model = subject.answering.to(subject.device)
    with evaluating(model):
        for k in range(cfg.points):
            near = on_sphere(whole.x, radius, generator(panel.seed, "residual", k))
            found += np.concatenate([hit(subject, piece) for piece in pieces(subject, whole.replace(x=near))])
    return found / cfg.points


def searched(cfg: Residual, subject: Subject, panel: Panel) -> np.ndarray:
    """For which forgotten examples a recognised neighbour was found.  -> [n] of 0 and 1"""
    whole, radius = surroundings(cfg, panel)
    task, model = panel.task, subject.answering.to(subject.device)   # a search by gradients, through a guard, too
    found = []
    with evaluating(model):
        for piece in pieces(subject, whole):
            near = recognised(partial(_nll, task, model, piece), piece.x, piece.x, radius, cfg.steps)
            found.append(hit(subject, piece.replace(x=near)))
    return np.concatenate(found)


def _nll(task: Task, model: nn.Module, batch: Batch, x: Tensor) -> Tensor:
    return task.nll(model, batch.replace(x=x))


@audit(
    metrics={
        "residual_reached": Metric("share of forgotten examples with a neighbour that receives their label", aspect="recovery"),
        "residual_neighbours": Metric("share of random neighbours of forgotten examples that receive their label",
                                      better="lower", aspect="recovery"),
        "residual_knowledge": Metric("that share over the same of retrained models", (0.0, math.inf), "lower",
                                     aspect="recovery", asks="retrained models that recognise some of the neighbours"),
        "residual_share": Metric("share of forgotten examples recognised nearby more often than by retrained models",
                                 better="lower", aspect="recovery", asks="retrained models"),
    },
    uses={"inputs", "labels", "nll", "outputs"},
    needs={"forget", "references?"},
    depth="deep",
    blind="It looks close to the forgotten examples as they were; what needs a larger change of the input is not found.",
)
def measure(cfg: Residual, subject: Subject, panel: Panel) -> list[Value]:
    if not continues(panel):
        return []
    mine = _kept(cfg, subject, panel)
    values = [mean_value("residual_reached", searched(cfg, subject, panel)), mean_value("residual_neighbours", mine)]
    if not panel.references:
        return values
    others = np.stack([_kept(cfg, reference, panel) for reference in panel.references])
    r = ratio(mine, others)
    values += [Value("residual_knowledge", r, n=len(mine))] if r is not None else []
    return [*values, mean_value("residual_share", (mine > others.mean(0)).astype(float))]


def _kept(cfg: Residual, subject: Subject, panel: Panel) -> np.ndarray:
    return panel.once(("residual", cfg, subject), lambda: shares(cfg, subject, panel))


def continues(panel: Panel) -> bool:
    """Whether inputs are continuous: tokens have no neighbours."""
    x = panel.task.forget.columns.get("x")
    return x is not None and (x.is_floating_point() or x.dtype == torch.uint8)

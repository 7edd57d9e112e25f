"""LOFT: project out of the features the directions in which the forgotten examples lie, without training. Fang, Tao, Liu, Xiao,
Ye, Sun & Hu (2026), "Machine Unlearning in Low-Dimensional Feature Subspace", arXiv:2601.22456.

    min_U J_r² + J_f²,   J_r = 1 − tr(UᵀAU),   J_f = tr(UᵀBU),   UᵀU = I,   A = M_r/tr M_r,   B = M_f/tr M_f
    head weight W ← W·UUᵀ

M_r, M_f second moments of the features before the head over R and F [d, d], U [d, s]. A stationary U spans eigenvectors of
J_r·A − J_f·B, so the top s eigenvectors of A − w·B over a grid of w and s hold the minimum. Of the grid the pair is taken with
the best score on a part of R among those whose score on a part of F is at most `target`.
moments = raw      E[z zᵀ], the mean taken along
moments = centred  covariances, as published
Needs:    forget, retain, original.     Updates: the weight of the head.
Cost:     one forward pass over R and F and one eigenproblem [d, d] per w: seconds.
Limits:   s = d gives P = I and the model itself. The forget set is only used through M_f and the choice from the grid.
Fails by: the features still hold everything: a new head on them knows the class again (suppression of outputs). With few classes
          a projection costs retained accuracy. Single examples: M_f ≈ M_r leaves nothing to separate.
Deviations: eigenvectors instead of Riemannian descent; raw moments by default; the choice from a grid by score, as the objective
          is a poor guide to it; P is folded into W.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Split
from lethe.errors import ModelError
from lethe.train.loop import Loop

WEIGHTS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@config
class LOFT:
    """Options of LOFT."""

    moments: Literal["raw", "centred"] = "raw"   # what M is                                 [ours, digits CNN; paper centred]
    sizes: Count = 16                  # how many s are tried, evenly up to d                [ours]
    target: Fraction = 0.02            # largest score on F that counts as forgotten         [ours]
    looked_at: Count = 1024            # examples of R and of F that choose from the grid    [ours]


def moment(features: Tensor, centred: bool) -> Tensor:
    """E[z zᵀ]/tr in float64.  [n, d] -> [d, d]; of (1, 0) and (0, 1): ½·I; centred: ½·(1, −1; −1, 1)"""
    z = features.double()
    z = z - z.mean(0) if centred else z
    m = z.T @ z
    return m / m.diagonal().sum().clamp(min=1e-300)


def projection(retain: Tensor, forget: Tensor, weight: float, size: int) -> Tensor:
    """UUᵀ of the top `size` eigenvectors of A − w·B.  [d, d], [d, d] -> [d, d]

    A = diag(0.6, 0.4, 0), B = diag(0, 0, 1), s = 2: diag(1, 1, 0).
    """
    _, vectors = torch.linalg.eigh(retain - weight * forget)
    u = vectors[:, -size:]
    projector: Tensor = u @ u.T
    return projector


@method(needs={"forget", "retain", "original"}, uses={"features", "head", "labels"}, mechanism="closed form")
def run(cfg: LOFT, task: ClassificationTask, loop: Loop) -> Outcome:
    model = loop.start()
    name: str = task.head
    head = model.get_submodule(name)
    if not isinstance(head, nn.Linear):
        raise ModelError(f"the head {name!r} is a {type(head).__name__}, and LOFT folds its projection into a linear layer; "
                         "nothing was changed. Name it: model.head.")
    (z_r, y_r), (z_f, y_f) = (entering(task, loop, split) for split in (task.retain, task.forget))
    a, b = moment(z_r, cfg.moments == "centred"), moment(z_f, cfg.moments == "centred")
    w = head.weight.detach().double().cpu()
    bias = head.bias.detach().double().cpu() if head.bias is not None else torch.zeros(len(w), dtype=torch.float64)
    d = w.shape[1]
    sizes = sorted({max(1, round(d * part / cfg.sizes)) for part in range(1, cfg.sizes + 1)})
    some = torch.randperm(len(z_r), generator=loop.generator("loft", "retain"))[: cfg.looked_at]
    gone = torch.randperm(len(z_f), generator=loop.generator("loft", "forget"))[: cfg.looked_at]
    best: tuple[tuple[bool, float], float, int, Tensor] | None = None
    for weight in WEIGHTS:
        for size in sizes:
            p = projection(a, b, weight, size)
            weights = w @ p
            forget, retain = (float(((z @ weights.T + bias).argmax(1) == y).double().mean())
                              for z, y in ((z_f[gone], y_f[gone]), (z_r[some], y_r[some])))
            rank = (forget <= cfg.target, retain if forget <= cfg.target else -forget)
            if best is None or rank > best[0]:
                best = (rank, weight, size, weights)
    assert best is not None
    (enough, _), weight, size, weights = best
    loop.assign(model, {f"{name}.weight": weights})
    loop.cost.examples += len(z_r) + len(z_f)
    loop.notes.append(f"{size} of {d} dimensions kept at w = {weight:g}; the features before the head still hold all they held")
    if not enough:
        loop.notes.append(f"no projection brought the score on the forget set to {cfg.target:g} or below")
    return loop.finish(model)


def entering(task: ClassificationTask, loop: Loop, split: Split) -> tuple[Tensor, Tensor]:
    """What enters the head of the original, in float64, and the labels.  -> [n, d], [n]"""
    original = task.original.to(loop.settings.device)
    with evaluating(original):
        found = [(task.features(original, batch).double().cpu(), batch.y.cpu())
                 for batch in loop.drawn(split, 256, "loft")]
    return torch.cat([z for z, _ in found]), torch.cat([y for _, y in found])

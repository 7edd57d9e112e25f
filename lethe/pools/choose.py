"""Forget sets that only a trained model can name: the hardest and easiest to erase, the most memorised, duplicated, influential.

    forget: {worst_case: {count: 60}}                     in a request; {worst_case: …, label: 3} chooses within class 3
    harder = lethe.choose(task, "worst_case", count=60)   the same task with this forget set

worst_case  min_w Σ_i w_i ℓ_i(θ_u(w)) + γ‖w‖² over 0 ≤ w ≤ 1, Σ w_i = m; θ_u(w) = sign-SGD steps from θ_0 on Σ (1 − w_i) ℓ_i.
            The derivative of a sign is zero, so the gradient in w is ℓ_i + 2γw_i. Every round starts again at θ_0; w is projected
            by bisection; the m largest are taken. Fan, Liu, Hero & Liu (2024), arXiv:2403.07362.
            Its examples stay right without being seen: worst for whoever wants them wrong, harmless for privacy (`memorised`).
easiest     the same with the other sign: examples whose loss rises most.
memorised   E ℓ_i over models that were not trained on i, less E ℓ_i over those that were; models on complementary random halves.
            Feldman & Zhang (2020), arXiv:2008.03703. The worst set for privacy.
duplicated  cosine of the centred features to the nearest other example: what stays when only one twin is deleted.
influential self-influence ∇ℓ_iᵀ(H + λ)⁻¹∇ℓ_i with EK-FAC: the closed-form shadow of `memorised`, without training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, NonNegative, Positive, build, config, plain
from lethe.core.modules import evaluating
from lethe.core.seeds import derive, generator, numpy_generator
from lethe.core.split import Split, concat
from lethe.core.task import Task
from lethe.errors import DataError, NeedsUnmet, RequestError, unknown_name
from lethe.maths import influence as attribution
from lethe.pools.pool import train_pool

BATCH = 256
Scored = tuple[np.ndarray, dict[str, Any]]   # [n] scores, facts


@config
class WorstCase:
    """Options of the bi-level selection, of `worst_case` and `easiest`."""

    count: Count                  # m, examples to choose
    rounds: Count = 8             # upper rounds at most                                     [official code: 2–20]
    steps: Count = 10             # sign-SGD steps of a round                                [official code: 2–10]
    lr: Positive = 1e-3           # length of a sign step                                    [official code]
    weight_lr: Positive = 0.3     # η, step of w                                             [ours, digits; official 0.01]
    gamma: NonNegative = 0.0      # γ, weight of ‖w‖²                                        [official code]
    settled: Fraction = 0.95      # stop when two rounds share this part of the m chosen     [ours]
    batch_size: Count = 64        # examples per sign step                                   [ours]
    seed: int = 0


@config
class Memorised:
    """Options of `memorised`."""

    count: Count                  # examples to choose
    models: Count = 8             # trained on halves; an even number; more rank better      [ours]
    seed: int = 0


@config
class Duplicated:
    """Options of `duplicated`."""

    count: Count                  # examples to choose


@config
class Influential:
    """Options of `influential`."""

    count: Count                  # examples to choose
    damping: Positive = 0.1       # λ as a share of the mean eigenvalue                      [usual]


@dataclass(frozen=True)
class Chosen:
    """Which examples, why (higher was chosen first), and how it went."""

    mask: np.ndarray       # [n] bool
    scores: np.ndarray     # [n]
    facts: dict[str, Any]


def choose(task: Task, name: str, among: Any = None, **options: Any) -> Task:
    """The same task with another forget set, which its model chooses: `lethe.choose(task, "worst_case", count=60)`.

    The training set is what the task forgets and retains. among: a selection (`lethe.where(label=3)`) to choose within.
    """
    train = concat([task.splits[key] for key in ("forget", "retain") if task.has(key)], "train")
    chosen = chosen_by(task, train, name, options, None if among is None else among.mask(train))
    return task.replaced(task.original, forget=train.subset(chosen.mask, "forget"), retain=train.subset(~chosen.mask, "retain"))


def asked(selection: Any) -> tuple[str, Any, dict[str, Any]] | None:
    """(name, checked options, the other conditions) of a selection that needs the model, else None."""
    if not isinstance(selection, Mapping) or not set(selection) & set(SELECTORS):
        return None
    names = [key for key in selection if key in SELECTORS]
    if len(names) > 1 or not isinstance(selection[names[0]], Mapping):
        raise RequestError(f"forget: {dict(selection)} names {' and '.join(names)}; nothing was started. Give one of them, with "
                           "its options: {" + names[0] + ": {count: 60}}.")
    rest = {key: value for key, value in selection.items() if key != names[0]}
    return names[0], build(SELECTORS[names[0]][0], selection[names[0]]), rest


def chosen_by(
    task: Task, train: Split, name: str, options: Any, among: np.ndarray | None = None, cache: Path | None = None
) -> Chosen:
    """What the selector chooses of `train`, the whole training set of the task's model; `among` [n] bool: only of these."""
    if name not in SELECTORS:
        raise unknown_name("selector", name, SELECTORS)
    kind, score = SELECTORS[name]
    cfg = build(kind, options) if isinstance(options, Mapping) else options
    allowed = np.ones(len(train), dtype=bool) if among is None else np.asarray(among)
    require_room(cfg.count, len(train), int(allowed.sum()))
    scores, facts = score(task, train, cfg, allowed, cache)
    order = np.argsort(-np.where(allowed, scores, -np.inf), kind="stable")[: cfg.count]
    return Chosen(np.isin(np.arange(len(train)), order), scores, {"selector": name, **plain(cfg), **facts})


def require_room(count: int, n: int, allowed: int) -> None:
    """DataError when there are not `count` examples to choose, or none would be retained."""
    if count > allowed or count >= n:
        raise DataError(f"count = {count} of {allowed} examples to choose from ({n} in all) leaves nothing to choose or nothing "
                        "to retain. Ask for fewer.")


# -- the selectors: (task, train, cfg, allowed, cache) -> scores [n], facts --------------------------------------------


def worst_case(task: Task, train: Split, cfg: WorstCase, allowed: np.ndarray, cache: Path | None, sign: float = 1.0
               ) -> Scored:
    """w after the last round; equal w are ordered by the loss of that round."""
    free = torch.from_numpy(allowed)
    weights = torch.where(free, cfg.count / int(free.sum()), 0.0).double()
    top, overlap, done = np.zeros(0, dtype=int), 0.0, 0
    for done in range(1, cfg.rounds + 1):
        loss = after_unlearning(task, train, weights, cfg, done)
        moved = weights - cfg.weight_lr * (sign * loss + 2 * cfg.gamma * weights)
        weights = torch.zeros_like(weights)
        weights[free] = capped_simplex(moved[free], cfg.count)
        scores = (weights - 1e-9 * (sign * loss).argsort().argsort() / len(loss)).numpy()   # ties: the loss decides
        new = np.argsort(-np.where(allowed, scores, -np.inf), kind="stable")[: cfg.count]
        overlap, top = len(np.intersect1d(top, new)) / cfg.count, new
        if overlap >= cfg.settled:
            break
    return scores, {"rounds": done, "overlap of the last two": round(overlap, 3)}


def easiest(task: Task, train: Split, cfg: WorstCase, allowed: np.ndarray, cache: Path | None) -> Scored:
    """As `worst_case`, for the examples whose loss rises."""
    return worst_case(task, train, cfg, allowed, cache, sign=-1.0)


def memorised(task: Task, train: Split, cfg: Memorised, allowed: np.ndarray, cache: Path | None) -> Scored:
    """Mean loss of models that never saw the example, less that of models that did."""
    if not task.has("recipe"):
        raise NeedsUnmet("memorised trains models on halves of the data, and the task has no recipe, so nothing was started. "
                         "Give recipe, or choose influential.")
    inside = halves(len(train), cfg.models, cfg.seed)
    pool = train_pool(task, split_of=lambda k: train.subset(inside[k], "half"), count=len(inside),
                      seed=derive(cfg.seed, "memorised"), cache=cache)
    loss = np.stack([losses(task, model, train).numpy() for model in pool.models])
    return np.where(inside, 0, loss).sum(0) / (~inside).sum(0) - np.where(inside, loss, 0).sum(0) / inside.sum(0), {
        "models": len(inside)}


def duplicated(task: Task, train: Split, cfg: Duplicated, allowed: np.ndarray, cache: Path | None
               ) -> Scored:
    """Cosine to the nearest other example."""
    with evaluating(task.original):
        rows = [(b.index, task.features(task.original, task.draw(b, generator(0, "features", k), False)).float().flatten(1))
                for k, b in enumerate(train.batches(BATCH))]
    x = torch.cat([f for _, f in rows])[torch.argsort(torch.cat([i for i, _ in rows]))]
    x = nn.functional.normalize(x - x.mean(0), dim=1)
    nearest = []
    for start in range(0, len(x), BATCH):
        cosine = x[start : start + BATCH] @ x.T
        cosine[torch.arange(len(cosine)), start + torch.arange(len(cosine))] = -2.0
        nearest.append(cosine.max(1).values)
    scores = torch.cat(nearest).double().numpy()
    return scores, {"cosine of the last chosen": round(float(np.sort(scores[allowed])[-cfg.count]), 4)}


def influential(task: Task, train: Split, cfg: Influential, allowed: np.ndarray, cache: Path | None
                ) -> Scored:
    """EK-FAC self-influence at the original."""
    if task.family not in ("classification", "regression"):
        raise NeedsUnmet(f"influential is made for classification and regression, the task is {task.family}; nothing was "
                         "started. Use worst_case, memorised or duplicated.")
    model = task.original
    at = attribution.curvature(model, lambda: train.batches(BATCH), task.outputs, cfg.damping)
    return attribution.self_influence(model, at, len(train), train.batches(BATCH), task.nll).double().numpy(), {}


SELECTORS: dict[str, tuple[type, Callable[..., Scored]]] = {
    "worst_case": (WorstCase, worst_case), "easiest": (WorstCase, easiest), "memorised": (Memorised, memorised),
    "duplicated": (Duplicated, duplicated), "influential": (Influential, influential),
}


# -- parts -------------------------------------------------------------------------------------------------------------


def after_unlearning(task: Task, train: Split, weights: Tensor, cfg: WorstCase, number: int) -> Tensor:
    """ℓ_i(θ_u(w)) after `steps` sign-SGD steps on Σ (1 − w_i) ℓ_i from the original, dropout off, batch norm frozen.  -> [n]"""
    model = task.copy_of_original().eval()
    params = list(task.trainable(model).values())
    for step in range(cfg.steps):
        rng = generator(cfg.seed, "worst case", number, step)
        batch = train.batch(torch.randperm(len(train), generator=rng)[: cfg.batch_size])
        objective = ((1 - weights[batch.index]) * task.nll(model, task.draw(batch, rng, False))).mean()
        gradients = torch.autograd.grad(objective, params, allow_unused=True)
        with torch.no_grad():
            for p, gradient in zip(params, gradients, strict=True):
                if gradient is not None:
                    p.sub_(cfg.lr * gradient.sign())
    return losses(task, model, train)


def losses(task: Task, model: nn.Module, split: Split) -> Tensor:
    """The family's training loss of every example, in eval mode, without augmentation.  -> [n] float64"""
    found = torch.zeros(len(split), dtype=torch.float64)
    with evaluating(model):
        for number, batch in enumerate(split.sweep(BATCH)):
            found[batch.index] = task.nll(model, task.draw(batch, generator(0, "losses", number), False)).double()
    return found


def capped_simplex(v: Tensor, total: float) -> Tensor:
    """The nearest point to v with 0 ≤ w ≤ 1 and Σ w = total: clip(v − μ, 0, 1), μ by bisection.  [n] -> [n]

    capped_simplex([2, 1, 0], 1) == [1, 0, 0]; capped_simplex([.5, .5, 0], 1) == [.5, .5, 0].
    """
    low, high = v.min() - 1, v.max()
    for _ in range(100):
        middle = (low + high) / 2
        if (v - middle).clamp(0, 1).sum() > total:
            low = middle
        else:
            high = middle
    return (v - (low + high) / 2).clamp(0, 1)


def halves(n: int, count: int, seed: int) -> np.ndarray:
    """Random halves, every second one the complement of the one before, so that each example is in half of them.  [count, n]"""
    rows = []
    for pair in range(-(-count // 2)):
        order = numpy_generator(seed, "halves", pair).permutation(n)
        half = np.isin(np.arange(n), order[: n // 2])
        rows += [half, ~half]
    return np.stack(rows)

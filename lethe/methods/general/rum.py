"""RUM, refined-unlearning meta-algorithm: divide the forget set by how strongly it is memorised, and unlearn each part by the
method that suits it. Zhao, Kurmanji, Barbulescu, Triantafillou & Triantafillou (2024), "What makes unlearning hard and what to
do about it", NeurIPS 2024, arXiv:2406.01257; the proxy of the score: the same group, arXiv:2410.16516.

    F = S_1 ∪ S_2 ∪ S_3 by score, low to high;   θ_i = U_i(θ_{i−1}, S_i, R ∪ S_{i+1} ∪ … ∪ S_3)
    score = refit       ½·[D(θ_0 ‖ θ') + D(θ' ‖ θ_0)] on x,  θ' = θ_0 trained on holdout (on R where there is none)
    score = memorised   E ℓ(x) over models that were not trained on x, less E ℓ(x) over those that were
    score = influential self-influence of x at θ_0 (classes, regression)

F forget set, R retain set, U_i registered methods with options of their own ("none" leaves a part as is: what is not memorised
is answered alike by a model that never saw it), D the family's divergence. Parts still to come are among the retained data.
Needs:    forget, original; what the named methods need; recipe for score = memorised.     Updates: what these methods update.
Cost:     the scores (refit: `refit_epochs` passes; memorised: 8 models, each on half of the data) and the methods on their parts.
Limits:   one part with all of F is its method alone; "none" for every part is the original.
Fails by: a score that ranks wrongly: what lands in a part that is left alone is not forgotten. The watchdog sees each part alone.
Deviations: the parts are shares of F by rank; the paper makes F of three groups with very low, middling and very high scores. The
          refit trains on holdout for a given number of passes. Which weights may move (`where`) is decided once, on all of F.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lethe.core.config import Count, Fraction, Positive, build, config
from lethe.core.modules import evaluating
from lethe.core.operations import unlimited
from lethe.core.outcome import Outcome
from lethe.core.registry import Method, method
from lethe.core.split import concat
from lethe.core.task import Task
from lethe.core.view import missing
from lethe.errors import NeedsUnmet, OutOfRange
from lethe.pools.choose import selector
from lethe.train.inner import Named, Turn, charge, known, settled, successive, within
from lethe.train.loop import Loop, Modifiers, Term

NONE = "none"


@config
class RUM:
    """Options of RUM."""

    score: Literal["refit", "memorised", "influential"] = "refit"   # see above              [arXiv:2410.16516; paper: memorised]
    share_low: Fraction = 0.34         # share of F with the lowest scores [only with mid=gradient_ascent] [paper: a third]
    share_high: Fraction = 0.33        # share of F with the highest scores                  [paper: a third]
    low: Named = NONE  # method for the lowest; none: left unchanged [e.g. gradient_ascent] [official code]
    mid: Named = "finetune"            # method for those between [e.g. gradient_ascent] [official code]
    high: Named = "neggrad_plus"       # method for the highest [e.g. gradient_ascent] [ours; official code: salun]
    refit_lr: Positive = 1e-2          # SGD, of the refit                                   [ours]
    refit_epochs: Count = 5            # passes of the refit                                 [ours]
    batch_size: Count = 64             # examples per step of the refit                      [ours]


def parted(scores: Tensor, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of the lowest, the middle and the highest scores.  [n] -> [l], [m], [h]

    parted([3, 1, 2, 0], ¼, ½) == [3], [1], [0, 2]: one of four, then one, then two.
    """
    order = scores.argsort(stable=True)
    first = round(low * len(order))
    last = max(len(order) - round(high * len(order)), first)
    return order[:first].sort().values, order[first:last].sort().values, order[last:].sort().values


def scored(cfg: RUM, task: Task, loop: Loop) -> Tensor:
    """How much of each forgotten example is memorised; higher is more.  -> [n] float64"""
    if cfg.score == "refit":
        return refit(cfg, task, loop)
    found = selector(cfg.score)
    train = concat([task.forget, task.retain], "train")
    n = len(task.forget)
    # what a selector asks of the family is its own business
    every = torch.ones(len(train), dtype=torch.bool).numpy()
    scores, _ = found.score(build(found.config, {"count": n}), unlimited(task), train, every, None)
    return torch.from_numpy(scores[:n]).double()


def refit(cfg: RUM, task: Task, loop: Loop) -> Tensor:
    """How far the answers move when the original goes on training without F."""
    unseen = task.holdout if task.has("holdout") else task.retain
    own = within(loop, task, "refit", Modifiers())
    moved = own.start()
    own.minimise(moved, {"refit": Term(unseen, task.nll)}, lr=cfg.refit_lr, epochs=cfg.refit_epochs, batch_size=cfg.batch_size,
                 optimiser="sgd")
    charge(loop, own)
    loop.notes.append(f"memorisation was estimated from how predictions move when training continues on {unseen.name} data")
    original, scores = task.original.to(loop.settings.device), torch.zeros(len(task.forget), dtype=torch.float64)
    with evaluating(original), evaluating(moved):
        for batch in loop.drawn(task.forget, 256, "rum"):
            before, after = task.outputs(original, batch), task.outputs(moved, batch)
            both = task.divergence(before, after, batch) + task.divergence(after, before, batch)
            scores[batch.index.cpu()] = (both / 2).double().cpu()
    return scores


@method(needs={"forget", "original", "retain?", "holdout?", "recipe?"},
        uses={"divergence", "nll", "outputs"}, mechanism="search",
        instead={"retain": "mid=gradient_ascent high=gradient_ascent"})
def run(cfg: RUM, task: Task, loop: Loop) -> Outcome:
    if cfg.share_low + cfg.share_high > 1:
        raise OutOfRange(f"method.share_low + method.share_high = {cfg.share_low + cfg.share_high:g} is more than all of the "
                         "forget set; nothing was started. Set shares that sum to 1 at most.")
    asked = {name: getattr(cfg, name) for name in ("low", "mid", "high")}
    wanted: dict[str, tuple[Method | None, Any]] = {
        name: known(name, value) if value != NONE else (None, None) for name, value in asked.items()}
    for record, _ in wanted.values():
        for need in task.lacks(record.needs) if record else []:
            raise NeedsUnmet(missing(need))
    modifiers = settled(task, loop)
    parts = parted(scored(cfg, task, loop), cfg.share_low, cfg.share_high)
    turns = [Turn(name, *wanted[name], task.forget.subset(part.numpy(), "forget"))
             for name, part in zip(wanted, parts, strict=True)]
    return successive(turns, task, loop, modifiers)

"""Relearning: what an attacker gets back who fine-tunes a model on a part of what was forgotten.

    F₁ and F₂, a random halving of F: a copy of the model learns F₁ by Adam, and F₂, which it never learns, is scored on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lethe.core.adaptable import fold, unadapted
from lethe.core.modules import codes, evaluating, freeze_batch_norm
from lethe.core.passes import drawn, rows
from lethe.core.seeds import derive, generator, numpy_generator, reseed
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject
from lethe.train.loop import Loop, Settings
from lethe.train.modifiers.where.lora import Lora
from lethe.train.optimise import optimiser
from lethe.train.order import Order

How = Literal["full", "lora"]


@dataclass(frozen=True)
class Attack:
    """Steps of Adam on the whole model, or on adapters of a rank. lr None: the recipe's if that is Adam(W), else 1e-3."""

    steps: int
    lr: float | None
    batch_size: int
    how: How = "full"
    rank: int = 8


@dataclass(frozen=True)
class Curve:
    """scores [T, n₂] of F₂ at the checkpoints; flops of one step, forward and backward, as torch counts them (0: not asked)."""

    steps: tuple[int, ...]
    scores: np.ndarray
    flops: int = 0


def checkpoints(steps: int) -> list[int]:
    """0, 1, 2, 4, … and `steps`."""
    return sorted({0, steps, *(2**i for i in range(steps.bit_length()) if 2**i < steps)})


def relearn_time(steps: Sequence[int], curve: np.ndarray, target: float) -> float:
    """First step at which the curve reaches the target, interpolated; last step + 1 when it never does.  [T], [T]"""
    reached = np.flatnonzero(curve >= target)
    if not len(reached):
        return steps[-1] + 1.0
    i = int(reached[0])
    if i == 0:
        return 0.0
    share = (target - curve[i - 1]) / (curve[i] - curve[i - 1])
    return steps[i - 1] + float(share) * (steps[i] - steps[i - 1])


def halves(panel: Panel) -> tuple[Split, Split]:
    """F₁ and F₂, the same for all subjects."""
    def draw() -> tuple[Split, Split]:
        forget = panel.task.forget
        order = numpy_generator(panel.seed, "relearn halves").permutation(len(forget))
        middle = len(forget) // 2
        return forget.subset(np.sort(order[:middle]), "relearn"), forget.subset(np.sort(order[middle:]), "relearn test")

    return panel.once(("relearn", "halves"), draw)


def relearned(attack: Attack, subject: Subject, panel: Panel) -> Curve:
    """The curve of F₁, made once per model."""
    return panel.once(("relearn", subject, attack), lambda: learned(attack, subject, panel, halves(panel)[0], True))


def learned(attack: Attack, subject: Subject, panel: Panel, split: Split, counted: bool = False) -> Curve:
    """Scores on F₂ at each checkpoint while a copy learns a split; counted: with the work of a step."""
    task, tested = panel.task, halves(panel)[1]
    model = subject.copy().to(subject.device)
    params = _moving(attack, model, panel)
    adam = optimiser("adam", params, attack.lr or _rate(task), 0.0, 0.0)
    order = Order(split, attack.batch_size, panel.seed, "relearn")
    points, found, flops = checkpoints(attack.steps), [], 0
    for step in range(attack.steps + 1):
        if step in points:
            found.append(_scores(model, tested, subject, panel))
        if step == attack.steps:
            break
        reseed(derive(panel.seed, "relearn", step), subject.device)   # dropout
        model.train()
        freeze_batch_norm(model)
        batch = task.draw(split.batch(order.draw(step)), generator(panel.seed, "relearn", step), False).to(subject.device)
        adam.zero_grad()
        with FlopCounterMode(display=False) if counted and not step else nullcontext() as counter:
            task.nll(model, batch).mean().backward()
        flops = flops if counter is None else counter.get_total_flops()
        adam.step()
    return Curve(tuple(points), np.stack(found), flops)


def _moving(attack: Attack, model: nn.Module, panel: Panel) -> dict[str, nn.Parameter]:
    """What the attacker trains: everything, or adapters that are put on the model. One that it came with is folded in first; on a
    quantised base it is trained itself."""
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    came = {name: p for name, p in own.items() if "lora_" in name}
    if attack.how == "full" or (came and codes(dict(model.named_parameters()))):
        return own if attack.how == "full" else came
    if came:
        unadapted(fold(model))
    loop = Loop(panel.task, Settings(seed=panel.seed))
    params = Lora(rank=attack.rank).select(model, panel.task, loop).params
    for name, p in model.named_parameters():
        p.requires_grad_(name in params)
    return dict(params)


def _rate(task: Task) -> float:
    """An attacker trains as the owner did."""
    return task.recipe.lr if task.has("recipe") and task.recipe.optimiser in ("adam", "adamw") else 1e-3


def _scores(model: nn.Module, split: Split, subject: Subject, panel: Panel) -> np.ndarray:
    """The family's score of each example.  [n]"""
    batches = drawn(panel.task, split, subject.batch_size, ("relearn test",), seed=panel.seed, device=subject.device)
    with evaluating(model):
        return rows(lambda batch: panel.task.observe(model, batch)["score"].double(), batches, len(split)).numpy()

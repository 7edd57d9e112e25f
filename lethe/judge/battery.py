"""Recovery: attacks that change a copy of the model and ask the forget set again. What the audits of this kind share.

    s(a) = mean score on the forget set after attack a;     recovered = max over the battery of s(a), a = nothing included
    RR = (recovered − s(nothing)) / (s(original) − s(nothing)),   excess ER = RR − RR of retrained models (the evidence's gap)

The level s is judged, not the gain: the untouched original gains nothing and must be detected. RR is left out where
the original scores less than `GAP` above the model: there is nothing to recover.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from lethe.core.evidence import Value
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject

GAP = 0.05   # of the score
UNCHANGED = "nothing"


@dataclass(frozen=True)
class Attempt:
    """What one attack gave: the score of each forget example [n], and the mean on a sample of retained ones."""

    attack: str
    forget: np.ndarray
    retain: float | None


def attempt(attack: str, model: nn.Module, subject: Subject, panel: Panel, retained: int) -> Attempt:
    """The scores of an attacked copy of the subject's model."""
    after, task = subject.like(model, attack), panel.task
    retain = float(after.numbers(panel.part(task.retain, retained), "score").mean()) if task.has("retain") else None
    return Attempt(attack, after.numbers(task.forget, "score"), retain)


def battery(
    subject: Subject, panel: Panel, attacks: Mapping[str, Callable[[], nn.Module]], retained: int
) -> list[Attempt]:
    """What answers before any attack, then what each attack makes of the weights."""
    attempts = [attempt(attack, make(), subject, panel, retained) for attack, make in attacks.items()]
    return [attempt(UNCHANGED, subject.answering, subject, panel, retained), *attempts]


def best_of(name: str, attempts: list[Attempt], panel: Panel) -> list[Value]:
    """`{name}_recovered`, and `{name}_ratio` where there is something to recover; the detail has every attack."""
    best = max(attempts, key=lambda a: float(a.forget.mean()))
    table = {a.attack: {"forget": float(a.forget.mean()), "retain": a.retain} for a in attempts}
    top = mean_value(f"{name}_recovered", best.forget)
    values = [Value(top.metric, top.value, top.low, top.high, top.n, top.per_sample, {"best": best.attack, "attacks": table})]
    ratio = recovery_ratio(top.value, float(attempts[0].forget.mean()), panel)
    return values if ratio is None else [*values, Value(f"{name}_ratio", ratio, n=top.n)]


def recovery_ratio(after: float, before: float, panel: Panel) -> float | None:
    """RR, or None where the original is unknown or scores no more than `GAP` above the model."""
    if not panel.task.has("original"):
        return None
    lost = float(panel.original.numbers(panel.task.forget, "score").mean()) - before
    return (after - before) / lost if lost > GAP else None

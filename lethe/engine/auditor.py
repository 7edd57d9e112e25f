"""The auditor: looks at models once, asks every audit, holds each value against the yardstick, and gives verdicts.

An audit measures *one* model (`Subject`) beside a `Panel` (the original and the retrained references). The auditor calls
it for the unlearned model, for the original (positive control), and for every reference against the other references
(the yardstick and negative control), and turns the values into Evidence.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.data import Split
from lethe.core.evidence import INSIDE, NO_POWER, NO_YARDSTICK, OUTSIDE, SHOWN, Evidence, Value, Yardstick
from lethe.core.modules import copied, evaluating
from lethe.core.registry import Audit, Metric
from lethe.core.seeds import generator
from lethe.core.statistics import holm, prediction_interval, prediction_p
from lethe.core.task import Task
from lethe.engine.loop import Loop, Settings

DEPTHS = ("quick", "standard", "deep")
ENOUGH = 3   # references below which no prediction interval is given


@dataclass(eq=False)
class Subject:
    """One model under examination. `seen(split)` is everything the audits need from one forward pass, kept."""

    name: str
    model: nn.Module
    task: Task
    seconds: float | None = None     # wall time of making it, where known
    device: str = "cpu"
    batch_size: int = 256
    settings: Settings = field(default_factory=Settings)
    _seen: dict[int, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    def seen(self, split: Split) -> dict[str, Tensor]:
        """`task.observe` over the whole split, in its order: key -> [n, …] on the CPU. One pass per (model, split)."""
        if id(split) not in self._seen:
            parts: list[tuple[Tensor, dict[str, Tensor]]] = []
            model = self.model.to(self.device)
            with evaluating(model):
                for number, batch in enumerate(split.batches(self.batch_size)):
                    drawn = self.task.draw(batch, generator(0, "audit", split.name, number), False).to(self.device)
                    parts.append((batch.index, {k: v.cpu() for k, v in self.task.observe(model, drawn).items()}))
            order = torch.argsort(torch.cat([index for index, _ in parts]))
            self._seen[id(split)] = {key: _stack([seen[key] for _, seen in parts])[order] for key in parts[0][1]}
            self._kept = [*getattr(self, "_kept", []), split]   # id() stays unique while the split lives
        return self._seen[id(split)]

    def copy(self) -> nn.Module:
        """A trainable copy, for attacks that change the model."""
        return copied(self.model, trainable=True).requires_grad_(True)

    def loop(self, seed: int = 0) -> Loop:
        """A loop for attacks that train."""
        return Loop(self.task, replace(self.settings, seed=seed, max_steps=None, max_minutes=None))


@dataclass(eq=False)
class Panel:
    """What a subject is seen beside. When the subject is a reference, it is not in `references`."""

    task: Task
    original: Subject
    references: list[Subject]
    depth: str = "standard"
    seed: int = 0
    published: dict[str, Any] = field(default_factory=dict)   # audits keep what is the same for all subjects here

    def once(self, key: str, make: Any) -> Any:
        """`make()` computed once for all subjects."""
        if key not in self.published:
            self.published[key] = make()
        return self.published[key]


def examine(
    task: Task,
    subjects: Sequence[Subject],
    original: Subject,
    references: Sequence[Subject],
    audits: Sequence[tuple[Audit, Any]],
    depth: str = "standard",
    seed: int = 0,
    progress: Any = lambda text: None,
) -> dict[str, list[Evidence]]:
    """Evidence for every subject by its name; the original and the references are examined too, under their names.

    audits  (Audit, config) pairs; those that the task or the references cannot serve are skipped (see `applicable`)
    """
    shared: dict[str, Any] = {}

    def panel(without: Subject | None) -> Panel:
        return Panel(task, original, [r for r in references if r is not without], depth, seed, shared)

    evidence: dict[str, list[Evidence]] = {s.name: [] for s in [*subjects, original, *references]}
    for audit, cfg in audits:
        progress(audit.name)
        yard: dict[str, list[float]] = {}
        own: dict[str, list[Value]] = {}
        for reference in references:
            own[reference.name] = audit.measure(cfg, reference, panel(reference))
            for value in own[reference.name]:
                yard.setdefault(value.metric, []).append(value.value)
        before = {v.metric: v.value for v in audit.measure(cfg, original, panel(None))}
        for subject in [*subjects, original, *references]:
            began = time.perf_counter()
            values = own.get(subject.name) or audit.measure(cfg, subject, panel(None))
            seconds = time.perf_counter() - began
            for value in values:
                others = list(yard.get(value.metric, []))
                if subject.name in own:   # leave one out: a reference is held against the others
                    others.remove(value.value)
                evidence[subject.name].append(judge(audit, value, others, before.get(value.metric), seconds))
    return {name: corrected(items) for name, items in evidence.items()}


def judge(audit: Audit, value: Value, others: list[float], before: float | None, seconds: float = 0.0) -> Evidence:
    """Hold one value against the same value of retrained models, and say what follows.

    not enough power: the original itself lies inside the yardstick, so the audit could not have told the difference.
    """
    metric = metric_of(audit, value.metric)
    yardstick, p, verdict, side, outside_before = None, None, SHOWN, "", None
    if len(others) >= ENOUGH:
        mean, sd, low, high = prediction_interval(others)
        yardstick = Yardstick(mean, sd, len(others), low, high, tuple(others))
    if metric.better == "match" or metric.tier == "utility":
        if yardstick is None:
            verdict = NO_YARDSTICK
        else:
            p = prediction_p(value.value, others)
            low_ok, high_ok = value.value >= yardstick.low, value.value <= yardstick.high
            if metric.better == "higher":   # utility: more than retrained is no fault
                high_ok = True
            if metric.better == "lower":
                low_ok = True
            side = "−" if not low_ok else "+" if not high_ok else ""
            outside_before = None if before is None else not yardstick.low <= before <= yardstick.high
            verdict = OUTSIDE if side else INSIDE
            if verdict == INSIDE and metric.tier == "forgetting" and outside_before is False:
                verdict = NO_POWER
    return Evidence(
        audit.name, value.metric, value.value, value.low, value.high, value.n, metric.definition, metric.range, metric.better,
        metric.tier, metric.version, verdict, side, p, None, yardstick, before, outside_before, seconds, audit.blind,
        value.per_sample, value.detail,
    )


def corrected(items: list[Evidence]) -> list[Evidence]:
    """Holm's correction over the judged values of each tier; an 'outside' that does not survive it becomes 'inside'."""
    result = list(items)
    for tier in {e.tier for e in items}:
        places = [i for i, e in enumerate(items) if e.tier == tier and e.p is not None]
        for i, p in zip(places, holm([items[i].p or 0.0 for i in places]), strict=True):
            e = items[i]
            verdict, side = e.verdict, e.side
            if verdict == OUTSIDE and p > 0.05:
                powerless = e.tier == "forgetting" and e.original_outside is False
                verdict, side = (NO_POWER if powerless else INSIDE), ""
            result[i] = replace(e, p_holm=p, verdict=verdict, side=side)
    return result


def metric_of(audit: Audit, name: str) -> Metric:
    """The declaration of a metric; patterns such as 'accuracy_*' serve groups."""
    if name in audit.metrics:
        return audit.metrics[name]
    for pattern, metric in audit.metrics.items():
        if fnmatch.fnmatch(name, pattern):
            return metric
    raise KeyError(f"audit {audit.name} reports {name!r} without declaring it; declare it in metrics=")


def applicable(audit: Audit, task: Task, references: int, depth: str) -> str:
    """Empty when the audit can run; otherwise why not, for the report's list of what was not tested."""
    if "any" not in audit.families and task.family not in audit.families:
        return f"made for {', '.join(sorted(audit.families))}"
    if DEPTHS.index(audit.depth) > DEPTHS.index(depth):
        return f"runs at depth {audit.depth}"
    for need in sorted(audit.needs):
        if need == "references":
            if references < ENOUGH:
                return f"needs at least {ENOUGH} retrained models"
        elif not need.endswith("?") and not task.has(need):
            return f"needs {need}"
    return ""


def _stack(parts: list[Tensor]) -> Tensor:
    """Concatenate along the first dimension, padding the second with zeros to the longest."""
    if parts[0].dim() > 1 and len({p.shape[1] for p in parts}) > 1:
        width = max(p.shape[1] for p in parts)
        parts = [torch.cat([p, p.new_zeros((len(p), width - p.shape[1], *p.shape[2:]))], 1) for p in parts]
    return torch.cat(parts)

"""The auditor: looks at models once, asks every audit, holds values against the yardstick, gives verdicts.

An audit measures *one* model (`Subject`) beside a `Panel` (the original and the retrained references). The auditor
calls it for the unlearned model, for the original (positive control), and for every reference against the other
references (the yardstick and negative control), and turns the values into Evidence.
"""

from __future__ import annotations

import fnmatch
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.data import Split
from lethe.core.evidence import INSIDE, NO_POWER, NO_YARDSTICK, OUTSIDE, SHOWN, Evidence, Value, Yardstick
from lethe.core.modules import copied, evaluating
from lethe.core.registry import Audit, Metric
from lethe.core.seeds import generator, numpy_generator
from lethe.core.statistics import holm, paired_p, prediction_interval, prediction_p, sampling_p
from lethe.core.task import Task

DEPTHS = ("quick", "standard", "deep")
ENOUGH = 3   # references below which no prediction interval is given
LEVEL = 0.05   # of the joint verdict on a model


@dataclass(eq=False)
class Subject:
    """One model under examination. `seen(split)` is everything the audits need from one forward pass, kept."""

    name: str
    model: nn.Module
    task: Task
    seconds: float | None = None     # wall time of making it, where known
    device: str = "cpu"
    batch_size: int = 256
    siblings: Sequence[Subject] = ()   # models made by the same procedure with other seeds
    _seen: dict[int, tuple[Split, dict[str, Tensor]]] = field(default_factory=dict, repr=False)   # by id of the split

    def seen(self, split: Split) -> dict[str, Tensor]:
        """`task.observe` over the whole split, in its order: key -> [n, …] on the CPU. One pass per (model, split)."""
        if id(split) not in self._seen:
            parts: list[tuple[Tensor, dict[str, Tensor]]] = []
            model = self.model.to(self.device)
            with evaluating(model):
                for number, batch in enumerate(split.sweep(self.batch_size)):
                    drawn = self.task.draw(batch, generator(0, "audit", split.name, number), False).to(self.device)
                    parts.append((batch.index, {k: v.cpu() for k, v in self.task.observe(model, drawn).items()}))
            order = torch.argsort(torch.cat([index for index, _ in parts]))
            self._seen[id(split)] = split, {k: _stack([seen[k] for _, seen in parts])[order] for k in parts[0][1]}
        return self._seen[id(split)][1]

    def numbers(self, split: Split, key: str) -> np.ndarray:
        """One column of `seen` as float64."""
        return self.seen(split)[key].double().numpy()

    def copy(self) -> nn.Module:
        """A trainable copy, for attacks that change the model."""
        return copied(self.model, trainable=True).requires_grad_(True)


@dataclass(eq=False)
class Panel:
    """What a subject is seen beside. When the subject is a reference, it is not in `references`."""

    task: Task
    original: Subject
    references: list[Subject]
    depth: str = "standard"
    seed: int = 0
    published: dict[str, Any] = field(default_factory=dict)   # audits keep what is the same for all subjects here
    retrained: bool = False                                   # whether the subject is itself one of the references

    def once(self, key: str, make: Any) -> Any:
        """`make()` computed once for all subjects."""
        if key not in self.published:
            self.published[key] = make()
        return self.published[key]

    def part(self, split: Split, limit: int) -> Split:
        """A seeded sample of at most `limit` examples, the same for all subjects."""
        if len(split) <= limit:
            return split

        def draw() -> Split:
            rng = numpy_generator(self.seed, "audit part", split.name, limit)
            return split.subset(np.sort(rng.permutation(len(split))[:limit]), split.name)

        return self.once(f"part {split.name} {limit}", draw)

    def ensembles(self, subject: Subject, count: int) -> tuple[list[Subject], list[Subject]]:
        """(`count` models made like the subject, itself included; `count` references that are not among them).

        For a reference the others are divided at random. Two empty lists when there are too few on either side.
        """
        mine, pool = [subject, *subject.siblings], list(self.references)
        if self.retrained:
            order = numpy_generator(self.seed, "ensembles", subject.name).permutation(len(pool))
            pool = [pool[i] for i in order]
            mine, pool = [subject, *pool[: count - 1]], pool[count - 1 :]
        return (mine[:count], pool[:count]) if min(len(mine), len(pool)) >= count else ([], [])

    def removed(self, split: Split) -> np.ndarray:
        """Which examples of `split` have a label that is to vanish: it is in the forget set and not retained.  [n]"""
        if not self._labelled or not self.task.has("retain"):
            return np.zeros(len(split), dtype=bool)
        gone = set(self.task.forget.columns["y"].tolist()) - set(self.task.retain.columns["y"].tolist())
        return np.isin(split.columns["y"].numpy(), list(gone))

    def unseen(self) -> np.ndarray:
        """Which holdout examples are like the forget set but never seen: those with a label that occurs in it.  [n]

        An attack that compares a forgotten class with holdout examples of other classes sees the class, not memory.
        """
        if not self._labelled:
            return np.ones(len(self.task.holdout), dtype=bool)
        return np.isin(self.task.holdout.columns["y"].numpy(), self.task.forget.columns["y"].unique().numpy())

    @property
    def _labelled(self) -> bool:
        """Whether examples have class labels."""
        y = self.task.forget.columns.get("y")
        return y is not None and y.dim() == 1 and not y.is_floating_point()


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
    everyone = [original, *references, *subjects]
    found: dict[str, list[Evidence]] = {s.name: [] for s in everyone}
    for audit, cfg in audits:
        progress(audit.name)
        values: dict[str, dict[str, Value]] = {}
        seconds = {}
        for subject in everyone:
            began = time.perf_counter()
            others = [r for r in references if r is not subject]
            panel = Panel(task, original, others, depth, seed, shared, retrained=len(others) < len(references))
            measured = audit.measure(cfg, subject, panel)
            values[subject.name] = {value.metric: value for value in measured}
            seconds[subject.name] = time.perf_counter() - began
        for subject in everyone:
            for metric, value in values[subject.name].items():
                yard = [values[r.name][metric] for r in references if r is not subject and metric in values[r.name]]
                before = values[original.name].get(metric)
                found[subject.name].append(judge(audit, value, yard, before, seconds[subject.name]))
    controls = corrected(found[original.name])
    outside = {(e.audit, e.metric): e.verdict == OUTSIDE for e in controls if e.p is not None}
    return {name: controlled(corrected(items), outside) for name, items in found.items()}


def judge(audit: Audit, value: Value, others: list[Value], before: Value | None, seconds: float = 0.0) -> Evidence:
    """Hold one value against the same value of retrained models.

    Two things make one retrained model differ from others: its seeds, and the finite sample it is measured on.
    p = max(p_seeds, p_sample): a value is outside only when neither explains it. p_seeds is Student's prediction for
    one more retrained model; where all references agree exactly it is 0 for any difference, and p_sample decides.
    Utility is one-sided: more than retraining has is no fault (p = 1). So is a distance, and it is judged by its
    logarithm: distances of retrained models are positive and skewed.
    """
    metric = metric_of(audit, value.metric)
    yardstick, p, verdict, side = None, None, SHOWN, ""
    numbers = [v.value for v in others if math.isfinite(v.value)]
    if len(numbers) >= ENOUGH:
        yardstick = Yardstick(float(np.mean(numbers)), float(np.std(numbers, ddof=1)), len(numbers),
                              *predicted(numbers, metric), tuple(numbers))
    if metric.better == "match" or metric.tier == "utility":
        if yardstick is None:
            verdict = NO_YARDSTICK
        else:
            gap = value.value - yardstick.mean
            below = metric.better == "lower" or metric.distance
            fine = (metric.better == "higher" and gap >= 0) or (below and gap <= 0)
            p = 1.0 if fine else difference_p(value, others, metric.distance)
            verdict = OUTSIDE if p <= LEVEL else INSIDE
            side = "" if verdict == INSIDE else "+" if gap > 0 else "−"
    return Evidence(
        audit.name, value.metric, value.value, value.low, value.high, value.n, metric.definition, metric.range,
        metric.better, metric.tier, metric.version, verdict, side, p, None, yardstick, before.value if before else None,
        None, seconds, value.per_sample, value.detail, metric.distance,
    )


def predicted(numbers: Sequence[float], metric: Metric) -> tuple[float, float]:
    """The 95 % prediction interval, of the logarithm for distances, within the metric's range."""
    if metric.distance and min(numbers) > 0:
        low, high = (math.exp(x) for x in prediction_interval([math.log(x) for x in numbers])[2:])
    else:
        low, high = prediction_interval(numbers)[2:]
    return max(low, min(metric.range[0], *numbers)), min(high, max(metric.range[1], *numbers))


def difference_p(value: Value, others: Sequence[Value], distance: bool = False) -> float:
    """max(p_seeds, p_sample) as in `judge`; 0 for NaN and infinity, which no retrained model has.

    p_sample pairs the model with the mean reference example by example where all values are means over the same
    examples; otherwise it is taken from the value's own interval.
    """
    numbers = [v.value for v in others if math.isfinite(v.value)]
    if not math.isfinite(value.value):
        return 0.0
    if distance and min(value.value, *numbers) > 0:
        seeds = prediction_p(math.log(value.value), [math.log(x) for x in numbers])
    else:
        seeds = prediction_p(value.value, numbers)
    rows = [row for v in [value, *others] if (row := _means(v)) is not None and len(row) == value.n]
    if len(rows) == 1 + len(others):
        return max(seeds, paired_p(rows[0] - np.mean(rows[1:], 0)))
    return max(seeds, sampling_p(value.value, numbers, value.low, value.high))


def _means(value: Value) -> np.ndarray | None:
    """The per-example values when the value is their mean."""
    if value.per_sample is None or not len(value.per_sample):
        return None
    row = np.asarray(value.per_sample, dtype=float)
    return row if math.isclose(float(row.mean()), value.value, rel_tol=1e-6, abs_tol=1e-9) else None


def corrected(items: list[Evidence]) -> list[Evidence]:
    """Holm's correction over the judged values of each tier, times the number of judged tiers; an 'outside' that does
    not survive it becomes 'inside'. So a retrained model is called outside anywhere with probability at most `LEVEL`."""
    result = list(items)
    tiers = {e.tier for e in items if e.p is not None}
    for tier in tiers:
        places = [i for i, e in enumerate(items) if e.tier == tier and e.p is not None]
        for i, alone in zip(places, holm([items[i].p or 0.0 for i in places]), strict=True):
            p = min(1.0, len(tiers) * alone)
            kept = items[i].verdict == OUTSIDE and p <= LEVEL
            side = items[i].side if kept else ""
            result[i] = replace(items[i], p_holm=p, verdict=OUTSIDE if kept else INSIDE, side=side)
    return result


def controlled(items: list[Evidence], outside: Mapping[tuple[str, str], bool]) -> list[Evidence]:
    """Not enough power: 'inside' counts for forgetting only where the positive control, the original, was found out.

    outside  (audit, metric) -> whether the original is outside, after Holm's correction
    """
    result = []
    for e in items:
        control = outside.get((e.audit, e.metric)) if e.p is not None else None
        powerless = e.tier == "forgetting" and e.verdict == INSIDE and not control
        result.append(replace(e, original_outside=control, verdict=NO_POWER if powerless else e.verdict))
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

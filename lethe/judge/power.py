"""Power: how much of the forget set could have been left in training before these tests see it? The dose and its response.

    M_d,k(x) = original(x) for d·|F| random examples of F,  reference_k(x) everywhere else         d = 10, 25, 50 %
    detected: M_d,k is outside in a test of forgetting, held against the other references at the level of the whole audit
    smallest: the smallest d at which, as at every larger one, at least 4 of 5 of the M_d,k are detected

A model that answers as the original on a part of F and as a retrained one elsewhere is put together from answers that are there:
nothing is trained, and no new pass is made. So only audits of answers are asked (accuracy, loss, membership, distances of
predictions); those of weights, features and recovery come on top in the real audit.
Cost:     each of these audits once more for at most 8 references at 3 doses.
Limits:   what records that were left in teach about the others is not in it, nor that a part of F that stays may be the easiest
          one to find or to miss; it is the mean over random parts. With fewer than 4 references nothing can be said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.evidence import OUTSIDE, RETRAINED, Evidence, Value
from lethe.core.registry import Audit
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.errors import LetheError
from lethe.judge.band import ENOUGH
from lethe.judge.calibration import Family
from lethe.judge.panel import Panel
from lethe.judge.verdict import corrected, judge, judged
from lethe.pools.subject import Subject

DOSES = (0.10, 0.25, 0.50)   # shares of the forget set left in
BASES = 8                    # references that are mixed with the original, at most
OFTEN = 0.8                  # share of them that must be detected before a dose counts as seen
ANSWERS = frozenset({"observe", "labels", "targets", "likelihood"})   # operations that `Subject.seen` answers


@dataclass(frozen=True)
class Dose:
    """A share of the forget set left in.

    records       how many examples that is         detected, of   in how many of the mixed models
    by            test -> in how many it was outside
    """

    share: float
    records: int
    detected: int
    of: int
    by: Mapping[str, int]

    @property
    def seen(self) -> bool:
        """Whether the tests see it reliably."""
        return self.of > 0 and self.detected >= OFTEN * self.of


@dataclass(frozen=True)
class Power:
    """The dose and its response. smallest: the smallest share that is seen; None: not even half. audits: that were asked"""

    doses: tuple[Dose, ...]
    smallest: float | None
    audits: tuple[str, ...]


class Weightless(nn.Module):
    """Stands where a model would: a mixed one has answers and no weights."""

    def forward(self, *given: object) -> Tensor:
        raise LetheError("a mixture of two models' answers has no weights to ask")


@dataclass(eq=False)
class Mixed(Subject):
    """`source`'s answers on the examples in `kept` (ids), `base`'s everywhere else."""

    base: Subject | None = None
    source: Subject | None = None
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=str))

    def seen(self, split: Split) -> dict[str, Tensor]:
        """What both have seen, row by row."""
        assert self.base is not None and self.source is not None
        rows = torch.from_numpy(np.isin(split.ids, self.kept))
        mine = self.base.seen(split)
        if not rows.any():
            return mine
        theirs = self.source.seen(split)
        return {key: torch.where(rows.view(-1, *[1] * (value.dim() - 1)), theirs[key], value)
                for key, value in mine.items() if key in theirs}


def asked(audits: Sequence[tuple[Audit, Any]]) -> list[tuple[Audit, Any]]:
    """Those that judge a model by its answers."""
    return [(audit, cfg) for audit, cfg in audits
            if audit.uses <= ANSWERS and "forget" in audit.needs and not audit.needs & {"procedure", "reference"}
            and any(judged(metric) and metric.tier == "forgetting" for metric in audit.metrics.values())]


def power(panel_of: Callable[[Subject], Panel], original: Subject, references: Sequence[Subject],
          audits: Sequence[tuple[Audit, Any]], values: Mapping[str, Mapping[Subject, Mapping[str, Value]]], family: Family,
          seed: int = 0) -> Power | None:
    """The smallest dose that the audits detect; None where nothing can be said.

    panel_of  a subject -> what it is seen beside                 values  audit -> model -> metric -> its value
    family    the tests of the whole audit: its level decides
    """
    chosen = asked(audits)
    if len(references) <= ENOUGH or not chosen or not panel_of(original).task.has("original"):
        return None
    doses = []
    for share in DOSES:
        found = [_tests(mixed, base, panel_of, original, references, chosen, values, family)
                 for base, mixed in _mixtures(original, references[:BASES], panel_of(original).task.forget, share, seed)]
        by = Counter(name for outside in found for name in outside)
        doses.append(Dose(share, _count(share, len(panel_of(original).task.forget)), sum(map(bool, found)), len(found),
                          dict(by.most_common())))
    seen = [dose.share for k, dose in enumerate(doses) if all(larger.seen for larger in doses[k:])]
    return Power(tuple(doses), min(seen, default=None), tuple(audit.name for audit, _ in chosen))


def _count(share: float, n: int) -> int:
    return max(1, round(share * n))


def _mixtures(original: Subject, references: Sequence[Subject], forget: Split, share: float, seed: int
              ) -> Iterator[tuple[Subject, Mixed]]:
    """(base, mixed) of each reference; the parts grow with the share."""
    for k, base in enumerate(references):
        order = numpy_generator(seed, "dose", k).permutation(len(forget))
        kept = forget.ids[order[: _count(share, len(forget))]]
        yield base, Mixed(f"{base.name} with {share:.0%} left in", Weightless(), base.task, device=base.device, base=base,
                          source=original, kept=kept)


def _tests(mixed: Mixed, base: Subject, panel_of: Callable[[Subject], Panel], original: Subject, references: Sequence[Subject],
           audits: Sequence[tuple[Audit, Any]], values: Mapping[str, Mapping[Subject, Mapping[str, Value]]], family: Family
           ) -> list[str]:
    """The tests of forgetting in which a mixed model is outside, held against the references without its base."""
    items: list[Evidence] = []
    panel = replace(panel_of(base), retrained=False)   # seen as a model from elsewhere, beside the others
    for audit, cfg in audits:
        try:
            found = audit.measure(cfg, mixed, panel)
        except LetheError:
            continue
        measured = values[audit.name]
        for value in found:
            others = [measured[r][value.metric] for r in references if r is not base and value.metric in measured[r]]
            items.append(judge(audit, value, others, measured[original].get(value.metric)))
    return [e.metric for e in corrected(items, family)
            if e.verdict == OUTSIDE and e.tier == "forgetting" and e.kind == RETRAINED]

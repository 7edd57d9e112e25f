"""The answers on a row: those that were written with it, else those that its evidence gives. No torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from lethe.core import evidence
from lethe.judge.answers import FEW_REFERENCES, NO_ORIGINAL, NO_REFERENCES, NO_SIDE, NO_TEST, NOTHING, OTHERWISE, answers
from lethe.results.answers import Answers
from lethe.results.schema import Measurement, Row, Scenario

LARGE = 0.03   # of the score: the largest loss that does not matter, where none is declared
SMALL = 0.01   # the same where less than `FEW` of the training data is to be forgotten
FEW = 0.01
REMEDIES = {   # why a question about forgetting has no answer -> how to get one
    NO_TEST: "To get an answer, choose a deeper audit (audit.depth: standard), or name tests of forgetting in audit.audits.",
    NO_REFERENCES: "To get an answer, state how the model was trained (recipe:) and let it be trained again without the data: "
                   "audit.references: 8.",
    FEW_REFERENCES: "To get an answer, let more models be trained without the data: audit.references: 8.",
    NO_ORIGINAL: "To get an answer, provide the untouched model as well.",
    NO_SIDE: "To get an answer, add tests that say on which side a model lies, e.g. scores and threshold in audit.audits.",
    OTHERWISE: "To get an answer, provide retrained models of the same recipe as this one, trained as long as it was.",
    NOTHING: "Keep the model as it is where the law lets you, else train it again without the data: no test can distinguish a "
             "method that forgets from one that changes nothing here. More power: more records to forget, or a deeper audit.",
}
KEYS = [field.name for field in dataclasses.fields(evidence.Evidence) if field.name not in ("per_sample", "law", "yardstick")]


def margin_of(declared: float | None, sizes: Mapping[str, int]) -> float:
    """The largest loss of the score that does not matter: the one declared, else by the share of data to be forgotten."""
    if declared is not None:
        return declared
    forget, retain = sizes.get("forget", 0), sizes.get("retain")
    return SMALL if retain is not None and forget < FEW * (forget + retain) else LARGE


def remedy(why: str) -> str:
    """How to get an answer to a question that has none; '' where nothing is known to help."""
    return REMEDIES.get(why, "")


def answered(row: Row, case: Scenario) -> Answers | None:
    """The answers on a row; of results older than schema 3 by its evidence. None for a method that failed."""
    if row.answers is not None or row.error is not None:
        return row.answers
    return record([_evidence(item) for item in row.evidence], case.score_name, margin_of(case.max_loss, case.sizes),
                  case.references.count)


def record(items: Sequence[evidence.Evidence], score: str, margin: float, references: int = 0) -> Answers:
    """The record of the answers from the evidence on one model, beside so many references."""
    return Answers.model_validate(dataclasses.asdict(answers(items, score, margin, references)))


def _evidence(item: Measurement) -> evidence.Evidence:
    """A measurement as the judge knows it; what was not finite is NaN, a bound that is missing is none."""
    yard = item.yardstick
    about = {key: getattr(item, key) for key in KEYS}
    about.update(value=_known(item.value), range=_ends(item.range))
    band = None if yard is None else evidence.Yardstick(
        _known(yard.mean), _known(yard.sd), yard.n, *_ends((yard.low, yard.high)), tuple(map(_known, yard.values)), yard.kind)
    if band is not None and item.detectable is None and item.p is not None:   # older than schema 3
        about["detectable"] = max(_finite((band.high - band.mean, band.mean - band.low)), default=None)
        if item.low is not None and item.high is not None:
            about.update(gap_low=item.low - band.mean, gap_high=item.high - band.mean)
    return evidence.Evidence(**about, yardstick=band)


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _ends(pair: tuple[float | None, float | None]) -> tuple[float, float]:
    low, high = pair
    return -math.inf if low is None else low, math.inf if high is None else high


def _finite(values: Iterable[float]) -> list[float]:
    return [x for x in values if math.isfinite(x)]

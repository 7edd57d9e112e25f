"""A language model on its own training data: it predicts them better than frequencies of tokens do.

What is compared is the mean log-probability of a token that counts. The frequencies are those in the other records of the
sample, mixed with equal shares for all V tokens of the vocabulary (Witten & Bell, 1991): of N tokens, D of them distinct,

    p(t) = (count(t) + D/V) / (N + D)

A model that is no better was read with another tokenizer, another config.json, another template, or damaged weights.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from lethe.core.families.language import LanguageTask
from lethe.core.modules import device_of, evaluating
from lethe.core.passes import columns, plain, sample
from lethe.core.seeds import numpy_generator
from lethe.core.sequences import IGNORED
from lethe.core.split import Batch, Split, concat
from lethe.core.words import number
from lethe.work.door.door import Finding
from lethe.work.open import Plan

STAGE = 2
LEAST, MOST = 4, 16   # records that are looked at, a seeded sample: as many as take `PASS` seconds
PASS = 2.0


def check(plan: Plan) -> Iterator[Finding]:
    """One finding on the original, where there is one with weights."""
    task = next(iter(plan.tasks.values()))
    if plan.original is None or not isinstance(task, LanguageTask):
        return
    some = _sample(task, concat([task.splits[role] for role in ("forget", "retain") if role in task.splits], "train"),
                   plan.job.settings.seed)
    seen = surprise(task, some)
    chance = by_frequency(counting(some), len(task.tokenizer))
    of = f"{len(some)} of its training records: {number(float(seen.mean()))} nats a token"
    if seen.mean() < chance.mean():
        yield Finding("ok", f"The original predicts {of}; {number(float(chance.mean()))} by the frequencies of tokens.")
    else:
        yield Finding("error", f"The original predicts {of}, and mere frequencies of tokens give {number(float(chance.mean()))}: "
                      "it has learned nothing of these texts, or reads them otherwise than in its training.",
                      "Check that tokenizer, config.json and weights are those of one model, and data.template: the line of "
                      "tokens shows what it reads.")


def _sample(task: LanguageTask, own: Split, seed: int) -> Split:
    """A sample of training records, as many as the model reads in `PASS` seconds."""
    few = sample(own, LEAST, numpy_generator(seed, "door"))
    began = time.perf_counter()
    surprise(task, few)
    each = (time.perf_counter() - began) / len(few)
    return sample(own, max(LEAST, min(MOST, round(PASS / max(each, 1e-9)))), numpy_generator(seed, "door"))


def surprise(task: LanguageTask, split: Split) -> np.ndarray:
    """Nats a token of every record, by the model.  [n]"""
    def one(batch: Batch) -> dict[str, Tensor]:
        return {"nll": task.nll(task.model, batch)}

    with evaluating(task.model):
        return columns(one, plain(split, LEAST, device=device_of(task.model)), len(split))["nll"].double().numpy()


def counting(split: Split) -> list[list[int]]:
    """The tokens that count of every record."""
    return [[token for token in row if token != IGNORED] for row in split.columns["labels"].tolist()]


def by_frequency(records: Sequence[Sequence[int]], vocabulary: int) -> np.ndarray:
    """Nats a token of every record by the frequencies in the others.  [n]

    [[0, 0], [0, 1]] with V = 2: of the first from [0, 1], −ln((1 + 2/2)/(2 + 2)) = ln 2; of the second from [0, 0],
    the mean of −ln((2 + 1/2)/(2 + 1)) and −ln((0 + 1/2)/(2 + 1)) = (ln 1.2 + ln 6)/2 = 0.98704.
    """
    whole = Counter(token for record in records for token in record)
    found = []
    for record in records:
        others = whole - Counter(record)
        total, distinct = sum(others.values()), len(others)
        share = distinct / vocabulary if distinct else 1 / vocabulary
        mass = total + distinct if distinct else 1
        found.append(float(np.mean([-np.log((others[token] + share) / mass) for token in record])))
    return np.array(found)

"""Subjects whose answers are given, so that audits can be tested on known numbers; and pools of tiny retrained models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import tiny
import torch
from torch import Tensor

from lethe.core import catalogue
from lethe.core.modules import copied
from lethe.core.task import Task
from lethe.data.select import Where
from lethe.judge.panel import Panel
from lethe.pools.pool import train_pool
from lethe.pools.subject import Subject


def said(task: Task, name: str = "model", **splits: dict[str, object]) -> Subject:
    """A subject that says these columns on these splits: said(task, forget={"signal": [...]})."""
    subject = Subject(name, task.original, task)
    for key, columns in splits.items():
        split = getattr(task, key)
        answers = {column: torch.as_tensor(np.asarray(x)) for column, x in columns.items()}
        assert all(len(x) == len(split) for x in answers.values())
        subject._seen[id(split)] = split, answers
    return subject


def values(audit: object, subject: Subject, references: list[Subject] = (), original: Subject | None = None,
           **options: object) -> dict:
    """The audit's values by metric."""
    panel = Panel(subject.task, original or subject, list(references))
    return {v.metric: v for v in audit.measure(audit.config(**options), subject, panel)}


def seen(task: Task, model: torch.nn.Module, **audits: Mapping[str, Any]) -> dict[str, float]:
    """What audits with these options find in a model beside its original, by metric; printed: seen(task, model, erasure={})."""
    subject, original = Subject("model", model, task), Subject("original", task.original, task)
    found = {metric: value.value for name, options in audits.items()
             for metric, value in values(catalogue.load("audits", name), subject, original=original, **options).items()}
    print({metric: round(value, 3) for metric, value in found.items()})
    return found


@cache
def pool(forget: Where, count: int) -> list[Subject]:
    """Tiny classifiers retrained without `forget`."""
    task = tiny.classification(forget)
    found = train_pool(task, count=count, seed=1, strategy="serial")
    return [Subject(f"r{i}", m, task, s) for i, (m, s) in enumerate(zip(found.models, found.seconds, strict=True))]


def noisy(task: Task, share: float, seed: int = 0) -> torch.nn.Module:
    """The original with Gaussian noise of `share` standard deviations of each tensor on its weights."""
    model, rng = copied(task.original, trainable=False), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(share * p.std() * torch.randn(p.shape, generator=rng))
    return model


def silenced(task: Task, label: int, by: float = 8.0) -> torch.nn.Module:
    """The original with the bias of one class turned down: it never answers it and knows it as well as before."""
    model = copied(task.original, trainable=False)
    head: Tensor = model.get_submodule(task.head).bias
    with torch.no_grad():
        head[label] -= by
    return model

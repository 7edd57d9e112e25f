"""The tiny language model with a pool of retrained ones, examined by audits of language models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import tiny
import torch

from lethe.core.catalogue import load
from lethe.core.evidence import Evidence, Value
from lethe.core.modules import copied
from lethe.core.split import Split
from lethe.judge.auditor import examine
from lethe.judge.panel import Panel
from lethe.models.lm.open import Language
from lethe.pools.pool import train_pool
from lethe.pools.subject import Subject


@cache
def pool(count: int = 5) -> tuple[Subject, ...]:
    """Tiny language models retrained without the forget set."""
    task = tiny.lm()
    models = train_pool(task, count=count, seed=1, strategy="serial").models
    return tuple(Subject(f"r{i}", model, task) for i, model in enumerate(models))


def examined(name: str, depth: str = "standard", models: dict[str, torch.nn.Module] | None = None, task: Language | None = None,
             **options: Any) -> dict[str, dict[str, Evidence]]:
    """By model and metric: 'untouched' (the original again), 'fresh' (retrained), and `models`; four references."""
    task = task or tiny.lm()
    fresh, *references = (Subject(r.name, r.model, task) for r in pool())
    subjects = [Subject("untouched", task.original, task), Subject("fresh", fresh.model, task)]
    subjects += [Subject(key, model, task) for key, model in (models or {}).items()]
    audit = load("audits", name)
    original, audits = Subject("original", task.original, task), [(audit, audit.config(**options))]
    found = examine(task, subjects, original, references, audits, depth)
    return {who: {e.metric: e for e in items} for who, items in found.items()}


def measured(name: str, subject: Subject, references: tuple[Subject, ...] = (), depth: str = "standard", **options: Any
             ) -> dict[str, Value]:
    """The audit's values of one model of the tiny task."""
    audit, task = load("audits", name), subject.task
    panel = Panel(task, Subject("original", task.original, task), list(references), depth)
    return {value.metric: value for value in audit.measure(audit.config(**options), subject, panel)}


class Scripted(Subject):
    """A model whose loss is a given function of prompt and answer."""

    def __init__(self, task: Language, loss: Callable[[str, str], float], name: str = "scripted") -> None:
        super().__init__(name, task.original, task)
        self.loss = loss

    def numbers(self, split: Split, key: str) -> np.ndarray:
        assert key == "nll"
        return self.losses(split)

    def losses(self, split: Split) -> np.ndarray:
        return np.array([self.loss(p, a) for p, a in zip(split.column("prompt"), split.column("answer"), strict=True)])


@cache
def roomy() -> Language:
    """The tiny task with room for 1,024 tokens: rotary positions go on, though nothing so long was trained."""
    task = tiny.lm()
    model = copied(task.original, trainable=False)
    model.config.max_position_embeddings = 1024
    form = replace(task.form, max_length=1024)
    return Language(model, dict(task.splits), task.tokenizer, task.recipe, task._build, form=form)


def blend(share: float) -> torch.nn.Module:
    """(1 − share)·original + share·a retrained model, weight by weight."""
    task, other = tiny.lm(), pool()[0].model
    model = copied(task.original, trainable=False)
    with torch.no_grad():
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            mine.lerp_(theirs, share)
    return model


@cache
def pushed(steps: int = 30, lr: float = 1e-3, last: int | None = None) -> torch.nn.Module:
    """The original after gradient difference (ascent on the forget set to 6 nats per token, descent on the retain set).

    last  only the last so many blocks move
    """
    task: Language = tiny.lm()   # type: ignore[assignment]
    model = copied(task.original, trainable=True).requires_grad_(last is None)
    for block in [] if last is None else list(model.model.layers)[-last:]:
        block.requires_grad_(True)
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr)
    forget, retain = (split.batch(list(range(len(split)))) for split in (task.forget, task.retain))
    for _ in range(steps):
        adam.zero_grad()
        (task.nll(model, retain).mean() - task.nll(model, forget).clamp(max=6).mean()).backward()
        adam.step()
    return model.eval().requires_grad_(False)


@cache
def steered(scale: float = 20.0, steps: int = 60) -> torch.nn.Module:
    """As RMU does: the states after block 1 are pushed to a fixed vector on the forget set and kept on the retain set."""
    task: Language = tiny.lm()   # type: ignore[assignment]
    model = copied(task.original, trainable=True).requires_grad_(True)
    aim = torch.rand(32, generator=torch.Generator().manual_seed(0))
    aim = scale * aim / aim.norm()
    forget, retain = (split.batch(list(range(len(split)))) for split in (task.forget, task.retain))
    kept = task.hidden_states(task.original, retain, 1).detach()
    adam = torch.optim.Adam(model.model.layers[1].parameters(), 3e-3)
    for _ in range(steps):
        adam.zero_grad()
        moved = (task.hidden_states(model, forget, 1) - aim).square().mean()
        (moved + 20 * (task.hidden_states(model, retain, 1) - kept).square().mean()).backward()
        adam.step()
    return model.eval().requires_grad_(False)

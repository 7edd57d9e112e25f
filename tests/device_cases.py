"""Everything that computes, as cases that run on any device: each method, modifier and audit on a tiny task of each family.

A new one needs no edit here. What no tiny task can serve is left out and named by `left_out`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import tiny
import torch
from test_matrix import OPTIONS, SMALL, small
from torch import Tensor
from wiring.problems import classes

from lethe.core import catalogue
from lethe.core.config import build
from lethe.core.modules import copied
from lethe.core.registry import Method
from lethe.core.task import Task
from lethe.judge.panel import Panel
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Procedure, Subject
from lethe.train.apply import apply
from lethe.train.settings import Settings

Kind = Literal["method", "audit", "modifier"]
TASKS: dict[str, Callable[[], Task]] = {**tiny.TASKS, "pictures": classes, "mixture": tiny.mixture}
CUT: dict[str, dict[str, Any]] = {"auto": {"trials": 2, "methods": ("finetune", "gradient_ascent")},   # they are long otherwise
                                  "p4d": {"batch_size": 4}, "unlearndiffatk": {"batch_size": 4}}
LONG = {"epochs", "steps", "generations", "models", "shadows", "pairs", "count", "rounds", "prompt", "prompts", "levels",
        "pictures", "looks"}   # cut
FEW = 12   # examples: enough for the audits that want ten unseen ones
MEMBERS: dict[str, dict[str, Any]] = {"where.names": {"patterns": ("*",)}}   # where a modifier has options without a default

ONLY = {"where.expert": ("mixture",), "where.grip": ("mixture",)}   # modifiers of one kind of network


class Case(NamedTuple):
    """One thing on one task."""

    kind: Kind
    name: str
    task: str

    def __str__(self) -> str:
        return f"{self.kind}-{self.name}-{self.task}"


@cache
def task_of(key: str) -> Task:
    """The tiny task, cut down: a recipe of one pass, and few examples where a step takes long."""
    task = copy.copy(TASKS[key]())
    task._recipe = dataclasses.replace(task.recipe, epochs=1)
    if key not in ("lm", "mixture", "diffusion"):
        return task
    return task.replaced(None, **{role: split.subset(range(min(len(split), FEW)), role) for role, split in task.splits.items()})


def cases() -> Iterator[Case]:
    """Each method and audit on a task of each of its families; each modifier on pictures, and where a run may move on text."""
    for kind in ("methods", "audits"):
        for name, entry in sorted(catalogue.entries(kind).items()):
            for family in tiny.TASKS:
                if entry.fits(family) and (family in tiny.BROAD or len(entry.families) == 1):
                    key = "pictures" if {"pictures", "convolutions"} & set(entry.needs) and family == "classification" else family
                    yield Case("method" if kind == "methods" else "audit", name, key)
    for name in sorted(catalogue.entries("modifiers")):
        usual = ("pictures", "lm")[: 2 if name.startswith("where.") else 1]
        yield from (Case("modifier", name, key) for key in ONLY.get(name, usual))


def left_out(case: Case) -> str:
    """Empty, or what the task lacks that the case needs."""
    task = task_of(case.task)
    if case.kind == "modifier":
        return ""
    entry = catalogue.entries("methods" if case.kind == "method" else "audits")[case.name]
    needs = {need for need in entry.needs if need not in ("references", "shadows", "procedure")} - set(entry.instead)
    return ", ".join(task.lacks(needs))


def carried_out(case: Case, device: str, task: Task | None = None, most: int = SMALL) -> dict[str, Tensor]:
    """What the case comes to on the device, as tensors on the CPU.

    task  in place of the tiny one. Its model stands on the CPU beforehand, as it does when a user opens a file.
    most  epochs or steps of a method
    """
    task = task or task_of(case.task)
    task.original.cpu()
    if case.kind == "audit":
        return audited(case.name, task, device)
    if case.kind == "modifier":
        seam = case.name.split(".")[0]
        return forgotten("finetune" if seam in ("perturb", "average") else "grad_diff", task, device, most,
                         {seam: {"name": case.name.split(".")[1], **MEMBERS.get(case.name, {})}})
    return forgotten(case.name, task, device, most)


def forgotten(name: str, task: Task, device: str, most: int, modifiers: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """The weights that a short run of a method leaves."""
    method: Method = catalogue.load("methods", name)
    cfg = small(method.config, CUT.get(name, OPTIONS.get(name, {})), most)
    outcome = apply(task, method, cfg, Settings(seed=5, device=device), modifiers)
    model = outcome.model if outcome.served is None else outcome.served
    return {key: value.detach().cpu() for key, value in model.state_dict().items()}


def audited(name: str, task: Task, device: str) -> dict[str, Tensor]:
    """The values of an audit, each [1]; a text of NaN where it says nothing."""
    audit = catalogue.load("audits", name)
    subject, panel = bench(task, device)
    cut = {f.name: min(f.default, 2) for f in dataclasses.fields(audit.config)
           if f.name.split("_")[-1] in LONG and isinstance(f.default, int)}
    values = audit.measure(build(audit.config, {**cut, **CUT.get(name, {})}), subject, panel)
    return {value.metric: torch.tensor([value.value], dtype=torch.float64) for value in values}


def bench(task: Task, device: str) -> tuple[Subject, Panel]:
    """A model whose weights were shaken, beside the original, three references and shadow models."""
    def model(number: int) -> Subject:
        return Subject(f"m{number}", shaken(task, 0.05, number), task, 1.0, device)

    procedure = Procedure("finetune", partial(_finetuned, device=device))
    mine = model(0)
    subject = dataclasses.replace(mine, name="subject", siblings=[model(1), model(2)], procedure=procedure)
    original = Subject("original", task.original, task, 1.0, device)
    panel = Panel(task, original, [model(k) for k in range(3, 7)], "deep", 0,
                  shadows=Shadows(task, 4, device=device, strategy="serial"))
    return subject, panel


def shaken(task: Task, share: float, seed: int) -> torch.nn.Module:
    """A copy of the original, moved."""
    return moved(copied(task.original, trainable=False).cpu(), share, seed)


def moved(model: torch.nn.Module, share: float, seed: int) -> torch.nn.Module:
    """The model itself, each weight changed by about `share` of itself."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + share * torch.randn(p.shape, generator=rng))
    return model


def _finetuned(task: Task, seed: int, device: str) -> torch.nn.Module:
    method: Method = catalogue.load("methods", "finetune")
    return apply(task, method, small(method.config, {}), Settings(seed=seed, device=device)).model

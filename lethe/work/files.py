"""Audits of models that Lethe did not unlearn: model files and data files in, a report out. No request, no training.

    lethe audit --unlearned B --original A --forget F --retain R --holdout H --retrained C1 --retrained C2 …

Only `unlearned` and `forget` are necessary. The report states what is missing and never invents it: without `original`
there is no positive control, without `retrained` no yardstick (the holdout is the weaker one), without `holdout` no
membership attack. Where the training recipe is known, a request file (`lethe audit REQUEST --unlearned B`) gives more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import nn

from lethe.core import catalogue
from lethe.core.config import config, digest, plain
from lethe.core.evidence import Depth
from lethe.core.guard import as_served
from lethe.core.modules import evaluating, require_finite, state_fingerprint
from lethe.core.outcome import Outcome
from lethe.core.task import Task
from lethe.errors import ModelError, RequestError, SplitsOverlap
from lethe.models.deployed import ServedText, checked
from lethe.models.opened import SavedFiles
from lethe.report.report import Report
from lethe.work.audit import scenario
from lethe.work.door.checks import score
from lethe.work.execute import report_of
from lethe.work.forget import Made
from lethe.work.job import of_task
from lethe.work.options import Options
from lethe.work.origins import Given, Origins, reach, vet
from lethe.work.request import AuditPlan
from lethe.work.retrained import Retrained

PARTS = ("forget", "retain", "holdout", "test")


@config
class Files:
    """Where models and data lie. Classifiers: .safetensors or .npz with `model`; language models: `save_pretrained` folders."""

    unlearned: str                                              # the model to audit
    forget: str                                                 # what it should have forgotten
    original: str | None = None                                 # the model before
    retrained: tuple[str, ...] = ()                             # models trained without the forget set: the yardstick
    base: str | None = None                                     # what original and retrained started from, if not from scratch
    retain: str | None = None                                   # what it should have kept
    holdout: str | None = None                                  # like the forget set, unseen by all of the models
    test: str | None = None                                     # for utility
    model: Mapping[str, Any] = field(default_factory=dict)      # classifiers: zoo or code, options, head, prefix
    data: Mapping[str, Any] = field(default_factory=dict)       # how the data files are read: options of their kind
    family: str | None = None                                   # default: the one that recognises the files of `unlearned`
    allow_pickle: bool = False
    accept: tuple[str, ...] = ()                                # checks whose errors do not end the audit: score, descent


def audit_files(files: Files, depth: Depth = "standard", audits: Sequence[Any] = (), seed: int = 0,
                options: Options | None = None) -> Report:
    """Audit one saved model beside the original and the retrained models that are provided."""
    began, options = time.perf_counter(), options or Options(command="lethe.audit_files(…)")
    options.say("reading models and data")
    task, load, first = _opened(files)
    weights = first if files.original is None else _fitting(load(files.unlearned), files.unlearned, task, first)
    if (fault := score.of_files(task, seed)) is not None:
        if "score" not in files.accept:
            raise RequestError(f"{fault.words} [check score; accept=[score] goes on all the same]")
        options.warn(fault.words)
    unlearned = as_served(Path(files.unlearned), weights)
    retrained = [_fitting(load(path), path, task, first) for path in files.retrained]
    origins = _origins(files, task, load, first, weights, retrained, seed)
    task.facts["descent from the original"] = origins.facts
    every = [path for path in (files.original, files.unlearned, *files.retrained) if path]
    task.facts["checked"] = {path: checked(path) for path in every}
    task.facts["what the references can see"] = reach(len(retrained))
    for words in [reach(len(retrained)), *(doubt.text for doubt in origins.doubts)]:
        options.warn(words)
    written, outcome = plain(files), Outcome(unlearned, method="unlearned", task=task)
    plan = AuditPlan(depth=depth, references=len(retrained), shadows=0, audits=tuple(audits))
    job = of_task(task, [], plan, seed=seed, config=written)
    near = origins.kin.get(files.unlearned)
    made = Made(Path(files.unlearned).stem, outcome, heir=near is not None and near.close)
    case = scenario(job, task, [made], options, Retrained(job, options, provided=retrained),
                    words=f"forget {len(task.forget)} examples of {files.forget}", known=origins.doubts, kin=origins.kin)
    return report_of(job, [case], f"Audit of {files.unlearned}", options, time.perf_counter() - began,
                     digest([written, depth, task.fingerprint]))


def _origins(files: Files, task: Task, load: Callable[[str], nn.Module], first: nn.Module, unlearned: nn.Module,
             retrained: Sequence[nn.Module], seed: int) -> Origins:
    """What the models are to each other; RequestError where a reference is a copy or descends from another model."""
    before = [Given(files.original, "original", first)] if files.original else []
    references = [Given(path, "retrained", model) for path, model in zip(files.retrained, retrained, strict=True)]
    base = None if files.base is None else load(files.base)
    if base is not None and state_fingerprint(base) == state_fingerprint(first):
        raise RequestError(f"base = {files.base} has the weights of {files.original or files.unlearned}, which were trained on "
                           "the forget set, so no reference may start there; nothing was audited. Name its true start.")
    audited = [] if isinstance(unlearned, ServedText) else [Given(files.unlearned, "unlearned", unlearned)]   # texts alone
    given = [*before, *audited, *references]
    return vet(task, given, base, "descent" in files.accept, seed)


def _opened(files: Files) -> tuple[Task, Callable[[str], nn.Module], nn.Module]:
    """The task of the files, how a model of it is read, and the original; without one the unlearned model stands in."""
    family = files.family or _recognised(Path(files.unlearned))
    reader = catalogue.load("families", family).files
    if reader is None:
        raise RequestError(f"models of the family {family!r} cannot be audited from files alone; nothing was read. Write a "
                           f"request and use lethe audit REQUEST --unlearned {files.unlearned}.")
    parts = {part: path for part in PARTS if (path := getattr(files, part))}
    make, load = reader(SavedFiles(files.unlearned, parts, files.model, files.data, files.allow_pickle, files.original))
    first = load(files.original or files.unlearned)
    task = make(first)
    _apart(task)
    return (task if files.original else task.without_original()), load, first


def _recognised(path: Path) -> str:
    """The family that knows the files of this path; RequestError unless exactly one does."""
    declared = [name for name, entry in catalogue.entries("families").items() if "recognises" in entry.facts]
    hits = [name for name in declared if (knows := catalogue.load("families", name).recognises) is not None and knows(path)]
    if len(hits) != 1:
        found = f"could be a model of {' or '.join(hits)}" if hits else "is no model that a family recognises"
        raise RequestError(f"{path} {found if path.exists() else 'does not exist'}, so it is not clear how to read it; nothing "
                           f"was read. Correct the path, or provide family= one of {', '.join(catalogue.entries('families'))}.")
    return hits[0]


def _apart(task: Task) -> None:
    """No example in two splits, whatever the files call it."""
    contents = {name: set(split.contents()) for name, split in task.splits.items()}
    for left, right in combinations(contents, 2):
        if {left, right} != {"holdout", "test"} and (shared := contents[left] & contents[right]):
            raise SplitsOverlap(f"{len(shared)} examples stand in {left} and in {right} with equal content, so one of the two is "
                                "not what its name states and every comparison of them would be wrong. Remove them from one.")


def _fitting(model: nn.Module, path: str, task: Task, first: nn.Module) -> nn.Module:
    """The model, if it answers with as many outputs as the first one and without NaN."""
    require_finite(model, path)
    if isinstance(model, ServedText):
        return model   # there is nothing to hold beside the first one's answers: audits ask it for texts
    some = task.forget.batch([0])
    with evaluating(model), evaluating(first):
        try:
            answers, before = task.outputs(model, some), task.outputs(first, some)
        except (RuntimeError, IndexError) as error:
            raise ModelError(f"{path} cannot take the first example of forget ({str(error).splitlines()[0]}), so it cannot "
                             "be compared. Provide models of one family and, for language models, of one tokenizer.") from error
    if answers.shape != before.shape:
        raise ModelError(f"{path} answers with {answers.shape[-1]} outputs and the original with {before.shape[-1]}, so they "
                         "have different classes or vocabularies and no example can be compared. Provide models that match.")
    return model

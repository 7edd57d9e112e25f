"""The original on its own training data: against chance, against other preparations of the inputs, against a control.

A trained model is right on what it was trained on. Where it is not, something between its training and this request differs, and
it is named: other inputs (scaling, mean and deviation, order of the colours) with which it is significantly better, another order
of the classes, probabilities taken for logits. A control is trained by the recipe on half of a sample for a few seconds and meets
the other half unseen: the original, which has seen it, must not be worse.

Thresholds [ours]: a point of score, and 3 standard errors of the paired differences of score and of loss, for another
preparation; 5 points and 3 standard errors for the control, which had seconds. Chance: no better than the most frequent class
by 1.64 standard errors, and no lower loss than its frequencies have.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.families.classification import ClassificationTask
from lethe.core.families.headed import HeadedTask
from lethe.core.families.multilabel import MultilabelTask
from lethe.core.modules import device_of, evaluating
from lethe.core.passes import columns, plain, sample
from lethe.core.seeds import derive, numpy_generator
from lethe.core.split import Batch, Split, concat, pixels
from lethe.core.task import Task
from lethe.core.words import number
from lethe.models.answer import looks_like
from lethe.models.classification.task import Classification
from lethe.models.heads import HeadTask
from lethe.pools.member import train_one
from lethe.work.door.door import Finding
from lethe.work.door.inputs import Preparation, preparations
from lethe.work.open import Plan

STAGE = 2
LEAST, MOST = 200, 2000   # training records that are looked at, a seeded sample: as many as take `PASS` seconds
PASS = 2.0
SECONDS = 5.0    # of training the control


@dataclass(frozen=True)
class Seen:
    """What a model says of the sample: score and loss [n], and the class it names [n], if it names one."""

    score: np.ndarray
    loss: np.ndarray
    named: np.ndarray | None

    @property
    def mean(self) -> float:
        return float(self.score.mean())


def check(plan: Plan) -> Iterator[Finding]:
    """A finding on the original, where there is one with weights and labels or targets to score it by."""
    task = next(iter(plan.tasks.values()))
    if plan.original is None or plan.train is None or not isinstance(task, HeadTask):
        return
    seed = plan.job.settings.seed
    some = _sample(task, plan.train, seed)
    usual = ask(task, task.model, some)
    wrong = doubt(task, some, usual) or next(_control(plan, task, some, usual), None)
    yield wrong or Finding("ok", f"The original: {task.score_name} {number(usual.mean)} on {len(some)} of its own training "
                           f"records; {number(chance(task, some))} is chance.")


def doubt(task: HeadTask, some: Split, usual: Seen) -> Finding | None:
    """The first fault that the model of a task shows on records that it was trained on."""
    order = _order(task, some, usual) if isinstance(task, ClassificationTask) else ()
    return next(chain(_kind(task, some), _prepared(task, some, usual), order, _chance(task, some, usual)), None)


def of_files(task: Task, seed: int = 0) -> Finding | None:
    """The first fault of the original of an audit from files alone."""
    if not task.has("original") or "retain" not in task.splits or not isinstance(task, HeadTask):
        return None   # the forget set alone may be a single class
    some = _sample(task, concat([task.forget, task.retain], "retain"), seed)
    return doubt(task, some, ask(task, task.model, some))


def _sample(task: HeadedTask, train: Split, seed: int) -> Split:
    """A sample of training records, as many as the model answers in `PASS` seconds."""
    few = sample(train, 64, numpy_generator(seed, "door"))
    ask(task, task.model, few)   # the first pass of a process takes longer
    began = time.perf_counter()
    ask(task, task.model, few)
    each = (time.perf_counter() - began) / len(few)
    return sample(train, max(LEAST, min(MOST, round(PASS / max(each, 1e-9)))), numpy_generator(seed, "door"))


def ask(task: HeadedTask, model: nn.Module, split: Split, prepared: Preparation | None = None) -> Seen:
    """Score and loss of a model on a split, with inputs as the request makes them, or prepared otherwise."""
    def one(batch: Batch) -> Mapping[str, Tensor]:
        seen = task.observe(model, batch if prepared is None else batch.replace(x=prepared.make(pixels(batch.x))))
        return {key: seen[key] for key in ("score", "nll", "logits") if key in seen}

    with evaluating(model):
        found = columns(one, plain(split, 256, device=device_of(model)), len(split))
    named = found["logits"].argmax(1).numpy() if "logits" in found else None
    return Seen(found["score"].double().numpy(), found["nll"].double().numpy(), named)


def chance(task: HeadedTask, split: Split) -> float:
    """The score of a constant answer: the most frequent class, the mean of the targets."""
    y = split.columns["y"]
    if isinstance(task, ClassificationTask):
        return float(y.bincount().max()) / len(y)
    if isinstance(task, MultilabelTask):   # each label as it mostly is
        shares = y.double().mean(0)
        return float(torch.maximum(shares, 1 - shares).mean())
    y = y.double().reshape(len(y), -1)
    return float(torch.exp(-(y - y.mean(0)).abs().mean(1) / max(float(y.std(correction=0)), 1e-12)).mean())


def _kind(task: HeadTask, some: Split) -> Iterator[Finding]:
    """Probabilities taken for logits, and the reverse."""
    if not isinstance(task, Classification):
        return
    model = task.model
    with evaluating(model):
        kind = looks_like(task.answers(model, some.batch(range(min(len(some), 256))).to(device_of(model))))
    if kind == task.returns:
        return
    if kind == "probabilities":
        yield Finding("error", "The model returns probabilities (all outputs lie between 0 and 1), which are taken for "
                      "logits: losses, gradients and every attack on confidence would be wrong.", "Let forward(x) end before the "
                      "softmax or sigmoid, or set model.returns: probabilities, which takes logarithms.")
    else:
        yield Finding("error", "model.returns = probabilities, but the outputs are none: some are not between 0 and 1, or "
                      "those of an example do not add up to 1.", "Leave model.returns out.")


def _prepared(task: HeadedTask, some: Split, usual: Seen) -> Iterator[Finding]:
    """Another preparation of the inputs with which the original is clearly better on its own training data."""
    if usual.mean > 0.99:
        return
    found = [(ask(task, task.model, some, one), one) for one in preparations(some, task.facts.get("inputs", {}))]
    better = [(seen, one) for seen, one in found if _gain(seen.score, usual.score, 0.01) and _gain(usual.loss, seen.loss)]
    if better:
        seen, one = max(better, key=lambda pair: (pair[0].mean, -float(pair[0].loss.mean())))
        yield Finding("error", f"{_here(task, some, usual)}, and {number(seen.mean)} with {one.words}: it was not "
                      "trained on inputs like these.", one.remedy)


def _gain(mine: np.ndarray, other: np.ndarray, least: float = 0.0) -> bool:
    """Whether numbers [n] are higher than others of the same records, by `least` and by three standard errors."""
    difference = mine - other
    error = float(difference.std()) / len(difference) ** 0.5
    return bool(difference.mean() >= max(least, 3 * error)) and bool(difference.mean() > 0)


def _order(task: ClassificationTask, some: Split, usual: Seen) -> Iterator[Finding]:
    """The classes in another order: a matching of outputs and labels with which the original is much better."""
    from scipy.optimize import linear_sum_assignment

    y, k = some.columns["y"].numpy(), task.class_count
    assert usual.named is not None, "a classifier names classes"
    counts = np.zeros((k, k))
    np.add.at(counts, (usual.named, y), 1)
    outputs, labels = linear_sum_assignment(counts, maximize=True)
    best = float(counts[outputs, labels].sum()) / len(y)
    # a matching always gains a little: half of what the given order misses must come right
    if best - usual.mean < max(0.1, (1 - usual.mean) / 2):
        return
    names = getattr(task, "classes", None)
    moved = [f"output {i} names class {names[j] if names else j}" for i, j in zip(outputs, labels, strict=True) if i != j][:4]
    yield Finding("error", f"{_here(task, some, usual)}, and {number(best)} with its classes in another order "
                  f"({', '.join(moved)}).",
                  "Number the classes as in its training: data.classes, in the order of the outputs.")


def _chance(task: HeadedTask, some: Split, usual: Seen) -> Iterator[Finding]:
    """No better than a constant answer."""
    least = chance(task, some)
    error = (least * (1 - least) / len(some)) ** 0.5 if isinstance(task, ClassificationTask) else 0.0
    if least == 1 or usual.mean > least + 1.64 * error:
        return
    y = some.columns["y"]
    if isinstance(task, ClassificationTask):   # of rare classes the loss may know more than the decision
        shares = y.bincount().double() / len(y)
        shares = shares[shares > 0]
        if float(usual.loss.mean()) < 0.98 * float(-(shares * shares.log()).sum()):
            return
    elif isinstance(task, MultilabelTask):   # the same of rare labels
        p = y.double().mean(0).clamp(1e-9, 1 - 1e-9)
        if float(usual.loss.mean()) < 0.98 * float(-(p * p.log() + (1 - p) * (1 - p).log()).mean()):
            return
    yield Finding("error", f"{_here(task, some, usual)}, no better than a constant answer ({number(least)}): it has learned "
                  "nothing of these data, or sees them otherwise than in its training.", "Check model.weights, model.code, the "
                  "scaling of inputs (data.mean, data.std, data.transform) and the labels.")


def _here(task: HeadedTask, some: Split, usual: Seen) -> str:
    return f"The original's {task.score_name} on {len(some)} of its own training records is {number(usual.mean)}"


def _control(plan: Plan, task: HeadTask, some: Split, usual: Seen) -> Iterator[Finding]:
    """Worse on what it was trained on than a control, trained for seconds, on what that has not seen."""
    if usual.mean >= 0.95 or not task.has("recipe") or task.recipe.code or len(some) < 40 or task.trains_itself():
        return   # code of one's own cannot be ended after seconds
    order = numpy_generator(plan.job.settings.seed, "control").permutation(len(some))
    mine, other = np.sort(order[: len(some) // 2]), np.sort(order[len(some) // 2 :])
    device = plan.job.settings.device
    _, control = train_one(task, some.subset(mine, "retain"), derive(plan.job.settings.seed, "control"), device, SECONDS)
    seen = ask(task, control, some.subset(other, "retain"))
    if not _gain(seen.score, usual.score[other], 0.05):
        return
    was = Seen(usual.score[other], usual.loss[other], None)
    yield Finding("error", f"{_here(task, some.subset(other, 'retain'), was)}; a control that the recipe trained for at most "
                  f"{SECONDS:g} s on {len(mine)} others has {number(seen.mean)} there, without having seen them.", "The original "
                  "sees the data otherwise than in its training, or these are not its data: check data.mean, data.std, "
                  "data.transform, data.classes and model.weights.")

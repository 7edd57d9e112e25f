"""Where models come from that somebody hands over as a yardstick: copies and descendants of the original are refused.

    vet(models, base)   before any audit: what each model is to each other one; RequestError where a reference is none

A reference must be a training of its own on the retained data. One that equals another model, in its weights or in its answers,
counts twice what was trained once; one that was made of the original, or of the audited model, has the audited fault itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from torch import Tensor, nn

from lethe.core.modules import device_of, evaluating, state_fingerprint
from lethe.core.passes import drawn, rows
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.judge.descent import Kinship, examined, hidden, kinship, layers
from lethe.judge.yardstick import Doubt

EQUAL = 1e-5   # of the spread of the answers: numbers that differ by less are rounding


Part = Literal["original", "unlearned", "retrained"]


@dataclass(frozen=True, eq=False)
class Given:
    """A model as somebody handed it over."""

    path: str
    role: Part
    model: nn.Module


@dataclass(frozen=True)
class Origins:
    """How near each path is to the original, and doubts where a fault was accepted or nothing could be measured."""

    kin: dict[str, Kinship]
    doubts: tuple[Doubt, ...] = ()

    @property
    def facts(self) -> dict[str, str]:
        """One line of numbers by path."""
        return {path: near.words for path, near in self.kin.items()}


def vet(task: Task, given: Sequence[Given], base: nn.Module | None = None, accepted: bool = False, seed: int = 0) -> Origins:
    """RequestError for a reference that is a copy or a descendant.

    given     the original, where it is there, the audited model, and the references
    base      what original and references started from: a pre-trained model, or initial weights that they share
    accepted  descendants become doubts; copies are refused all the same
    """
    names = layers(given[0].model)
    seen = {one: (hidden(task, one.model, names, seed), _answers(task, one.model, seed)) for one in given}
    kin: dict[str, Kinship] = {}
    doubts: list[Doubt] = []
    for a, b in combinations(given, 2):   # a reference stands behind what it is compared with
        if b.role == "retrained" and (same := _equal(a, b, seen[a][1], seen[b][1])):
            raise RequestError(_copied(a, b, same))
        near = kinship(b.model, a.model, seen[b][0], seen[a][0], base, seed)
        if a.role == "original":
            kin[b.path] = near
        if b.role != "retrained":
            continue
        if near.close and not accepted:
            raise RequestError(_related(a, b, near))
        if near.close:
            doubts.append(Doubt("", (), f"{b.path} descends from {a.path} ({near.words}), which was accepted."))
        elif a.role == "original" and not near.known:
            doubts.append(Doubt("", (), f"whether {b.path} descends from the original could not be examined: {near.words}."))
    if base is not None:
        doubts.append(Doubt("", (), "the references are said to have started from the same weights as the original; one that was "
                                    "made of the original by a long unlearning would look like them."))
    return Origins(kin, tuple(doubts))


def reach(references: int, tests: int = 10) -> str:
    """What so many references can see, said before anything is audited: one sentence.

    tests  of forgetting; those of utility are a second tier.  Student's prediction of one more model: t_{K−1}·√(1 + 1/K)
    """
    from scipy.stats import t

    if references == 0:
        return "No reference: nothing can be compared with retraining."
    if references < 3:
        many = "1 reference" if references == 1 else f"{references} references"
        return f"{many}: too few for a band. Only the relative test decides: nearer to the retrained model or to the original."
    sds = float(t.isf(0.05 / (4 * tests), references - 1)) * (1 + 1 / references) ** 0.5
    lean = " Lean on the relative test: nearer to a retrained model or to the original." if references == 3 else ""
    return (f"{references} references: beside {tests} tests a value must lie {sds:.3g} of their standard deviations from their "
            f"mean to be outside.{lean}")


def _answers(task: Task, model: nn.Module, seed: int) -> Tensor:
    """What a model answers on the examples of the comparison.  [n, …]"""
    split = examined(task, seed)
    with evaluating(model):
        return rows(lambda batch: task.outputs(model, batch).float(), drawn(task, split, 100, ("descent",),
                                                                            device=device_of(model)), len(split))


def _equal(a: Given, b: Given, x: Tensor, y: Tensor) -> str:
    """What is equal in two models, whatever they are called: 'weights' or 'answers'; '' where nothing is."""
    if a.model.state_dict() and state_fingerprint(a.model) == state_fingerprint(b.model):   # what is served shows no weights
        return "weights"
    same = x.shape == y.shape and float((x - y).abs().max()) <= EQUAL * max(float(x.std()), 1e-12)
    return "answers" if same else ""


def _copied(a: Given, b: Given, same: str) -> str:
    what = {"original": "it was not retrained without the forget set and cannot be a yardstick",
            "unlearned": "the audited model would be its own yardstick",
            "retrained": "one training would count twice and the yardstick look narrower than it is"}[a.role]
    twice = {"original": a.path, "unlearned": "the audited model, which was passed as a reference, too",
             "retrained": "another reference: it was passed twice"}
    there = twice[a.role] if a.path == b.path else a.path
    return (f"{b.path} has the same {same} as {there}, so {what}; nothing was audited. Provide models that were each trained on "
            "their own, or leave it out.")


def _related(a: Given, b: Given, near: Kinship) -> str:
    what = {"original": "it was made of the original and has seen the forget set",
            "unlearned": "one of them was made of the other and they share the audited fault",
            "retrained": "they are one training, not two"}[a.role]
    way = ("" if near.based else " If both only started from the same weights (a pre-trained model, one initialisation), name "
           "these: --base MODEL.")
    return (f"{b.path} descends from {a.path}: {near.words}. So {what}, and it cannot be a yardstick; nothing was audited. Train "
            f"references from scratch, without the forget set, each with a seed of its own.{way} [check descent; "
            "accept=[descent] goes on all the same]")

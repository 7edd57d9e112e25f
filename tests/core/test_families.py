"""Families say what they provide, methods what they use; a method fits where all it uses is provided, and gets nothing else."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import ClassVar, get_args

import pytest
import torch
from tiny import TASKS
from torch import Tensor, nn

from lethe.core import catalogue, registry
from lethe.core.families import declared, provided
from lethe.core.families.classification import ClassificationTask
from lethe.core.operations import limited, unlimited
from lethe.core.split import Batch, Split
from lethe.core.task import Task
from lethe.errors import NeedsUnmet, NotGranted
from lethe.judge.auditor import applicable
from lethe.train import apply
from lethe.train.loop import Loop, Modifiers, Settings

METHODS, AUDITS = catalogue.entries("methods"), catalogue.entries("audits")
WORDS = {"inputs", "labels", "targets", "vmap", "likelihood", "weights"}   # what `provides` names besides operations
GENERAL = {"nll", "outputs", "divergence", "features", "relabel"}


@pytest.mark.parametrize("key", TASKS)
def test_a_family_has_what_it_says_it_provides(key: str) -> None:
    task = TASKS[key]()
    assert provided()[key] == task.provides, "the set is not a literal that can be read from the source"
    assert {name for name in task.provides - WORDS if not hasattr(task, name)} == set()
    assert {name for name in task.provides & GENERAL if getattr(type(task), name) is getattr(Task, name)} == set()
    if task.provides & {"imagine", "complete"}:   # it draws, and the class of what real examples show is no answer of its own
        return
    y = task.forget.columns.get("y", torch.zeros(0, dtype=torch.int8))
    assert ("labels" in task.provides, "targets" in task.provides) == (y.dtype == torch.int64, y.is_floating_point())
    assert ("inputs" in task.provides) == ("x" in task.forget.columns)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_uses_and_why_it_forgets(name: str) -> None:
    entry, record = METHODS[name], catalogue.load("methods", name)
    assert entry.uses == record.uses <= frozenset[str]().union(*provided().values())
    assert entry.mechanism == record.mechanism and record.mechanism in get_args(registry.Mechanism)
    assert entry.families, f"no family provides {sorted(entry.uses)}"


@pytest.mark.parametrize("name", AUDITS)
def test_an_audit_says_what_it_uses(name: str) -> None:
    """It fits where all of that is provided; an operation that it calls on a task is among them."""
    entry, record, known = AUDITS[name], catalogue.load("audits", name), frozenset[str]().union(*provided().values())
    assert entry.uses == record.uses <= known and entry.families, f"no family provides {sorted(entry.uses)}"
    called = {node.attr for node in ast.walk(ast.parse(entry.path.read_text())) if isinstance(node, ast.Attribute)
              and node.attr in known and re.search(r"(\b|_)task(\.of\(.*\))?$|Task\.of\(.*\)$", ast.unparse(node.value))}
    optional = {"head"} if name == "guard" else set()   # where the task has one
    assert called <= entry.uses | optional


def test_audits_of_models_without_a_loss_of_examples_or_class_numbers() -> None:
    """A GAN gets what every family's `observe` serves, and nothing that needs a loss, a class or a text."""
    fitting = {name for name, entry in AUDITS.items() if entry.uses <= Gan.provides | {"observe"}}
    assert {"scores", "threshold", "runtime"} <= fitting
    assert not fitting & {"relearn", "residual", "errors", "rmia", "tofu", "erasure"}
    task = toy(Gan)
    assert "made for classification" in applicable(catalogue.load("audits", "residual"), task, 8, "deep")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_stands_in_the_folder_of_the_only_family_it_fits(name: str) -> None:
    """Else in `general`. What trains models for it (`exact`), guards and searches stand apart."""
    entry = METHODS[name]
    folder = entry.module.split(".")[-2]
    if folder not in ("exact", "guard", "search"):
        assert folder == (entry.families[0] if len(entry.families) == 1 else "general")


@pytest.mark.parametrize("name", METHODS)
def test_columns_that_a_method_reads_are_declared(name: str) -> None:
    """`batch.y` and `columns["y"]` need labels or targets, `x` inputs; heads of either kind have both, and who asks whether there
    are class labels knows."""
    entry, read = METHODS[name], set()
    text = entry.path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and node.attr in ("x", "y"):
            read.add(node.attr)
        if isinstance(node, ast.Subscript) and "columns" in ast.unparse(node.value) and isinstance(node.slice, ast.Constant):
            read.add(node.slice.value)
    if "head" not in entry.uses:
        assert "y" not in read or entry.uses & {"labels", "targets"} or "class_labels(" in text
        assert "x" not in read or "inputs" in entry.uses


def test_the_view_hands_out_what_was_declared_and_nothing_else() -> None:
    task = TASKS["classification"]()
    view = task.granted({"forget"}, {"nll"})
    batch = view.forget.batch([0, 1])
    model = task.copy_of_original()
    assert isinstance(view, ClassificationTask)
    assert torch.equal(view.nll(model, batch), task.nll(model, batch))   # that it calls `outputs` is the family's business
    for operation in ("outputs", "features", "class_count", "head"):
        with pytest.raises(NotGranted, match=rf"used '{operation}'.*Add '{operation}' to uses="):
            getattr(view, operation)
    again = view.replaced(model)
    with pytest.raises(NotGranted):
        again.outputs(model, batch)
    assert again.granted({"forget"}, {"outputs"}).outputs(model, batch).shape == (2, 4)   # what it calls says for itself
    assert unlimited(again).outputs(model, batch).shape == (2, 4)
    with pytest.raises(NotGranted):
        unlimited(view).retain   # noqa: B018 (the property raises): data stay as granted


def test_a_modifier_uses_what_it_likes() -> None:
    task = TASKS["classification"]()
    view = task.granted({"forget"}, ())
    loop = Loop(view, Settings(), Modifiers(where={"name": "saliency", "density": 0.5}))
    assert loop.selected(loop.start())


class Toy(Task):
    """Points in the plane; what a family without a loss of single examples has."""

    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"nll": batch.x.sum(1), "score": batch.x.sum(1), "signal": batch.x.sum(1)}

    def save_model(self, model: nn.Module, folder: Path) -> None:
        raise NotImplementedError


class Gan(Toy):
    """Two networks against each other: no loss of a single example, no answer to it."""

    family = "gan"
    provides: ClassVar[frozenset[str]] = frozenset({"features", "observe", "build", "weights"})

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        return batch.x


class Contrastive(Toy):
    """A loss that holds every example against the others of its batch."""

    family = "contrastive"
    provides: ClassVar[frozenset[str]] = frozenset({"outputs", "divergence", "features", "observe", "build", "weights"})

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch.x)

    features = outputs

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        return (p - q).square().mean(1)


def toy(kind: type[Toy]) -> Toy:
    points = Split({"x": torch.randn(30, 2, generator=torch.Generator().manual_seed(0))}, "train")
    return kind(nn.Linear(2, 2), {"forget": points.subset(range(10), "forget"), "retain": points.subset(range(10, 30), "retain")})


@pytest.mark.parametrize("kind", [Gan, Contrastive])
def test_a_family_without_a_loss_per_example_is_offered_no_method_that_uses_one(kind: type[Toy]) -> None:
    task = toy(kind)
    offered = apply.fitting(task)
    assert "laf" in offered and ("bad_teacher" in offered) == (kind is Contrastive)
    assert not any("nll" in METHODS[name].uses for name in offered)
    record = catalogue.load("methods", "finetune")
    with pytest.raises(NeedsUnmet, match=rf"finetune uses batch_loss, which has no meaning for a {task.family} task"):
        apply.require(task, record, record.config())
    with pytest.raises(NeedsUnmet, match=r"no loss of a single example"):
        task.nll(task.original, task.retain.batch([0]))


def test_a_contrastive_family_runs_what_it_is_offered() -> None:
    task = toy(Contrastive)
    record = catalogue.load("methods", "bad_teacher")
    view = task.granted(record.needs, record.uses)
    assert record.run(record.config(epochs=1), view, Loop(view)).model is not None


def test_what_a_family_provides_is_read_from_its_source(tmp_path: Path) -> None:
    path = tmp_path / "gan.py"
    path.write_text('raise SystemExit("imported")\nclass Gan:\n    family = "gan"\n    provides = frozenset({"features"})\n')
    assert dict(declared(path)) == {"gan": frozenset({"features"})}


def test_limits_of_a_limited_view_are_set_anew() -> None:
    view = TASKS["classification"]().granted({"forget"}, {"nll"})
    assert limited(view, {"head"}).head == "head"

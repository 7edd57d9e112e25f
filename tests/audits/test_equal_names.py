"""Audits do not depend on what a user called the splits: all named `train`, they say what they say of well-named ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tiny

from lethe.core import catalogue
from lethe.core.evidence import Value
from lethe.core.registry import Audit
from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.judge.auditor import applicable
from lethe.judge.band import ENOUGH
from lethe.judge.neighbours import perturbed
from lethe.judge.panel import Panel
from lethe.models.classification.task import Classification
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Procedure, Subject

SHORT = {"relearn": {"steps": 2, "few": 1}, "quantise": {"calibration": 16}}   # options that make a long audit short
CHEAP = ("classification", "regression")   # families of cheap shadow models
UNTOUCHED = Procedure("nothing", lambda task, seed: task.original)


def alike(split: Split) -> Split:
    """The split as a user makes it who names none."""
    return Split(split.columns, ids=split.ids, meta=split.meta, padding=split.padding, rule=split.rule)


def equally_named(task: Task) -> Task:
    return task.replaced(task.original, **{role: alike(split) for role, split in task.splits.items()})


def measured(task: Task, family: str) -> Iterator[tuple[str, list[Value]]]:
    """Every audit on one disturbed model beside two others; shadow models where they are cheap. One that fits several families is
    carried out on the first that has what it needs."""
    shadows = Shadows(task, 4, seed=0, strategy="serial") if family in CHEAP else None
    models = (perturbed(task.original, 0.05 * k, generator(k)) for k in range(4))
    original, *others = (Subject(f"m{k}", model, task, procedure=UNTOUCHED) for k, model in enumerate(models))
    panel = Panel(task, original, others[1:], shadows=shadows)
    for name in catalogue.entries("audits"):
        audit = catalogue.load("audits", name)
        if home(audit) == family:
            panel.depth = "deep" if name == "mia_lm" else "standard"   # deep: its gradient norms were mixed up
            yield name, audit.measure(audit.config(**SHORT.get(name, {})), others[0], panel)


def home(audit: Audit) -> str:
    """The first family on whose tiny task the audit can be carried out; '' where there is none."""
    for family, task in tiny.TASKS.items():
        depth = "quick" if family == "diffusion" else "standard"   # longer ones draw pictures for half a minute
        if not applicable(audit, task(), ENOUGH, depth, 4 if family in CHEAP else 0):
            return family
    return ""


@pytest.mark.parametrize("family", sorted(tiny.TASKS))
def test_every_audit_measures_the_same_on_equally_named_splits(family: str):
    task = tiny.TASKS[family]()
    pairs = zip(measured(task, family), measured(equally_named(task), family), strict=True)
    count = 0
    for (name, well), (_, same) in pairs:
        assert [v.metric for v in well] == [v.metric for v in same], name
        for a, b in zip(well, same, strict=True):
            assert a.value == b.value or (np.isnan(a.value) and np.isnan(b.value)), f"{name}: {a.metric}"
            assert (a.per_sample is None) == (b.per_sample is None), name
            if a.per_sample is not None:
                np.testing.assert_array_equal(a.per_sample, b.per_sample, f"{name}: {a.metric}")
        count += len(well)
    assert count


def test_the_gradient_attack_finds_an_untouched_language_model():
    task = equally_named(tiny.lm())
    original = Subject("original", task.original, task)
    audit = catalogue.load("audits", "mia_lm")
    values = {v.metric: v.value for v in audit.measure(audit.config(), original, Panel(task, original, [], depth="deep"))}
    assert values["gradient_auc"] == 1.0


def test_splits_take_the_name_of_their_role_and_keep_data_and_ids():
    task = tiny.classification()
    named = equally_named(task)
    for role, split in named.splits.items():
        assert split.name == role and split.fingerprint == task.splits[role].fingerprint
        assert split.columns["x"].data_ptr() == task.splits[role].columns["x"].data_ptr()


def test_counted_ids_of_two_equally_named_splits_are_different_records():
    task = tiny.classification()
    bare = {role: Split(split.columns) for role, split in task.splits.items()}
    made = Classification(task.original, bare)
    assert made.forget.ids[0] == "forget:0" and made.retain.ids[0] == "retain:0"
    alone = Classification(task.original, {"forget": Split(task.forget.columns)})
    assert alone.forget.ids[0] == "train:0", "what a deletion request names stays"

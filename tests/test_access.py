"""Methods need what they say and no more: each runs without what it calls optional; errors name methods that can run."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import torch
import yaml
from test_matrix import OPTIONS, small
from tiny import TASKS

from lethe.core import catalogue
from lethe.core.task import Task
from lethe.errors import NeedsUnmet
from lethe.train import apply
from lethe.train.loop import Loop, Settings

FAMILIES = ("classification", "regression")
METHODS = {name: entry for name, entry in catalogue.entries("methods").items() if name != "auto"}   # auto runs the others
MORE = {"aru": {"bound": 2.0}, "amun": {"attack_steps": 20}}   # else no example is carried over a boundary
FOLDERS = {"nulls", "s3t", "sgtm", "shard_lora", "sisa", "exact_head"}   # do without by a folder; tested by themselves
# the default suite asks on the first family that a method fits
OPTIONAL = [pytest.param(name, family, need.rstrip("?"), id=f"{name}-{family}-{need.rstrip('?')}",
                         marks=[] if family == next(filter(entry.fits, TASKS)) else [pytest.mark.slow])
            for name, entry in METHODS.items() for family in (*FAMILIES, "lm") for need in entry.needs
            if entry.fits(family) and need.endswith("?")
            and not (name in FOLDERS and need.rstrip("?") in entry.instead)]
LACKS = [("retain",), ("holdout",), ("recipe",), ("forget",), ("retain", "holdout"), ("forget", "retain")]


@cache
def without(family: str, *parts: str) -> Task:
    """The tiny task without some splits or the recipe."""
    whole = TASKS[family]()
    task = whole.replaced(whole.original, **{part: None for part in parts if part in whole.splits})
    task._recipe = None if "recipe" in parts else whole._recipe
    return task.without_original() if "original" in parts else task


def run(name: str, task: Task, **options: Any) -> torch.nn.Module:
    method = catalogue.load("methods", name)
    view = task.granted(method.needs, method.uses)
    cfg = small(method.config, {**OPTIONS.get(name, {}), **MORE.get(name, {}), **options})
    apply.require(task, method, cfg)
    return method.run(cfg, view, Loop(view, Settings(seed=5))).model


@pytest.mark.parametrize(("name", "family", "part"), OPTIONAL)
def test_runs_without_what_it_calls_optional(name: str, family: str, part: str) -> None:
    task, option = without(family, part), METHODS[name].instead.get(part)
    if option is not None:
        named = re.escape(option.split()[0])
        with pytest.raises(NeedsUnmet, match=rf"no {part}.* method\.{named}.*Methods that can run on this task: "):
            run(name, task)
    set_for_it = dict(one.split("=") for one in (option or "").split())
    model = run(name, task, **{key: yaml.safe_load(value) for key, value in set_for_it.items()})
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parts", LACKS, ids="+".join)
def test_errors_list_the_methods_that_can_run_and_no_other(family: str, parts: tuple[str, ...]) -> None:
    if family == "regression" and {"forget", "retain"} <= set(parts):
        pytest.skip("a regression without training targets is no task")
    task = without(family, *parts)
    whole = without(family)
    able = [name for name, entry in METHODS.items() if entry.fits(family) and not whole.lacks(entry.needs)
            and not {*entry.needs, *entry.instead} & set(parts)]
    assert sorted(able) == [name for name in apply.fitting(task) if name != "auto"]
    for name, entry in METHODS.items():
        if entry.fits(family) and name not in able:
            method = catalogue.load("methods", name)
            with pytest.raises(NeedsUnmet) as caught:
                apply.require(task, method, method.config())
            told = str(caught.value).split("Methods that can run on this task: ")[1].rstrip(".")
            assert set(able) <= set(told.split(", ")) and name not in told.split(", ")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_listed_without_retained_data_runs(family: str) -> None:
    task = without(family, "retain")
    for name in apply.fitting(task):
        if name != "auto":
            assert run(name, task) is not None, name

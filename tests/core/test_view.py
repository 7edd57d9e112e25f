"""The grant has no side door: what a method was not granted it cannot reach, and what is taken of unseen data is counted."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

import lethe
from lethe.core import catalogue
from lethe.core.outcome import Outcome
from lethe.core.registry import Method
from lethe.core.task import Task
from lethe.core.view import audited, reserved
from lethe.errors import NeedsUnmet, NotGranted
from lethe.models.classification.task import Classification
from lethe.train.apply import apply
from lethe.train.loop import Loop, Settings
from lethe.train.watchdog import Watch, Watchdog

TASK = tiny.classification()


def without_retain() -> Task:
    return TASK.replaced(retain=None)


def test_splits_go_through_the_gate_and_count():
    view = TASK.granted({"forget", "holdout"})
    assert set(view.splits) == {"forget", "holdout"} and len(view.splits) == 2 and not view.used("holdout")
    assert view.splits["holdout"].fingerprint == reserved(TASK.holdout).fingerprint
    assert view.used("holdout") and not TASK.used("holdout")
    with pytest.raises(NotGranted, match="retain"):
        view.splits["retain"]
    with pytest.raises(NotGranted, match="retain"):
        view.splits.get("retain")
    assert "retain" not in view.splits and "retain" in TASK.splits


def test_iterating_over_splits_counts_what_was_handed_out():
    view = TASK.granted({"forget", "holdout?"})
    assert {len(split) for split in view.splits.values()} == {len(TASK.forget), len(reserved(TASK.holdout))}
    assert view.used("holdout")


def test_the_whole_task_hands_out_everything_and_misses_with_a_key_error():
    assert TASK.splits["holdout"] is TASK.holdout and len(TASK.holdout) == 120
    assert TASK.splits.get("test") is None
    with pytest.raises(KeyError):
        TASK.splits["test"]
    with pytest.raises(NeedsUnmet, match="test"):
        _ = TASK.test


def test_a_view_hands_out_one_half_of_holdout_as_one_object():
    view = TASK.granted({"holdout"})
    assert view.holdout is view.holdout
    assert set(view.holdout.ids) | set(audited(TASK.holdout).ids) == set(TASK.holdout.ids)
    assert not set(view.holdout.ids) & set(audited(TASK.holdout).ids)


@pytest.mark.parametrize("touch", ["original", "model"])
def test_the_frozen_original_is_granted_but_every_method_gets_a_copy_to_work_on(touch: str):
    view = TASK.granted({"forget"})
    with pytest.raises(NotGranted, match="original"):
        getattr(view, touch)
    with pytest.raises(NotGranted, match="original"):
        view.copy_of_original()
    assert isinstance(Loop(view).start(), nn.Module)


def test_the_pipeline_of_a_diffusion_model_holds_its_original():
    task = tiny.diffusion()
    with pytest.raises(NotGranted, match="'original'"):
        _ = task.granted({"forget"}, {"pipeline"}).pipeline.network
    view = task.granted({"original"}, {"pipeline"})
    assert view.pipeline.network is task.original
    other = task.build(1)
    assert torch.equal(next(task.replaced(other).pipeline.network.parameters()), next(other.parameters()))


def test_views_of_views_and_other_tasks_made_of_them_stay_on_the_account():
    view = TASK.granted({"forget", "original", "holdout"})
    step = view.replaced(forget=TASK.forget.subset(range(8), "forget")).granted({"forget", "retain?", "holdout"})
    assert len(step.forget) == 8 and not view.used("holdout")
    with pytest.raises(NotGranted, match="retain"):
        _ = step.retain
    _ = step.holdout
    assert view.used("holdout")


def reaching(touch: str) -> Method:
    """A method that needs the forget set and reaches for more by way of its loop."""
    record = catalogue.load("methods", "gradient_ascent")

    def run(cfg: object, task: Task, loop: Loop) -> Outcome:
        getattr(loop.task, touch)
        return loop.finish(loop.start())

    return replace(record, run=run, needs=frozenset({"forget", "original"}))


@pytest.mark.parametrize("touch", ["retain", "holdout", "recipe"])
def test_the_loop_of_a_method_holds_no_more_than_its_view(touch: str):
    record = reaching(touch)
    with pytest.raises(NotGranted, match=touch):
        apply(TASK, record, record.config(), Settings())


def test_the_outcome_keeps_the_whole_task_for_saving():
    outcome = lethe.forget(TASK, "gradient_ascent", epochs=1, progress=False)
    assert outcome.task is TASK


def test_what_the_watchdog_takes_of_holdout_counts_and_is_the_half_that_audits_leave():
    lonely = without_retain()
    watched = lethe.forget(lonely, "gradient_ascent", epochs=1, progress=False)
    assert watched.unseen_used
    watch = Watch(Watchdog(), lonely, "cpu", 0)
    assert set(watch.gauge.parts["holdout"].ids) <= set(reserved(lonely.holdout).ids)
    assert not lethe.forget(lonely, "gradient_ascent", epochs=1, watchdog=False, progress=False).unseen_used
    assert lethe.forget(TASK, "gradient_ascent", epochs=1, progress=False).unseen_used, "retained data alone do not tell"


def test_a_run_that_is_only_loaded_still_counts_what_its_watchdog_looked_at(tmp_path: Path):
    runs = [lethe.forget(without_retain(), "gradient_ascent", epochs=1, folder=tmp_path, progress=False) for _ in range(2)]
    assert all(run.unseen_used for run in runs)


def test_a_search_gets_what_it_declares_and_takes_the_half_that_audits_leave():
    outcome = lethe.forget(TASK, "auto", methods=("ssd",), trials=1, progress=False)
    assert outcome.unseen_used


def test_a_stand_in_is_a_model_but_no_original():
    task = Classification(TASK.copy_of_original(), dict(TASK.splits)).without_original()
    assert isinstance(task.model, nn.Module) and not task.has("original")
    with pytest.raises(NeedsUnmet, match="original"):
        _ = task.original


def test_private_parts_of_a_task_stay_in_core():
    """`_grant` and what it replaced are read in core alone: elsewhere they would be a side door."""
    house, private = Path(lethe.__file__).parent, re.compile(r"\._(grant|granted|splits|original)\b")
    assert not [str(file.relative_to(house)) for file in house.rglob("*.py")
                if file.parent != house / "core" and private.search(file.read_text())]

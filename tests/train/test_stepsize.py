"""A learning rate that ruins the model is lowered from the start of the call; one that holds changes nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny import TASKS

import lethe
from lethe.core import catalogue
from lethe.core.modules import named_tensors, state_fingerprint
from lethe.core.split import Batch
from lethe.errors import NeedsUnmet
from lethe.models.classification.task import Classification
from lethe.train.loop import Loop, Settings, Term
from lethe.train.run import Run
from lethe.train.step_size import SHRINK, StepSize
from lethe.train.watchdog import Watchdog, watching

TASK = TASKS["classification"]()
WATCHDOG = Watchdog(checks=20)


def finetuned(loop: Loop, lr: float) -> torch.nn.Module:
    """Training whose loss is NaN as soon as a weight is large: what a learning rate far too high leads to."""
    def loss(m: torch.nn.Module, b: Batch) -> torch.Tensor:
        large = max(float(p.detach().abs().max()) for p in m.parameters())
        return TASK.nll(m, b) * (1.0 if large < 4 else float("nan"))

    return loop.minimise(loop.start(), {"retain": Term(TASK.retain, loss)}, lr=lr, steps=40, batch_size=16, optimiser="sgd",
                         momentum=0.9)


def test_the_share_and_the_window() -> None:
    """Two tries are a factor of ten; of 40 steps the first 10 are the window."""
    size = StepSize(tries=2)
    assert size.may_lower(10, 40) and not size.may_lower(11, 40)
    assert size.may_lower(1, 2), "a call of two steps has a window of one"
    size.lower({})
    size.lower({})
    assert math.isclose(size.share, 0.1) and not size.may_lower(1, 40)


def test_a_rate_that_holds_is_kept_bit_for_bit() -> None:
    watched, free = Loop(TASK, watchdog=WATCHDOG), Loop(TASK)
    assert state_fingerprint(finetuned(watched, 0.01)) == state_fingerprint(finetuned(free, 0.01))
    assert not watched.notes and watched.cost.steps == 40


def test_a_rate_that_breaks_the_weights_ends_as_the_lowered_rate_would() -> None:
    loop = Loop(TASK, watchdog=WATCHDOG)
    model = finetuned(loop, 3.0)
    lowered = loop.step_size.lowered
    assert 0 < lowered <= 3 and len(loop.notes) == lowered and "learning rate lowered to 0.949" in loop.notes[0]
    direct = finetuned(Loop(TASK), 3.0 * SHRINK**lowered)
    assert state_fingerprint(direct) == state_fingerprint(model)


def test_a_lowered_rate_stays_lowered_in_later_calls() -> None:
    loop = Loop(TASK, watchdog=WATCHDOG)
    finetuned(loop, 3.0)
    before = loop.step_size.lowered
    finetuned(loop, 1e-3)
    assert loop.step_size.lowered == before > 0


def test_a_run_that_was_killed_after_lowering_ends_in_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = finetuned(Loop(TASK, watchdog=WATCHDOG), 3.0)
    step = Run._step
    count = 0

    def killed(self: Run, number: int) -> None:
        nonlocal count
        count += 1
        if count == 25:
            raise RuntimeError("killed")
        step(self, number)

    monkeypatch.setattr(Run, "_step", killed)
    settings = Settings(checkpoint_seconds=0.0)
    with pytest.raises(RuntimeError, match="killed"):
        finetuned(Loop(TASK, settings, watchdog=WATCHDOG, folder=tmp_path), 3.0)
    monkeypatch.setattr(Run, "_step", step)
    loop = Loop(TASK, settings, watchdog=WATCHDOG, folder=tmp_path)
    again = finetuned(loop, 3.0)
    assert loop.step_size.lowered and state_fingerprint(again) == state_fingerprint(whole)
    assert all(torch.equal(a, b) for a, b in zip(named_tensors(again).values(), named_tensors(whole).values(), strict=True))


def test_the_usual_guard_is_on_where_there_are_data_and_can_be_turned_off() -> None:
    lonely = Classification(TASK.copy_of_original(), {"forget": TASK.forget})
    ascent = catalogue.load("methods", "gradient_ascent")
    assert watching(None, ascent, TASK) == Watchdog() and watching(None, ascent, lonely) is None
    safe = lethe.forget(TASK, "gradient_ascent", lr=1e30, clip=None, progress=False)
    with pytest.raises(lethe.errors.Diverged):
        lethe.forget(TASK, "gradient_ascent", lr=1e30, clip=None, progress=False, watchdog=False)
    assert any("learning rate lowered" in note for note in safe.notes)
    assert safe.fall and safe.fall.part == "weights" and safe.unchanged


def test_what_a_task_cannot_serve_is_an_error_that_lists_what_can() -> None:
    lonely = Classification(TASK.copy_of_original(), {"forget": TASK.forget})
    with pytest.raises(NeedsUnmet, match=r"finetune: the task has no retain.*can run on this task:.*gradient_ascent") as caught:
        lethe.forget(lonely, "finetune")
    listed = str(caught.value).split("can run on this task:")[1]
    assert "finetune" not in listed and "npo" not in listed
    with pytest.raises(NeedsUnmet, match=r"npo uses sequence_logp, which has no meaning for a classification task.*scrub"):
        lethe.forget(TASK, "npo")

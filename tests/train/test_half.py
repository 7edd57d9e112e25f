"""Weights in bfloat16 move by steps below what bfloat16 can hold apart, and an interrupted run goes on exactly."""

from __future__ import annotations

from pathlib import Path

import lm_architectures as architectures
import pytest
import torch

from lethe.core.modules import named_tensors
from lethe.core.outcome import Outcome
from lethe.core.task import Task
from lethe.models.lm.open import language_model, load_folder, load_tokenizer
from lethe.train import optimise
from lethe.train.loop import Loop, Modifiers, Settings, Term
from lethe.train.run import Run


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """A language model whose weights are bfloat16 in memory."""
    folder = architectures.saved("llama", tmp_path_factory.mktemp("half") / "model")
    rows = architectures.people()
    return language_model(load_folder(folder, dtype="bfloat16"), load_tokenizer(folder), forget=rows[:6], retain=rows[6:])


def run(task: Task, folder: Path | None = None, **modifiers: object) -> Outcome:
    loop = Loop(task, Settings(checkpoint_seconds=0), Modifiers(**modifiers), folder=folder)
    model = loop.start()

    def loss(m: torch.nn.Module, b: object) -> torch.Tensor:
        return sum(p.float().sum() for p in m.parameters()).expand(len(b))   # the gradient of every weight is 1

    loop.minimise(model, {"retain": Term(task.retain, loss)}, steps=40, batch_size=8, optimiser="sgd", momentum=0.0, lr=1e-5)
    return loop.finish(model)


def test_small_steps_add_up_and_the_share_that_moved_is_reported(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    before = named_tensors(task.original)
    outcome = run(task)
    for name, p in outcome.model.named_parameters():   # float32 steps, rounded at the end; their sum differs in the last digits
        want = before[name].float() - 40 * 1e-5
        assert ((p.float() - want).abs() <= want.abs() / 256 + 1e-6).all()
    told = next(float(note.split("%")[0]) for note in outcome.notes if "half precision" in note)
    monkeypatch.setattr(optimise, "masters", dict)   # as it was: bfloat16 steps on bfloat16 weights
    lost = next(float(note.split("%")[0]) for note in run(task).notes if "half precision" in note)
    assert told > 4 * lost


def test_a_stopped_run_goes_on_exactly(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(task, tmp_path / "whole", average="ema")
    step = Run._step

    def failing(self: Run, number: int) -> None:
        if number == 25:
            raise KeyboardInterrupt
        step(self, number)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Run, "_step", failing)
        run(task, tmp_path / "stopped", average="ema")
    again = run(task, tmp_path / "stopped", average="ema")
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))

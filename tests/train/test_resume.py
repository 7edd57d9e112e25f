"""A run that is killed at any moment and repeated ends in the same bits; a checkpoint of other work is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from killed_script import CALLS, STEPS, dropping, run

from lethe.core.modules import named_tensors
from lethe.core.outcome import Outcome
from lethe.errors import CheckpointCorrupted
from lethe.train.checkpoint import Checkpoints, load_tensors
from lethe.train.loop import Loop, Settings, Term
from lethe.train.run import Run

SCRIPT = Path(__file__).with_name("killed_script.py")


def start(folder: Path, out: Path, pause: float) -> subprocess.Popen[str]:
    roots = [str(SCRIPT.parents[1]), str(SCRIPT.parents[2])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(roots)}
    command = [sys.executable, str(SCRIPT), str(folder), str(out), str(pause)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_killed_twice_ends_in_the_same_bits(tmp_path: Path) -> None:
    """kill -9 at two unforeseen moments, one in the first turn of ascent and one in the second."""
    whole = run(dropping(), None)
    folder, out = tmp_path / "run", tmp_path / "out.safetensors"
    for call, wait in ((0, 0.23), (2, 0.11)):
        process = start(folder, out, 0.05)
        while process.poll() is None and not (current(folder) or [0, 0]) >= [call, 1]:
            time.sleep(0.002)
        time.sleep(wait)
        assert process.poll() is None, process.stderr and process.stderr.read()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not out.exists()
    process = start(folder, out, 0.0)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    tensors, meta = load_tensors(out)
    assert same_bits(dict(named_tensors(whole.model)), tensors)
    assert meta == {"steps": CALLS * STEPS, "examples": whole.cost.examples, "notes": whole.notes}


def test_checkpoints_of_a_large_model_take_a_twentieth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a step takes 7 seconds and a checkpoint as many as its bytes say: also before the first was written."""
    now, spent, shares, step = 0.0, 0.0, [], Run._step

    def stepped(self: Run, number: int) -> None:
        nonlocal now
        step(self, number)
        now += 7.0
        shares.append(spent / now)

    def saved(self: Checkpoints, tensors: dict[str, torch.Tensor], meta: dict[str, object]) -> None:
        nonlocal now, spent
        took = sum(value.nbytes for value in tensors.values()) / RATE
        now, spent = now + took, spent + took

    task = tiny.classification()
    size = sum(value.nbytes for value in task.original.parameters())
    monkeypatch.setattr("lethe.train.run.RATE", RATE := 3 * size / 20)   # 20 seconds
    monkeypatch.setattr("lethe.train.run.is_large", lambda _: True)
    monkeypatch.setattr("lethe.train.run.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(Run, "_step", stepped)
    monkeypatch.setattr(Checkpoints, "save", saved)
    loop = Loop(task, Settings(seed=0), folder=tmp_path)
    model = loop.start()
    loop.minimise(model, {"forget": Term(task.forget, task.nll)}, lr=1e-3, steps=200)
    assert len(shares) == 200 and shares[-1] > 0.03 and max(shares) <= 0.05


def current(folder: Path) -> list[int] | None:
    """(call, step) of the checkpoint that stands in the folder."""
    try:
        _, meta = load_tensors(folder / "current.safetensors")
    except CheckpointCorrupted:   # it is not there, or was replaced while it was read
        return None
    return [meta["call"], meta["step"]]


def interrupted(folder: Path, call: int, step: int, point: str) -> None:
    """Run until a point of the work and leave everything as it lies."""
    original = getattr(Run, point)

    def stop(self: Run, now: int, *more: object) -> None:
        if point == "_checkpoint":
            original(self, now, *more)
        if (self.call, now) == (call, step):
            raise KeyboardInterrupt
        if point != "_checkpoint":
            original(self, now, *more)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, point, stop)
        run(dropping(), folder)


@pytest.mark.parametrize(("call", "step", "point"), [
    (0, 1, "_checkpoint"), (0, 10, "_checkpoint"), (1, 7, "_step"), (2, 0, "_step"), (3, 9, "_log"),
])
def test_every_place_of_interruption_resumes_to_the_same_bits(call: int, step: int, point: str, tmp_path: Path) -> None:
    whole = run(dropping(), tmp_path / "whole")
    interrupted(tmp_path / "run", call, step, point)
    repeated = run(dropping(), tmp_path / "run")
    assert same_bits(dict(named_tensors(whole.model)), dict(named_tensors(repeated.model)))
    assert (whole.cost.steps, whole.cost.examples) == (repeated.cost.steps, repeated.cost.examples)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "run")]
    assert logs[0] == logs[1]
    assert len({(line["call"], line["step"]) for line in map(json.loads, logs[0].splitlines())}) == CALLS * STEPS


def test_a_torn_log_line_does_not_stop_a_resume(tmp_path: Path) -> None:
    interrupted(tmp_path, 1, 7, "_step")
    with open(tmp_path / "log.jsonl", "a") as handle:
        handle.write('{"call": 1, "st')
    run(dropping(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(lines) == CALLS * STEPS


def test_a_finished_run_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(dropping(), tmp_path)
    monkeypatch.setattr(Run, "go", lambda self: pytest.fail("computed again"))
    again = run(dropping(), tmp_path)
    assert same_bits(dict(named_tensors(whole.model)), dict(named_tensors(again.model)))
    assert again.cost.steps == whole.cost.steps
    assert again.cost.seconds == pytest.approx(whole.cost.seconds, rel=1)


def test_the_interval_of_checkpoints_and_the_folder_change_nothing(tmp_path: Path) -> None:
    models = [run(dropping(), None), run(dropping(), tmp_path / "a"), run(dropping(), tmp_path / "b", every=1e9)]
    states = [dict(named_tensors(outcome.model)) for outcome in models]
    assert same_bits(states[0], states[1]) and same_bits(states[0], states[2])


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    task = dropping()
    torch.set_rng_state(before)
    run(task, None)
    assert torch.equal(before, torch.get_rng_state())


def finetune(folder: Path, lr: float = 1e-2, max_steps: int | None = None, batch_size: int = 16) -> Outcome:
    task = tiny.TASKS["classification"]()
    loop = Loop(task, Settings(checkpoint_seconds=0, max_steps=max_steps), folder=folder)
    model = loop.start()
    loop.minimise(model, {"retain": Term(task.retain, task.nll)}, lr=lr, steps=6, batch_size=batch_size)
    return loop.finish(model)


@pytest.mark.parametrize("other", [{"lr": 2e-2}, {"max_steps": 3}, {"batch_size": 8}])
def test_checkpoints_of_other_settings_are_refused(other: dict, tmp_path: Path) -> None:
    finetune(tmp_path)
    with pytest.raises(CheckpointCorrupted, match="other settings"):
        finetune(tmp_path, **other)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    finetune(tmp_path)
    path = tmp_path / "call-0.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointCorrupted, match="digest"):
        finetune(tmp_path)


def test_tables_of_two_splits_under_one_key_are_not_mixed_up(tmp_path: Path) -> None:
    task = tiny.TASKS["classification"]()
    loop = Loop(task, folder=tmp_path)
    forget, retain = (loop.reference("logits", task.outputs, split) for split in (task.forget, task.retain))
    for split, said in ((task.forget, forget), (task.retain, retain)):
        batch = split.batch([4, 1])
        assert torch.equal(said(batch), loop.reference("logits", task.outputs, split)(batch))
        assert torch.allclose(said(batch), task.outputs(task.original, batch), atol=1e-6)

"""Ctrl-C in the middle of a run: the step ends, a checkpoint stays, and the repeated run ends in the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from tiny import classification

import lethe
from lethe.core.events import Advanced, Ended, Event, Started
from lethe.core.modules import state_fingerprint
from lethe.core.split import Batch
from lethe.core.task import Task
from lethe.train.loop import Loop, Settings, Term
from lethe.train.stop import Interrupt, Stop, Stopped

STEPS = 30


def descend(task: Task, folder: Path | None, press_at: int | None = None) -> torch.nn.Module:
    """30 steps; Ctrl-C is pressed inside the loss of step `press_at`."""
    loop = Loop(task, Settings(checkpoint_seconds=3600), folder=folder)
    seen = []

    def loss(model: torch.nn.Module, batch: object) -> torch.Tensor:
        seen.append(1)
        if len(seen) == press_at:
            os.kill(os.getpid(), signal.SIGINT)
        return task.nll(model, batch)

    return loop.minimise(loop.start(), {"retain": Term(task.retain, loss)}, lr=1e-2, steps=STEPS, batch_size=16)


@pytest.mark.parametrize("step", [1, 7, STEPS])
def test_ctrl_c_leaves_a_checkpoint_that_resumes_to_the_same_bits(tmp_path: Path, step: int) -> None:
    task = classification()
    original = task.fingerprint["original"]
    with pytest.raises(KeyboardInterrupt, match=f"step {step} of {STEPS}"):
        descend(task, tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".jsonl") == ["current.safetensors"]
    resumed = state_fingerprint(descend(task, tmp_path))
    assert resumed == state_fingerprint(descend(task, None))
    assert task.fingerprint["original"] == original


def test_without_a_folder_ctrl_c_stops_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        descend(classification(), None, 3)
    assert not list(tmp_path.iterdir())


def test_the_second_ctrl_c_stops_at_once_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one was not obeyed")
    assert signal.getsignal(signal.SIGINT) is before


def from_a_thread(stop: Stop, task: Task, folder: Path | None) -> None:
    """Another thread sets the token while the fifth step is at work."""
    at_work, seen = threading.Event(), []
    setter = threading.Thread(target=lambda: (at_work.wait(60), stop.set("the worker was told to stop")))
    setter.start()

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        seen.append(1)
        if len(seen) == 5:
            at_work.set()
            setter.join()
        return task.nll(model, batch)

    loop = Loop(task, Settings(checkpoint_seconds=3600), folder=folder, stop=stop)
    loop.minimise(loop.start(), {"retain": Term(task.retain, loss)}, lr=1e-2, steps=STEPS, batch_size=16)


def test_a_token_set_by_another_thread_stops_a_run_that_resumes_to_the_same_bits(tmp_path: Path) -> None:
    task, stop = classification(), Stop()
    with pytest.raises(Stopped, match=f"step 5 of {STEPS} .the worker was told to stop"):
        from_a_thread(stop, task, tmp_path)
    assert [p.name for p in tmp_path.glob("*.safetensors")] == ["current.safetensors"]
    assert state_fingerprint(descend(task, tmp_path)) == state_fingerprint(descend(task, None))


def test_a_listener_may_stop_the_run_that_it_listens_to() -> None:
    """By the public call: a budget of a caller's own."""
    stop, heard = Stop(), []

    def budget(event: Event) -> None:
        heard.append(event)
        if isinstance(event, Advanced) and event.step == 2:
            stop.set("enough")

    with pytest.raises(Stopped, match=r"step 2 of .*enough"):
        lethe.forget(classification(), "finetune", epochs=3, progress=budget, stop=stop)
    assert isinstance(heard[0], Started) and isinstance(heard[-1], Ended)


def test_a_token_stays_set_and_keeps_its_first_reason() -> None:
    stop = Stop()
    assert not stop.is_set
    stop.set("time is over")
    stop.set("again")
    assert stop.is_set and stop.reason == "time is over"
    task = classification()
    loop = Loop(task, stop=stop)
    with pytest.raises(Stopped, match="step 1 of"):   # whoever begins with it ends after a step
        loop.minimise(loop.start(), {"retain": Term(task.retain, task.nll)}, lr=1e-2, steps=STEPS, batch_size=16)
    assert not issubclass(Stopped, Exception)   # nobody takes it for the failure of a method


def test_a_press_that_the_block_did_not_look_at_is_not_lost() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupt():
        signal.raise_signal(signal.SIGINT)


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tiny import classification
from lethe.train.loop import Loop, Settings, Term
task = classification()
loop = Loop(task, Settings(checkpoint_seconds=3600), folder=Path(sys.argv[1]))
def loss(model, batch):
    print("step", flush=True)
    return task.nll(model, batch)
loop.minimise(loop.start(), {"retain": Term(task.retain, loss)}, lr=1e-2, steps=10**6, batch_size=16)
"""


@pytest.mark.parametrize(("number", "ending", "words"), [
    (signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt: stopped after step"),
    (signal.SIGTERM, 1, "Stopped: stopped after step")])
def test_a_process_that_gets_a_signal_ends_with_a_readable_checkpoint(
    number: signal.Signals, ending: int, words: str, tmp_path: Path
) -> None:
    from lethe.train.checkpoint import load_tensors

    env = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests", "."]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], env=env, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout is not None and process.stdout.readline() == "step\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == ending and words in said
    tensors, meta = load_tensors(tmp_path / "current.safetensors")
    assert meta["step"] >= 1 and any(key.startswith("opt/") for key in tensors)
    assert not list(tmp_path.glob("*.tmp"))

"""Backends that leave this process: devices, SLURM's local executor, Ray. The same bits as one model after the other."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from test_pool import difference, mlp_task, weights, work

from lethe.core.events import Advanced, Ended, Event, Started
from lethe.errors import Diverged, RequestError, WorkerDied
from lethe.pools import backends
from lethe.pools.backends import backend, vmap
from lethe.pools.backends.gpus import over_devices
from lethe.pools.backends.slurm import parcels, submitted
from lethe.pools.member import Work, members_of
from lethe.pools.pool import FOLDER, train_pool
from lethe.pools.strategy import chosen
from lethe.train.stop import Stop, Stopped

HERE = Path(__file__).parent


def over(folder: Path, count: int, **recipe: object) -> Work:
    """The members of a pool of the MLP, to be kept in this cache."""
    task = mlp_task(**recipe)
    return Work(task, members_of(task, count, 0), "cpu", folder / FOLDER)


def equals_serial(folder: Path, count: int, **recipe: object) -> bool:
    """Whether the cache holds, bit for bit, what one model after the other makes."""
    kept = train_pool(mlp_task(**recipe), count=count, cache=folder, strategy="serial")
    return kept.trained == 0 and difference(kept, train_pool(mlp_task(**recipe), count=count, strategy="serial")) == 0


def steps(heard: list[Event]) -> list[int]:
    return [event.step for event in heard if isinstance(event, Advanced)]


SLOW = [pytest.mark.slow]
RAY = [*SLOW, pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="missing: pip install 'lethe-unlearning[ray]'")]
WAYS: dict[str, Callable[[Work], None]] = {
    "serial": backend("serial").train, "processes": backend("processes").train, "gpus": lambda work: over_devices(work, ["cpu"]),
    "slurm": lambda work: submitted(work, "local", at_once=2), "ray": backend("ray").train}


@pytest.mark.parametrize("name", ["serial", "processes", pytest.param("gpus", marks=SLOW), pytest.param("slurm", marks=SLOW),
                                  pytest.param("ray", marks=RAY)])
def test_a_token_ends_a_pool_between_two_models_and_what_is_done_stays(name: str, tmp_path: Path) -> None:
    stop, work = Stop(), over(tmp_path, 9, epochs=1)

    def after_the_first(event: Event) -> None:
        if isinstance(event, Advanced):
            stop.set("enough")

    with pytest.raises(Stopped, match="enough"):
        WAYS[name](replace(work, listener=after_the_first, stop=stop))
    assert not list(work.folder.glob("slurm/*")), "the pickled data stay behind"
    kept = len(list(work.folder.glob("*.safetensors")))
    assert 1 <= kept < 9
    again = train_pool(work.task, count=9, cache=tmp_path, strategy="serial")
    assert again.trained == 9 - kept


@pytest.mark.parametrize("shares", [1, 2])
def test_a_token_cuts_a_stack_off_since_none_of_its_models_is_done(shares: int, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmap, "dealt", lambda work: work.shares(shares))
    stop, began = Stop(), time.perf_counter()
    threading.Timer(0.3, stop.set, ["enough"]).start()
    with pytest.raises(Stopped, match="enough"):
        backend("vmap").train(replace(over(tmp_path, 4, epochs=1e5), stop=stop))
    assert time.perf_counter() - began < 20 and not list(tmp_path.glob("pool/*.safetensors"))


def test_a_process_for_each_device_gives_the_same_bits(tmp_path: Path) -> None:
    """Two CPUs in the place of two GPUs; five members, so that one device has three of them."""
    heard: list[Event] = []
    asked = over(tmp_path, 5, epochs=1)
    over_devices(replace(asked, listener=heard.append), ["cpu", "cpu"])
    assert equals_serial(tmp_path, 5, epochs=1)
    assert heard[0] == Started("models", 0, 0, 5) and heard[-1] == Ended("models", 0)
    assert steps(heard) == [1, 2, 3, 4, 5]


def test_an_error_on_a_device_arrives_as_itself(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="loss became"):
        over_devices(over(tmp_path, 1, lr=1e30, optimiser="sgd"), ["cpu"])


@pytest.mark.slow   # below, jobs that go on after a kill give the same bits
def test_jobs_of_the_local_cluster_give_the_same_bits_in_chunks(tmp_path: Path) -> None:
    heard: list[Event] = []
    submitted(replace(over(tmp_path, 2, epochs=1), listener=heard.append), "local", at_once=1)
    assert equals_serial(tmp_path, 2, epochs=1)
    assert steps(heard) == [1, 2]
    assert not list((tmp_path / FOLDER / "slurm").iterdir()), "the pickled data stay behind"


@pytest.mark.slow
def test_an_error_in_a_job_arrives_as_itself(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="loss became"):
        submitted(over(tmp_path, 1, lr=1e30, optimiser="sgd"), "local")


def test_refusals_name_the_obstacle_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    for name, why in (("gpus", "not a GPU.*settings.device=cuda"), ("slurm", "sbatch is not on the path.*processes")):
        with pytest.raises(RequestError, match=why):
            chosen(work(2), name)
    monkeypatch.setattr("lethe.pools.backends.slurm.find_spec", lambda name: None)
    monkeypatch.setattr("lethe.pools.backends.ray.find_spec", lambda name: None)
    for name in ("slurm", "ray"):
        with pytest.raises(RequestError, match=rf"lethe-unlearning\[{name}\]"):
            chosen(work(2), name)


def test_auto_starts_nothing_beyond_this_machine() -> None:
    assert {name for name in backends.names() if backends.backend(name).measured} == {"serial", "processes", "vmap"}


SLOW_JOBS = """
import sys, time
from pathlib import Path
import torch
from test_backends import over, submitted
from lethe.models.classification.task import Classification

class Slow(Classification):
    def nll(self, model, batch):
        time.sleep(0.02)
        return super().nll(model, batch)

if __name__ == "__main__":
    torch.set_num_threads(1)
    asked = over(Path(sys.argv[1]), 4)
    asked.task.__class__ = Slow
    submitted(asked, "local", at_once=2)
"""


def test_a_killed_pool_of_jobs_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_JOBS)
    roots = [str(HERE), str(HERE.parent), str(HERE.parents[1]), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(roots)}
    process = subprocess.Popen([sys.executable, str(tmp_path / "slow.py"), str(tmp_path)], env=environment,
                               stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("pool/*.safetensors")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(2)   # jobs are processes of their own: those that run finish their model
    there = len(list(tmp_path.glob("pool/*.safetensors")))
    assert 1 <= there < 4
    assert list(tmp_path.glob("pool/slurm/*"))   # the parcels of the killed pool, until the next one starts
    with parcels(tmp_path / FOLDER / "slurm"):
        assert not list(tmp_path.glob("pool/slurm/*"))
    again = train_pool(mlp_task(), count=4, cache=tmp_path, strategy="serial")
    assert again.trained == 4 - there
    assert equals_serial(tmp_path, 4)


@pytest.mark.parametrize("name", [pytest.param("ray", marks=RAY)])
def test_ray_gives_the_same_bits_and_errors(name: str, tmp_path: Path) -> None:
    backend(name).train(over(tmp_path, 3, epochs=1))
    assert equals_serial(tmp_path, 3, epochs=1)
    with pytest.raises(Diverged, match="loss became"):
        backend(name).train(over(tmp_path, 2, lr=1e30, optimiser="sgd"))
    assert not import_module("ray").is_initialized(), "the cluster of this machine still runs"


@pytest.mark.gpu
def test_gpus_give_the_bits_of_one_gpu(tmp_path: Path) -> None:
    task = mlp_task(epochs=1)
    pools = [train_pool(task, count=4, strategy=way, device="cuda") for way in ("serial", "gpus")]
    assert torch.equal(*(torch.stack([weights(model).cpu() for model in pool.models]) for pool in pools))


@pytest.mark.slow
def test_a_job_that_dies_is_reported(tmp_path: Path) -> None:
    asked = over(tmp_path, 1)
    asked.task._build = lambda seed: os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(WorkerDied, match=r"job \w+ ended before"):
        submitted(asked, "local")
    kept = {file.suffix for file in asked.folder.glob("slurm/*/*")}
    assert ".err" in kept and ".pkl" not in kept   # the logs, not the data

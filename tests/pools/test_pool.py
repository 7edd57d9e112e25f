"""Pools: every way of training gives the models of `retrain`; finished models are never trained again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import rounding
import tiny
import torch
from torch import nn

from lethe.core.catalogue import load
from lethe.core.events import spoken
from lethe.core.task import Recipe, Task
from lethe.errors import Diverged, RequestError, UnknownName, WorkerDied
from lethe.models.classification.task import Classification
from lethe.models.zoo.mlp import MLP
from lethe.models.zoo.small_cnn import SmallCNN
from lethe.pools import backends, measure, pool, strategy, workers
from lethe.pools.backends import vmap
from lethe.pools.backends.processes import Processes
from lethe.pools.contract import Backend
from lethe.pools.member import Work, fingerprint, member_seed, members_of
from lethe.pools.pool import Pool, train_pool
from lethe.pools.stack import Stack, why_no_vmap
from lethe.pools.workers import in_processes, why_no_processes
from lethe.train.loop import Loop, Settings
from lethe.train.stop import Stop


def mlp_task(**recipe: object) -> Task:
    """A fresh MLP on 120 points, 4 steps per epoch (the last batch is shorter)."""
    splits = {"retain": tiny.blobs(120, 0, "retain"), "forget": tiny.blobs(20, 1, "forget")}
    torch.manual_seed(0)
    options = {"epochs": 5, "lr": 1e-2, "batch_size": 32, **recipe}
    return Classification(MLP(6, (8,), 4), splits, Recipe(**options), lambda seed: MLP(6, (8,), 4))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in model.state_dict().values()])


def difference(one: Pool, other: Pool) -> float:
    return max(float((weights(a) - weights(b)).abs().max()) for a, b in zip(one.models, other.models, strict=True))


@pytest.mark.parametrize("way", ["serial", "processes"])
def test_a_member_is_what_the_method_retrain_makes(way: str) -> None:
    task, retrain = mlp_task(), load("methods", "retrain")
    made = train_pool(task, count=3, seed=4, strategy=way)
    for number, model in enumerate(made.models):
        loop = Loop(task, Settings(seed=member_seed(4, number)))
        alone = retrain.run(retrain.config(), task.granted(retrain.needs), loop).model
        assert torch.equal(weights(alone), weights(model))   # one thread: the same bits
        assert not model.training
    assert len({float(weights(model).sum()) for model in made.models}) == 3


@pytest.mark.parametrize("recipe", [
    {"optimiser": "adamw", "weight_decay": 0.1}, {"optimiser": "sgd", "schedule": "cosine"}, {"schedule": "onecycle"},
])
def test_stacked_training_equals_the_loop(recipe: dict) -> None:
    """20 steps; float32 sums in another order differ by rounding alone."""
    task = mlp_task(**recipe)
    alone, stacked = (train_pool(task, count=3, seed=1, strategy=s) for s in ("serial", "vmap"))
    assert difference(alone, stacked) < rounding.bound(20, dict(alone.models[0].named_parameters()))
    assert float((weights(alone.models[0]) - weights(alone.models[1])).abs().max()) > 0.1


def test_each_model_may_have_its_own_data() -> None:
    """Shadow models: same size, other examples."""
    task = mlp_task()
    halves = [task.retain.subset(range(start, 120, 2), f"half {start}") for start in (0, 1)]
    alone, stacked = (train_pool(task, split_of=lambda i: halves[i % 2], count=4, strategy=s) for s in ("serial", "vmap"))
    assert difference(alone, stacked) < rounding.bound(20, dict(alone.models[0].named_parameters()))
    seen_all = train_pool(task, count=1, strategy="serial")
    assert not torch.allclose(weights(seen_all.models[0]), weights(alone.models[0]))


@pytest.mark.parametrize("way", ["serial", "processes", "vmap"])
def test_a_second_call_trains_nothing(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = mlp_task(epochs=1)
    first = train_pool(task, count=3, strategy=way, cache=tmp_path)
    assert first.trained == 3
    monkeypatch.setattr(pool, "train", lambda *a: pytest.fail("trained again"))
    again = train_pool(task, count=3, strategy=way, cache=tmp_path)
    assert (again.trained, again.strategy) == (0, "cache")
    assert difference(first, again) == 0
    assert again.seconds == first.seconds and again.cpu_seconds == first.cpu_seconds
    assert all(cpu is not None and cpu > 0 for cpu in first.cpu_seconds)


def test_what_determines_a_model_is_in_its_key(tmp_path: Path) -> None:
    """Another recipe, seed, data or architecture (even with equal weights) is another model."""
    task = mlp_task(epochs=1)
    other_data = mlp_task(epochs=1)
    other_data = other_data.replaced(retain=tiny.blobs(120, 9, "retain"))
    deaf = mlp_task(epochs=1)
    deaf._build = lambda seed: nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    deafer = mlp_task(epochs=1)
    deafer._build = lambda seed: nn.Sequential(nn.Linear(6, 4), nn.Tanh())
    tasks = [task, mlp_task(epochs=2), other_data, deaf, deafer]
    keys = [fingerprint(t, t.retain, 1, "cpu") for t in tasks] + [fingerprint(task, task.retain, 2, "cpu")]
    assert len(set(keys)) == 6
    assert fingerprint(mlp_task(epochs=1), task.retain, 1, "cpu") == keys[0]


def test_only_what_is_missing_is_trained(tmp_path: Path) -> None:
    task = mlp_task(epochs=1)
    first = train_pool(task, count=2, strategy="serial", cache=tmp_path)
    more = train_pool(task, count=4, strategy="serial", cache=tmp_path)
    assert more.trained == 2
    assert torch.equal(weights(first.models[1]), weights(more.models[1]))


SLOW_POOL = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_pool import mlp_task, train_pool
from lethe.models.classification.task import Classification
nll = Classification.nll
Classification.nll = lambda self, model, batch: (time.sleep(0.02), nll(self, model, batch))[1]
train_pool(mlp_task(), count=6, strategy=sys.argv[2], cache=Path(sys.argv[1]))
"""


@pytest.mark.parametrize("way", ["serial", "processes"])
def test_a_killed_pool_goes_on_with_what_is_missing(way: str, tmp_path: Path) -> None:
    here = Path(__file__).parent
    roots = [str(here), str(here.parent), str(here.parents[1])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(roots)}
    process = subprocess.Popen([sys.executable, "-c", SLOW_POOL, str(tmp_path), way], env=environment)
    while len(list(tmp_path.glob("pool/*.safetensors"))) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)   # workers end by themselves after the model they are at
    there = len(list(tmp_path.glob("pool/*.safetensors")))
    assert 2 <= there < 6
    task = mlp_task()
    made = train_pool(task, count=6, strategy="serial", cache=tmp_path)
    assert made.trained == 6 - there
    assert difference(made, train_pool(task, count=6, strategy="serial")) == 0


def test_auto_measures_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "WORTH", 0.0)
    monkeypatch.setattr(measure, "PROBE", 0.05)
    said: list[str] = []
    made = train_pool(mlp_task(), count=4, strategy="auto", listener=spoken(said.append))
    assert made.strategy in ("serial", "processes", "vmap")
    assert all(f"{name} about" in made.reason for name in ("serial", "vmap"))
    assert made.reason.startswith(f"{made.strategy}: 4 models of 20 steps, measured {made.strategy} about")
    assert said[0] == "training 4 models", "why this way is no matter of who waits"


def test_auto_takes_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "WORTH", 0.0)
    monkeypatch.setattr(Processes, "obstacle", lambda self, work: "not here")
    monkeypatch.setattr(strategy, "seconds_per_step", lambda task, member, device: 1.0)
    monkeypatch.setattr(vmap, "dealt", lambda work: [work])
    monkeypatch.setattr(Stack, "seconds_per_step", lambda self, seconds: 3.9)
    assert strategy.chosen(work(4), "auto")[0] == "vmap"
    monkeypatch.setattr(Stack, "seconds_per_step", lambda self, seconds: 4.1)
    name, reason = strategy.chosen(work(4), "auto")
    assert name == "serial"
    assert reason == "serial: 4 models of 20 steps, measured serial about 80.0 s, vmap about 82.0 s; not processes: not here"


def test_auto_drops_what_measuring_shows_to_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "WORTH", 0.0)
    monkeypatch.setattr(measure, "PROBE", 0.01)
    monkeypatch.setattr(vmap, "dealt", lambda work: [work])
    monkeypatch.setattr(Stack, "disagreement", lambda self: "losses differ" if len(self.seeds) > 2 else "")
    name, reason = strategy.chosen(work(4), "auto")
    assert name != "vmap" and "not vmap: losses differ" in reason


def work(count: int, device: str = "cpu") -> Work:
    """Members of the MLP's pool that are yet to be trained."""
    task = mlp_task()
    return Work(task, members_of(task, count, 0, device=device), device, Path("nowhere"))


def test_short_work_is_not_measured() -> None:
    made = train_pool(mlp_task(epochs=1), count=2, strategy="auto")
    assert (made.strategy, "too short" in made.reason) == ("serial", True)


def test_stacking_is_refused_where_it_would_be_wrong() -> None:
    def task(model: nn.Module, image: bool = False) -> Task:
        split = tiny.blobs(20, 0, "retain")
        if image:
            split = type(split)({"x": torch.rand(20, 1, 8, 8), "y": split.columns["y"]}, "retain")
        return Classification(model, {"retain": split}, Recipe(epochs=1), lambda seed: model)

    assert why_no_vmap(task(MLP(6, (8,), 4)), [], "cpu") == ""
    assert "Dropout" in why_no_vmap(task(nn.Sequential(nn.Linear(6, 4), nn.Dropout())), [], "cpu")
    assert "BatchNorm1d" in why_no_vmap(task(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))), [], "cpu")
    assert "Conv2d" in why_no_vmap(task(SmallCNN(classes=4), image=True), [], "cpu")
    assert "size" in why_no_vmap(task(MLP(6, (8,), 4)), [tiny.blobs(8, 0, "a"), tiny.blobs(9, 0, "b")], "cpu")
    with pytest.raises(RequestError, match="Dropout"):
        train_pool(task(nn.Sequential(nn.Linear(6, 4), nn.Dropout())), count=2, strategy="vmap")


def test_hidden_randomness_is_found_before_anything_is_trained() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(self.a(x), 0.5, self.training)

    task = Classification(Noisy(), {"retain": tiny.blobs(20, 0, "retain")}, Recipe(epochs=1), lambda seed: Noisy())
    assert "vmap cannot follow" in Stack(task, [task.retain] * 2, [0, 1], "cpu").disagreement()
    with pytest.raises(RequestError, match="vmap cannot follow"):
        train_pool(task, count=2, strategy="vmap")


def test_wrong_strategies_are_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean processes"):
        train_pool(mlp_task(), count=2, strategy="process")
    with pytest.raises(UnknownName, match="'loop' is called 'serial' now"):
        train_pool(mlp_task(), count=2, strategy="loop")
    with pytest.raises(RequestError, match="share one device"):
        strategy.chosen(work(2, "cuda"), "processes")


def test_a_backend_is_a_file() -> None:
    found = [path.stem for path in Path(backends.__file__).parent.glob("*.py") if path.stem != "__init__"]
    assert backends.names() == sorted(found)
    for name in found:
        assert isinstance(backends.backend(name), Backend)


def test_a_damaged_member_is_trained_again(tmp_path: Path) -> None:
    task, said = mlp_task(epochs=1), []
    first = train_pool(task, count=3, strategy="serial", cache=tmp_path)
    torn, bitten, _ = sorted((tmp_path / "pool").glob("*.safetensors"))
    torn.write_bytes(torn.read_bytes()[:100])
    content = bytearray(bitten.read_bytes())
    content[-1] ^= 1
    bitten.write_bytes(bytes(content))
    again = train_pool(task, count=3, strategy="serial", cache=tmp_path, listener=spoken(said.append))
    assert again.trained == 2 and difference(first, again) == 0
    assert said[0].startswith("2 models in the cache are damaged and are trained again")
    assert train_pool(task, count=3, strategy="serial", cache=tmp_path).trained == 0


def test_an_error_in_a_worker_arrives_as_itself() -> None:
    with pytest.raises(Diverged, match="loss became"):
        train_pool(mlp_task(lr=1e30, optimiser="sgd"), count=2, strategy="processes")


def test_a_worker_that_is_killed_is_reported() -> None:
    with pytest.raises(WorkerDied, match="job 1 of 1"):
        in_processes([lambda: os.kill(os.getpid(), signal.SIGKILL)], 1)


def test_the_end_of_a_process_with_words_unread_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed one resets the line: a worker then ends, and its parent says so (a broken pipe would pass for one of stdout)."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for serves in (True, False):
        ours, theirs = multiprocessing.Pipe()
        theirs.send("unread")
        ours.close()
        if serves:
            workers._serve([], theirs, [])
        else:
            with pytest.raises(WorkerDied, match="before job 1 of 1"):
                workers._dealt([list], [theirs], lambda: None, Stop(), None)


def test_jobs_keep_their_order() -> None:
    def job(number: int) -> int:
        time.sleep(0.02 * (number % 2))
        return number

    assert in_processes([partial(job, i) for i in range(5)], 2) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("family", [name for name in tiny.TASKS if name != "classification"])
def test_other_families_have_pools_too(family: str) -> None:
    task = tiny.TASKS[family]()
    if not task.has("recipe"):
        pytest.skip(f"the tiny {family} task has no recipe")
    task = task.granted({"retain", "recipe", "original"})
    task._recipe = Recipe(**{**vars(task.recipe), "epochs": 0.1})
    alone, forked = (train_pool(task, count=2, strategy=s) for s in ("serial", "processes"))
    assert difference(alone, forked) == 0


def test_no_fork_where_torch_sees_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autograd starts a thread for the GPU even when everything runs on the CPU; a forked worker fails at its first backward."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "CUDA_VISIBLE_DEVICES" in why_no_processes("cpu")

"""Two processes give what one gives, replicated and sharded; checkpoints and the outcome of sharded runs are whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from distributed_script import STEPS, forget
from rounding import bound, difference

from lethe.core.modules import named_tensors
from lethe.errors import RequestError
from lethe.train.checkpoint import load_tensors
from lethe.train.distribute import Distribution
from lethe.train.run import Run

SCRIPT = Path(__file__).with_name("distributed_script.py")


def torchrun(out: Path, *works: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    roots = [str(SCRIPT.parents[1]), str(SCRIPT.parents[2])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(roots)}
    done = subprocess.run([*command, str(out), *works], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


WORKS = [(kind, case) for kind in ("ddp", "fsdp") for case in ("plain", "modified", "lora", "coupled", "lm_plain")]
SLOW = {("ddp", "modified"), ("ddp", "lora"), ("fsdp", "plain"), ("fsdp", "coupled")}   # the other kind shows them by default


@pytest.fixture(scope="module")
def pairs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes make of all that this session asks for, in one start: starting costs more than the work."""
    out = tmp_path_factory.mktemp("pairs")
    forget_until(9, out / "run")
    names = {item.name for item in request.session.items}
    asked = [f"{kind}:{case}" for kind, case in WORKS if f"test_two_processes_equal_one[{kind}-{case}]" in names]
    torchrun(out, *asked, f"fsdp:modified:{out / 'run'}")
    return out


@pytest.mark.parametrize(("kind", "case"), [pytest.param(*work, marks=[pytest.mark.slow] if work in SLOW else [])
                                            for work in WORKS])
def test_two_processes_equal_one(kind: str, case: str, pairs: Path) -> None:
    """Sums over two halves differ from one sum by rounding alone."""
    task = tiny.TASKS["lm" if case.startswith("lm") else "classification"]()
    alone = forget(task, "none", case.removeprefix("lm_"), None)
    together, meta = load_tensors(pairs / f"{kind}-{case}.safetensors")
    assert meta["size"] == 2
    assert meta["notes"] == alone.notes
    expected = dict(named_tensors(alone.model))
    assert difference(expected, together) < bound(STEPS, expected)
    start = {name: value for name, value in named_tensors(task.original).items() if name in expected}
    if case != "lora":
        assert difference(expected, start) > 1e-2   # the run did something


def test_a_scale_that_is_wrong_by_one_per_cent_is_beyond_rounding() -> None:
    for case in ("plain", "modified", "coupled", "lm_plain"):
        task = tiny.TASKS["lm" if case.startswith("lm") else "classification"]()
        right, wrong = (dict(named_tensors(forget(task, "none", case.removeprefix("lm_"), None, share).model))
                        for share in (0.1, 0.101))
        assert difference(right, wrong) > 3 * bound(STEPS, right), case


def test_a_sharded_run_goes_on_from_the_checkpoint_of_one_process(pairs: Path) -> None:
    """Checkpoints hold whole tensors, so the number of processes may change between a kill and the resume."""
    whole = forget(tiny.TASKS["classification"](), "none", "modified", None)
    together, _ = load_tensors(pairs / "fsdp-modified-resumed.safetensors")
    expected = dict(named_tensors(whole.model))
    assert difference(expected, together) < bound(STEPS, expected)


def forget_until(step: int, folder: Path) -> None:
    """Leave behind what a kill after this step leaves: its checkpoint, and no finished call."""
    saved = Run._checkpoint

    def save_then_die(self: Run, now: int, *more: object) -> None:
        saved(self, now, *more)
        if now == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "_checkpoint", save_then_die)
        forget(tiny.TASKS["classification"](), "none", "modified", folder)


def test_a_process_started_alone_is_told_how_to_start() -> None:
    with pytest.raises(RequestError, match="torchrun"):
        Distribution("ddp")
    with pytest.raises(RequestError, match="not one of"):
        Distribution("horovod")


def test_shares_of_a_world_of_one_are_everything() -> None:
    alone = Distribution()
    assert alone.agree(True) and not alone.agree(False)
    assert alone.total(1.5, 2) == [1.5, 2]

"""SLURM jobs through submitit: the pool waits for them, and what the cluster cuts off is queued again.

Partition, account and time limit are sbatch's own environment variables (SBATCH_PARTITION, SBATCH_ACCOUNT,
SBATCH_TIMELIMIT). The cache must lie on a file system that the nodes share. Job scripts and their logs stand in `slurm/` of
the pool's folder while the jobs run. The parcels beside them hold the data, so they are removed at the end, also after an
error; what a killed pool left behind goes when the next one starts.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lethe.core.extras import install
from lethe.core.files import alive
from lethe.errors import WorkerDied
from lethe.pools.contract import Backend
from lethe.pools.member import Work
from lethe.pools.parcel import shares, why_not_packed
from lethe.pools.workers import workers_for

if TYPE_CHECKING:
    import submitit

MINUTES = 240   # of a job, unless SBATCH_TIMELIMIT sets another; a longer share goes on in the next job
WEEK = 7 * 24 * 3600.0
AT_ONCE = 64    # jobs of the array that run at the same time


class Slurm(Backend):
    """An array of one job per member."""

    def obstacle(self, work: Work) -> str:
        if find_spec("submitit") is None:
            return f"it needs submitit, which is not installed: {install('slurm')}"
        if shutil.which("sbatch") is None:
            return "there is no SLURM here (sbatch is not on the path); start it on a login node, or use strategy='processes'"
        return why_not_packed(work)

    def train(self, work: Work) -> None:
        submitted(work, "slurm", len(work.members))


def submitted(work: Work, cluster: str, at_once: int | None = None) -> None:
    """One job per member on submitit's cluster ("slurm", or "local": processes of this machine), in chunks of `at_once`.

    The local cluster starts all jobs at once, so it receives no more than there are cores.
    """
    with parcels(work.folder / "slurm") as folder:
        _submit(work, cluster, at_once, folder)


def _submit(work: Work, cluster: str, at_once: int | None, folder: Path) -> None:
    import submitit

    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    gpus = int(torch.device(work.device).type == "cuda")
    executor.update_parameters(name="lethe-pool", timeout_min=MINUTES, cpus_per_task=torch.get_num_threads(), gpus_per_node=gpus)
    if cluster == "slurm":
        executor.update_parameters(slurm_array_parallelism=AT_ONCE)
    parts = shares(work, len(work.members))
    size = at_once or workers_for(len(parts))
    with work.units() as units:
        for start in range(0, len(parts), size):
            work.stop.check()
            with executor.batch():   # one array
                jobs = [executor.submit(part) for part in parts[start : start + size]]
            try:
                for job in jobs:
                    work.stop.check()
                    _require_done(job, folder)
                    units.done()
            except BaseException:
                for job in jobs:
                    job.cancel()
                    if cluster == "local":   # a child of this process
                        job.wait()
                raise


@contextmanager
def parcels(root: Path) -> Iterator[Path]:
    """A folder in `root` for the jobs of this pool, whose name says which process owns it. It is removed at the end; the
    logs stay when a job died. Those of processes that are gone are removed first."""
    for left in [*root.glob("*")] if root.is_dir() else []:
        if not _owned(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = root / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    logs = False
    try:
        yield folder
    except WorkerDied:
        logs = True
        raise
    finally:
        for file in folder.glob("*.pkl") if logs else ():
            file.unlink(missing_ok=True)
        if not logs:
            shutil.rmtree(folder, ignore_errors=True)


def _owned(folder: Path) -> bool:
    """Whether a pool may still work with the folder: its process runs or, on another machine, it was in use within a week."""
    host, _, rest = folder.name.rpartition("-")[0].rpartition("-")
    if host != socket.gethostname():
        return time.time() - folder.stat().st_mtime < WEEK
    return rest.isdecimal() and alive(int(rest))


def _require_done(job: submitit.Job[Exception | None], folder: Path) -> None:
    """Wait for the job; raise the error that ended it."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        error = job.result()
    except (FailedJobError, UncompletedJobError) as failed:
        raise WorkerDied(f"job {job.job_id} ended before its model was trained ({str(failed).splitlines()[0]}); finished models "
                         f"are kept. Its log is in {folder}. Repeat the command.") from failed
    if error is not None:
        raise error

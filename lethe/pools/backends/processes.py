"""Jobs in forked worker processes, one thread each, as many as cores. Fork shares the data, so nothing is pickled.

One single-threaded worker per core beats threads inside an operation for the small models that pools are made of.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from lethe.errors import WorkerDied


def why_no_processes(device: str) -> str:
    """Empty when jobs can run in forked workers."""
    if torch.device(device).type != "cpu":
        return f"workers share one device {device!r} without gain"
    if not sys.platform.startswith("linux"):
        return f"forking after torch was used is not safe on {sys.platform}"
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return "this process has used the GPU, and a fork cannot"
    return ""


def workers_for(jobs: int) -> int:
    """One per core that this process may use."""
    return max(1, min(jobs, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def in_processes(
    jobs: Sequence[Callable[[], Any]], workers: int, progress: Callable[[str], None] = lambda text: None
) -> list[Any]:
    """What each job returns, in order. Jobs are dealt out as workers become free.

    The first exception of a job ends the others and is raised here. Workers end by themselves when this process dies.
    """
    context = multiprocessing.get_context("fork")
    results: list[Any] = [None] * len(jobs)
    waiting, done = list(range(len(jobs))), 0
    busy: dict[Connection, int] = {}
    crew = []
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(jobs, theirs, ours, list(busy)), daemon=True)
            with warnings.catch_warnings():   # threads of torch stay idle in the child, which uses one of its own
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            crew.append(process)
            busy[ours] = waiting[0]
            ours.send(waiting.pop(0))
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                job = busy.pop(ready)
                try:
                    good, value = ready.recv()
                except EOFError:
                    raise WorkerDied(f"a worker died while on job {job + 1} of {len(jobs)} (out of memory, or killed); "
                                     "finished jobs are kept where there is a cache. Repeat the command.") from None
                if not good:
                    raise value
                results[job], done = value, done + 1
                progress(f"{done} of {len(jobs)} models")
                if waiting:
                    busy[ready] = waiting[0]
                    ready.send(waiting.pop(0))
                else:
                    ready.send(None)
        for process in crew:
            process.join()
    finally:
        for process in crew:
            if process.is_alive():
                process.terminate()
                process.join()
    return results


def _serve(jobs: Sequence[Callable[[], Any]], line: Connection, *others: Any) -> None:
    """A worker: number in, (worked, value or exception) out, until None or until the parent's end is closed."""
    torch.set_num_threads(1)
    for other in (others[0], *others[1]):   # the parent's ends, inherited by the fork: they would hide its death
        other.close()
    try:
        while (job := line.recv()) is not None:
            try:
                answer: tuple[bool, Any] = (True, jobs[job]())
            except Exception as error:
                answer = (False, _portable(error))
            line.send(answer)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))

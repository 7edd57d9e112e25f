"""Jobs in forked worker processes, one thread each, as many as cores. Fork shares the data, so nothing is pickled.

One single-threaded worker per core beats threads inside an operation for the small models that pools are made of.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from lethe.errors import WorkerDied
from lethe.train.stop import Stop

T = TypeVar("T")


def why_no_processes(device: str) -> str:
    """Empty when jobs can run in forked workers."""
    if torch.device(device).type != "cpu":
        return f"workers share one device {device!r} without gain (strategy='gpus' takes one process per GPU)"
    if not sys.platform.startswith("linux"):
        return f"forking after torch was used is not safe on {sys.platform} (strategy='serial' is)"
    if torch.cuda.is_available():   # autograd has started a thread for the GPU by then, whatever device was asked for
        return ("a forked process cannot differentiate where torch sees a GPU (hide it with CUDA_VISIBLE_DEVICES='', or use "
                "strategy='serial')")
    return ""


def workers_for(jobs: int) -> int:
    """One per core that this process may use."""
    return max(1, min(jobs, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def in_processes(jobs: Sequence[Callable[[], T]], workers: int, done: Callable[[], None] = lambda: None,
                 stop: Stop | None = None, patience: float | None = None) -> list[T]:
    """What each job returns, in order. Jobs are dealt out as workers become free.

    The first exception of a job ends the others and is raised here. Workers end by themselves when this process dies.

    done      called after every job
    stop      once it is set, no further job begins, and those that have begun are finished
    patience  seconds after which they are cut off instead
    """
    crew: dict[Connection, multiprocessing.process.BaseProcess] = {}
    try:
        for _ in range(workers):
            line, process = _worker(jobs, list(crew))
            crew[line] = process
        results = _dealt(jobs, list(crew), done, stop or Stop(), patience)
        for process in crew.values():
            process.join()
        return results
    finally:
        for process in crew.values():
            if process.is_alive():
                process.terminate()
                process.join()


def _worker(jobs: Sequence[Callable[[], T]], others: list[Connection]
            ) -> tuple[Connection, multiprocessing.process.BaseProcess]:
    """A started worker and this process's end of the line to it; `others`: our ends of the lines to earlier workers."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(jobs, theirs, [ours, *others]), daemon=True)
    with warnings.catch_warnings():   # threads of torch stay idle in the child, which uses one of its own
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    return ours, process


def _dealt(jobs: Sequence[Callable[[], T]], lines: list[Connection], done: Callable[[], None], stop: Stop,
           patience: float | None) -> list[T]:
    """Send each worker a job, and the next one when it answers; what the jobs return, in their order."""
    results: dict[int, T] = {}
    busy = dict(zip(lines, range(len(jobs)), strict=False))
    for line, job in busy.items():
        with answering(f"a worker died before job {job + 1} of {len(jobs)}"):
            line.send(job)
    upcoming = iter(range(len(busy), len(jobs)))
    while busy:
        if patience is not None:
            stop.check()
        for line in [line for line in wait(list(busy), patience) if isinstance(line, Connection)]:
            job = busy.pop(line)
            died = f"a worker died while on job {job + 1} of {len(jobs)}"
            with answering(died):
                good, value = line.recv()
            if not good:
                raise value
            results[job] = value
            done()
            following = None if stop.is_set else next(upcoming, None)
            with answering(died):
                line.send(following)
            if following is not None:
                busy[line] = following
    if len(results) < len(jobs):
        stop.check()
    return [results[job] for job in range(len(jobs))]


@contextmanager
def answering(died: str) -> Iterator[None]:
    """WorkerDied, with these words, where the process at the other end of a line is dead: closed, or reset with words unread."""
    try:
        yield
    except (EOFError, ConnectionError):
        raise WorkerDied(f"{died} (out of memory, or killed); what is finished is kept where there is a cache. Repeat the "
                         "command.") from None


def _serve(jobs: Sequence[Callable[[], Any]], line: Connection, others: Sequence[Connection]) -> None:
    """A worker: number in, (worked, value or exception) out, until None or until the parent's end is closed."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)   # the parent's handler is for the parent's work
    for other in others:   # the parent's ends, inherited by the fork: they would hide its death
        other.close()
    try:
        while (job := line.recv()) is not None:
            try:
                answer: tuple[bool, Any] = (True, jobs[job]())
            except Exception as error:
                answer = (False, portable(error))
            line.send(answer)
    except (EOFError, ConnectionError, KeyboardInterrupt):   # a parent that was killed resets the line
        pass


def portable(error: Exception) -> Exception:
    """The exception itself where another process can read it, else its traceback as a RuntimeError."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))

"""Work that travels to another process or machine: as bytes, with errors that can come back."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec

import torch

from lethe.core.events import silent
from lethe.core.extras import install
from lethe.pools.member import Work, make
from lethe.pools.workers import portable


@dataclass(frozen=True)
class Share:
    """Some members with all that training them takes; calling it trains those that are missing, on as many threads as here.

    Cut off or sent twice, it is called again: finished members are skipped. `checkpoint` tells submitit so.
    """

    work: Work
    threads: int

    def __call__(self) -> Exception | None:
        """The first error, or None. An error comes back as a value, so that it is raised as itself where the pool is."""
        torch.set_num_threads(self.threads)
        try:
            for member in self.work.members:
                make(self.work, member)
                self.work.say(member.key)
        except Exception as error:
            return portable(error)
        return None

    def checkpoint(self) -> object:
        """What submitit queues in place of a job that the cluster cut off: the same share."""
        return import_module("submitit.helpers").DelayedSubmission(self)


def shares(work: Work, count: int) -> list[Share]:
    """The members dealt out round robin into at most `count` shares."""
    return [Share(part, torch.get_num_threads()) for part in work.shares(count)]


def packed(share: Share) -> bytes:
    """As bytes: by cloudpickle where it is installed, since a model's `build` is often a lambda, which pickle refuses."""
    pickler = import_module("cloudpickle") if find_spec("cloudpickle") else pickle
    data: bytes = pickler.dumps(replace(share, work=replace(share.work, listener=silent)))
    return data


def why_not_packed(work: Work) -> str:
    """Empty when this work can travel to another process."""
    try:
        packed(Share(replace(work, members=work.members[:1]), 1))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        remedy = "" if find_spec("cloudpickle") else f"; cloudpickle often can: {install('slurm')}"
        return f"the task cannot be sent to another process ({error}){remedy}"
    return ""

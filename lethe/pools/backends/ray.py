"""Ray tasks, one per member, on the cluster that RAY_ADDRESS names or on this machine. Its nodes share the cache's files."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import torch

from lethe.core.extras import install
from lethe.pools.contract import Backend
from lethe.pools.member import Work
from lethe.pools.parcel import Share, shares, why_not_packed


class Ray(Backend):
    """As many at once as the cluster has room for."""

    def obstacle(self, work: Work) -> str:
        if find_spec("ray") is None:
            return f"it needs Ray, which is not installed: {install('ray')}"
        return why_not_packed(work)

    def train(self, work: Work) -> None:
        ray = import_module("ray")
        joined = ray.is_initialized()   # by the program that called
        ray.init(ignore_reinit_error=True, log_to_driver=False)
        gpus = int(torch.device(work.device).type == "cuda")
        task = ray.remote(num_cpus=torch.get_num_threads(), num_gpus=gpus)(Share.__call__)
        waiting = [task.remote(share) for share in shares(work, len(work.members))]
        try:
            with work.units() as units:
                while waiting:
                    work.stop.check()
                    (ready, *_), waiting = ray.wait(waiting)
                    if (error := ray.get(ready)) is not None:
                        raise error
                    units.done()
        finally:
            for one in waiting:
                ray.cancel(one)
            if not joined:
                ray.shutdown()

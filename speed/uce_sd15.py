"""UCE on a folder of random weights as large as Stable Diffusion 1.5 (860 M, float32), from the folder to the folder: load, edit,
save, on two cores. Limit 60 s of wall time; the network is never asked. Needs 4 GB of disk and 8 GB of memory."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lethe.api import forget
from lethe.methods.diffusion.uce import UCE
from lethe.models.diffusion.open import text_to_image
from speed._pipelines import stable_diffusion

LIMIT = 60.0
CONCEPTS = [f"a red disk {i}" for i in range(20)]


def main() -> None:
    torch.set_num_threads(2)
    with TemporaryDirectory() as place:
        folder = Path(place)
        stable_diffusion(folder / "pipe")
        began, own = time.perf_counter(), time.process_time()
        task = text_to_image(folder / "pipe", "disk", ["a blue cross"], CONCEPTS)
        opened = time.perf_counter()
        outcome = forget(task, UCE(), progress=False, watchdog=False)
        edited = time.perf_counter()
        outcome.save(folder / "out")
        ended = time.perf_counter()
        assert task.forget.pending("image"), "pictures were drawn for a method that reads words"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"uce, {len(CONCEPTS)} concepts, SD-1.5-sized folder: load {opened - began:.1f} s, edit {edited - opened:.1f} s, "
          f"save {ended - edited:.1f} s, together {ended - began:.1f} s (limit {LIMIT:.0f}), {memory:.1f} GB at most")
    spent = time.process_time() - own
    print(f"processor time {spent:.1f} s, which two cores of their own need half to all of", flush=True)
    assert min(ended - began, spent) < LIMIT   # a busy machine takes longer by the clock


if __name__ == "__main__":
    main()

"""Short sequences in one row (`model.packing`) beside single rows: seconds of a training step and of a pass that looks.

    python -m speed.language.packing            --device cuda --size 1.2b

NPO through the public call without watchdog, batches of 16 forgotten and 16 retained texts as long as TOFU's; and the losses of
all of them. The tokens are the same, and so are the numbers; single rows are padded to the longest, a share `pads` of all places.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch

from lethe.api import forget
from lethe.core.modules import evaluating
from lethe.models.lm.open import Language
from lethe.train.settings import Settings
from speed.common import RESULTS, measure, on_gpu, save, spent
from speed.language.world import SIZES, World

BATCH, STEPS = 16, 2


def pads(task: Language) -> float:
    """The share of places that are pads in single rows, in batches of the data's order."""
    batches = list(task.retain.batches(BATCH))
    return 1 - sum(int(b.length.sum()) for b in batches) / sum(b.ids.numel() for b in batches)


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m speed.language.packing")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file that the results are merged into")
    given = parser.parse_args()
    key = "wall" if on_gpu(given.device) else "cpu"
    if key == "cpu":
        torch.set_num_threads(1)
    world = World(given.size, STEPS * BATCH, STEPS * BATCH, given.device)
    single, packed = (world.task(packing=packing) for packing in (False, True))

    def trained(task: Language) -> float:
        return spent(lambda: forget(task, "npo", epochs=1.0, batch_size=BATCH, seed=0, watchdog=False, progress=False,
                                    settings=Settings(device=given.device)), given.device)[key]

    def looked(task: Language) -> float:
        model = task.original.to(given.device)

        def read() -> None:
            with evaluating(model):
                for batch in task.retain.batches(BATCH):
                    task.nll(model, batch.to(given.device))

        return spent(read, given.device)[key]

    detail = {"size": given.size, "weights": world.weights, "batch": BATCH, "pads": pads(single), "device": given.device}
    trained(single), trained(packed)   # what the first call loads is no cost of either way
    for name, run in (("train", trained), ("look", looked)):
        save(measure(f"language.packing.{name}.{given.size}", partial(run, packed), partial(run, single), given.repeats,
                     what=f"sequences that share rows, {name}, {given.size}", against="single rows, padded", **detail),
             path=given.results)


if __name__ == "__main__":
    main()

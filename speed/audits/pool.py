"""64 retrained MLPs of the digits (64-128-128-10, batches of 50) as audits train them, against a tight PyTorch loop.

The loop is plain: one model after the other, batches by slicing a shuffled tensor, no bookkeeping. Convolutions are not
claimed: on a CPU they gain nothing from being stacked, and processes train them (`speed.pool`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.models.classification.task import Classification
from lethe.models.zoo.mlp import MLP
from lethe.pools.pool import train_pool
from speed.common import measure, save, timed
from speed.loop_overhead import digits

COUNT, EPOCHS, BATCH, LR, REPEATS = 64, 40, 50, 1e-3, 5


def plain(split: Split, count: int = COUNT) -> None:
    x, y = split.columns["x"].float(), split.columns["y"]
    for seed in range(count):
        torch.manual_seed(seed)
        model = MLP()
        adam = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=True)
        for _ in range(EPOCHS):
            order = torch.randperm(len(y))
            for start in range(0, len(y), BATCH):
                index = order[start : start + BATCH]
                adam.zero_grad()
                F.cross_entropy(model(x[index]), y[index]).backward()
                adam.step()


def main() -> None:
    torch.set_num_threads(1)
    split = digits()
    task = Classification(MLP(), {"retain": split}, Recipe(epochs=EPOCHS, lr=LR, batch_size=BATCH), lambda seed: MLP())
    plain(split, count=1)   # what torch imports at an optimiser's first step is neither way's cost
    reasons: list[str] = []

    def together() -> None:
        reasons.append(train_pool(task, count=COUNT).reason)

    result = measure("audits.pool", timed(together), timed(lambda: plain(split)), REPEATS, at_least=3.0,
                     what=f"{COUNT} retrained MLPs of the digits, choice of the way included",
                     against="a tight loop in plain PyTorch, one model after the other")
    result["chosen"] = sorted(set(reasons))
    save(result)


if __name__ == "__main__":
    main()

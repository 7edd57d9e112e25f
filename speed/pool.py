"""16 retrained digit models together against one after the other, for an MLP and a CNN: `auto`, and each way alone."""

from __future__ import annotations

import math

import torch

from lethe.core.task import Recipe, Task
from lethe.models.classification.task import Classification
from lethe.models.zoo.mlp import MLP
from lethe.models.zoo.small_cnn import SmallCNN
from lethe.pools.pool import Pool, train_pool
from lethe.pools.stack import why_no_vmap
from speed.common import compared, measure, save, timed
from speed.loop_overhead import digits

COUNT, REPEATS = 16, 3
RECIPES = {"mlp": Recipe(epochs=40, lr=1e-3, batch_size=64), "cnn": Recipe(epochs=15, lr=2e-3, batch_size=64)}
NETS = {"mlp": MLP, "cnn": SmallCNN}


def problem(net: str) -> Task:
    return Classification(NETS[net](), {"retain": digits()}, RECIPES[net], lambda seed: NETS[net]())


def main() -> None:
    torch.set_num_threads(1)
    for net in NETS:
        task = problem(net)
        reasons: list[str] = []

        def train(strategy: str, task: Task = task, reasons: list[str] = reasons) -> Pool:
            pool = train_pool(task, count=COUNT, strategy=strategy)
            reasons.append(pool.reason)
            return pool

        against = f"one after the other (serial, one thread), {COUNT} models of {steps(task)} steps"
        auto = measure(
            f"pool.{net}", timed(lambda: train("auto")), timed(lambda: train("serial")), REPEATS, at_least=1.0,
            what=f"{COUNT} retrained {net.upper()}s on the digits together, the way chosen by measuring included",
            against=against,
        )
        auto["chosen"] = sorted(reason for reason in set(reasons) if "asked" not in reason)
        save(auto)
        for strategy in ("processes", "vmap"):
            if strategy == "vmap" and why_no_vmap(task, [task.retain], "cpu"):
                continue
            own = [timed(lambda: train(strategy))() for _ in range(REPEATS)]   # noqa: B023 (called at once)
            save(compared(f"pool.{net}.{strategy}", own, auto["values"]["reference"], what=f"the same by {strategy} alone",
                          against=against))


def steps(task: Task) -> int:
    return math.ceil(task.recipe.epochs * math.ceil(len(task.retain) / task.recipe.batch_size))


if __name__ == "__main__":
    main()

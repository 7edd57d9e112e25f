"""The loop against the same training written by hand: a small CNN on the digits, AdamW, batch 64, one thread."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.models.classification.task import Classification
from lethe.models.zoo.small_cnn import SmallCNN
from lethe.train.loop import Loop
from lethe.train.order import Order
from speed.common import measure, save, timed

RECIPE = Recipe(epochs=10, lr=2e-3, batch_size=64)


def digits() -> Split:
    x, y = load_digits(return_X_y=True)
    return Split({"x": torch.tensor(x, dtype=torch.float32).div(16).view(-1, 1, 8, 8), "y": torch.tensor(y)}, "retain")


def bare(model: torch.nn.Module, split: Split) -> torch.nn.Module:
    """What one writes without a framework, with the loop's own order of examples and fused AdamW."""
    x, y = split.columns["x"], split.columns["y"]
    order = Order(split, RECIPE.batch_size, 0, 0, "train")
    optimiser = torch.optim.AdamW(model.parameters(), lr=RECIPE.lr, weight_decay=RECIPE.weight_decay, fused=True)
    model.train()
    for step in range(int(RECIPE.epochs) * order.count):
        index = order.draw(step)
        loss = cross_entropy(model(x[index]), y[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def main() -> None:
    torch.set_num_threads(1)
    split = digits()
    task = Classification(SmallCNN(), {"retain": split}, RECIPE, lambda seed: SmallCNN())

    def ours() -> torch.nn.Module:
        loop = Loop(task)
        return task.train(loop.start(task.build(0)), split, RECIPE, loop)

    def by_hand() -> torch.nn.Module:
        return bare(task.build(0), split)

    pairs = zip(ours().parameters(), by_hand().parameters(), strict=True)
    difference = max(float((a - b).detach().abs().max()) for a, b in pairs)   # the same work is timed
    save(measure(
        "loop_overhead", timed(ours), timed(by_hand), 7, what="time of the loop as a share of the bare one",
        against="the same training as a bare PyTorch loop (digits CNN, batch 64, 290 steps)", at_most=1.10,
        largest_weight_difference=difference,
    ))


if __name__ == "__main__":
    main()

"""EU-k: draw the last k layers anew and train them on retained data by the original's recipe. Goel, Prabhu, Sanyal, Lim, Torr &
Kumaraguru (2022), arXiv:2201.06640.

    θ_k = recipe(initialisation(seed'), R | θ_{<k} frozen at θ_0);    θ_k the last k blocks, θ_{<k} all before them

R retain set, θ_0 the original weights; the recipe is the one that made the original. What a block is: `lethe.core.modules`.
Needs:    original, retain, recipe.     Updates: the last k blocks; the others stay bit-identical.
Cost:     a training run, with a backward pass that ends k blocks from the output.
Limits:   k = all blocks is retraining. The last k blocks then hold nothing of F but what frozen features reveal about it.
Fails by: the frozen part, which still separates what was forgotten: a probe finds it (audit: `probe`).
Deviations: k blocks are trained as long as the recipe states, not as long as would match their share of the cost. Batch-norm
          statistics of the whole model follow R, as in training. The start is fresh, so `where` modifiers and the watchdog
          do not apply.
"""

from __future__ import annotations

import torch

from lethe.core.config import Count, config
from lethe.core.modules import last_blocks, named_tensors
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.task import Task
from lethe.train.loop import Loop
from lethe.train.modifiers.where.names import Names


@config
class EUk:
    """Options of EU-k."""

    k: Count = 2                       # blocks from the output that are trained anew        [paper: all k are compared]


@method(needs={"original", "recipe", "retain"}, uses={"build", "outputs", "weights"}, mechanism="tuning")
def run(cfg: EUk, task: Task, loop: Loop) -> Outcome:
    model, fresh = task.copy_of_original(), named_tensors(task.build(derive(loop.seed, "retrain")))
    names = last_blocks(model, cfg.k)
    held = {name.rpartition(".")[0] for name in names}   # modules whose buffers start afresh, too
    with torch.no_grad():
        for name, value in named_tensors(model).items():
            if name in names or (name.rpartition(".")[0] in held and value.is_floating_point()):
                value.copy_(fresh[name])
    loop.start(model, where=Names(tuple(names)))
    task.train(model, task.retain, task.recipe, loop)
    return loop.finish(model)

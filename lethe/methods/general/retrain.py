"""Retrain: train the model again from scratch without the forget set, which is exact. Cao & Yang (2015), IEEE S&P; the
yardstick in Bourtoule et al. (2021), arXiv:1912.03817.

    θ_r = recipe(initialisation(seed'), R)

R retain set; the recipe is the one that made the original, with new seeds for initialisation and order.
Needs:    retain, recipe.     Updates: everything.
Cost:     a full training run; the reference for every other method's cost.
Limits:   exact for the data that the recipe sees; what a pre-trained starting point knows of the forget set stays.
Fails by: cost. Two retrains differ by their seeds: compare with several (audit: the yardstick).
"""

from __future__ import annotations

from lethe.core.config import config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.task import Task
from lethe.core.training import TRUSTED
from lethe.train.loop import Loop
from lethe.train.modifiers.where.lora import of_recipe


@config
class Retrain:
    """No options: the recipe states everything."""


@method(needs={"retain", "recipe"}, uses={"build"}, mechanism="exact")
def run(cfg: Retrain, task: Task, loop: Loop) -> Outcome:
    model = loop.start(task.build(derive(loop.seed, "retrain")), of_recipe(task))
    task.train(model, task.retain, task.recipe, loop)
    outcome = loop.finish(model)
    outcome.guarantee = {"level": "exact", "basis": "trained from a fresh model on the retained records alone",
                         **({"assumptions": [TRUSTED]} if task.recipe.code else {})}
    return outcome

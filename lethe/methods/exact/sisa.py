"""SISA: train several models on parts of the data, and delete a record by retraining one part from its last checkpoint before
it. Bourtoule et al. (2021), IEEE S&P, arXiv:1912.03817.

    shard k:  θ_{k,0} fresh;  θ_{k,l} = recipe(θ_{k,l−1}, S_{k,1} ∪ … ∪ S_{k,l}),  2E/(L + 1) passes each
    served:   mean_k f(x; θ_{k,L})
    delete F:  in each shard with records of F go back to θ_{k,l−1}, l the first slice with one, and train l … L again without F

m shards, L slices, E passes of the recipe (so that a shard takes as long as E passes over it). The deleted model is bit for
bit the one that the same training gives without F: a record's place is a hash of its own id, draws are seeded by (k, l).
Needs:    forget, retain; recipe to train it here (no `trained`).     Updates: every parameter of the shards that held records.
Cost:     training: as much as the recipe on all records. A deletion: 1/m of it at most, with L = 4 three
          quarters of that on average.
Limits:   m = 1, L = 1: retraining. A class hits every shard: retraining, too.
Fails by: accuracy of members that saw 1/m of the records; requests that hit many shards at once.
Deviations: records go to shards and slices by a hash of their ids, so that a place tells nothing of other records: sizes
          differ by chance. All shards start from the same weights. Means of outputs, not votes. Each stage has its own optimiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from lethe.core.config import Count, build, config, plain
from lethe.core.families.headed import HeadedTask
from lethe.core.modules import copied
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Split, concat
from lethe.core.task import Recipe
from lethe.errors import RequestError
from lethe.exact.ensemble import Ensemble, assembled, require_last
from lethe.exact.manifest import Manifest
from lethe.exact.sliced import (
    Sliced,
    agreed,
    guaranteed,
    of_training,
    opened,
    outcome_of,
    parts,
    planned,
    require_deletable,
    single,
    state_of,
    train_stage,
    union,
)
from lethe.exact.slicing import prefix
from lethe.train.loop import Loop


@config
class SISA:
    """Options of SISA."""

    trained: str = ""  # folder of a model that `lethe train --exact sisa` wrote; none: trained first [tested in test_sisa] [ours]
    shards: Count = 5            # m; more: cheaper deletions, weaker members                     [paper: 1–20]
    slices: Count = 4            # L; more: cheaper deletions, more checkpoints                   [paper: 1–50]
    by: str = "id"               # records with an equal value share a slice: id, content, or a column [e.g. content] [ours]
    public_base: bool = False  # given weights where shards start never saw the data: you say so [tested in test_sisa] [ours]


def passes(epochs: float, slices: int) -> float:
    """Passes per stage, so that all stages together go over a shard `epochs` times. passes(10, 4) == 4: 4·(1+2+3+4)/4 == 10"""
    return 2 * epochs / (slices + 1)


def train(cfg: SISA, task: HeadedTask, loop: Loop, records: Split, base: nn.Module, given: bool = False) -> Sliced:
    """Train every shard on `records`, all from `base` (given: trained weights)."""
    if task.recipe.lora:
        raise RequestError(f"recipe.lora = {task.recipe.lora} trains adapters, and the shards of SISA hold whole weights; "
                           "nothing was started. Leave it out, or train shard_lora (language models).")
    head, some = task.head, records.batch([0, len(records) - 1])
    require_last(base, head, lambda model: task.outputs(model, some))
    details = {"head": head, "recipe": plain(task.recipe), "given": given}
    made = Sliced(planned("sisa", of_training(cfg), records, [list(range(cfg.slices))], loop.seed, details), state_of(base), {})
    for shard in range(cfg.shards):
        train_shard(made, made.manifest, shard, 0, records, base, task, loop, "train")
    return made


def train_shard(
    state: Sliced, known: Manifest, shard: int, done: int, records: Split, base: nn.Module, task: HeadedTask, loop: Loop,
    phase: str,
) -> None:
    """Put the checkpoints of a shard after its first `done` slices into `state`; `phase`: see `train_stage`."""
    slices, where = len(known.sequences[0]), parts(records, known)
    recipe = build(Recipe, known.details["recipe"])
    if recipe.code and task.has("recipe"):
        recipe = task.recipe   # a function from Python is known by name alone in a manifest
    if not recipe.code:   # own code decides how long it trains
        recipe = replace(recipe, epochs=passes(recipe.epochs, slices))
    model = copied(base, trainable=True)
    model.load_state_dict(state.stages[shard, 0, done] if done else state.base)
    for stage in range(done + 1, slices + 1):
        split = union(records, where, shard, range(stage))
        if split is not None:
            train_stage(loop, task, model, split, known.seed, ("sisa", shard, stage), phase, recipe=recipe)
        state.stages[shard, 0, stage] = state_of(model)


def deleted(state: Sliced, ids: Sequence[object], retained: Split, base: nn.Module, task: HeadedTask, loop: Loop
            ) -> tuple[Sliced, list[int]]:
    """(the model without these records, the shards that were trained again)."""
    after = state.manifest.without(ids)
    again = [shard for shard, slices in enumerate(after.hit) if slices]
    left = Sliced(after.retrained(again), state.base, state.sound(after).stages)
    for shard in again:
        train_shard(left, left.manifest, shard, prefix(after.sequences[0], after.hit[shard]), retained, base, task, loop, "again")
    return left, again


def served(state: Sliced, base: nn.Module) -> Ensemble:
    """The ensemble of the last checkpoints; a shard without records is out of service."""
    known = state.manifest
    holding, last = {shard for shard, _ in known.records.values()}, len(known.sequences[0])
    members = [state.stages[shard, 0, last] if shard in holding else None for shard in range(len(known.hit))]
    return assembled(base, known.details["head"], members)


def deletable(cfg: SISA, task: HeadedTask) -> None:
    """What is wrong with a deletion from the model in `trained`, before any work."""
    if cfg.trained:
        require_deletable(Path(cfg.trained), "sisa", task)


@method(needs={"forget", "retain", "recipe?", "original?"}, uses={"build", "head", "nll", "outputs"}, mechanism="exact",
        instead={"recipe": "trained=FOLDER"},
        check=deletable)
def run(cfg: SISA, task: HeadedTask, loop: Loop) -> Outcome:
    if cfg.trained:
        state = opened(Path(cfg.trained), "sisa", task)
        cfg, base = agreed(cfg, state.manifest), single(task)
    else:
        base = task.build(derive(loop.seed, "sisa"))
        state = train(cfg, task, loop, concat([task.retain, task.forget], "train"), base, "no_retraining" in task.facts)
    ids = task.forget.ids.tolist()
    state.manifest.require_deletable(ids)
    state.manifest.require_retained(ids, task.retain.ids.tolist())
    left, again = deleted(state, ids, task.retain, base, task, loop)
    outcome = outcome_of(loop, left, served(left, base), cfg.trained)
    outcome.guarantee = guaranteed(
        left.manifest, "assembled from shards, each trained from its last checkpoint before the deleted records without them",
        cfg.public_base, {"deleted": len(ids), "shards_retrained": len(again)})
    return outcome

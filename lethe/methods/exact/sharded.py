"""Sharded: fit several models on parts of the data, and delete a record by fitting its part again. The sharding of SISA
(Bourtoule et al. 2021, arXiv:1912.03817) for models that are fitted in one go: trees, boosting, any fit/predict pair.

    shard k:  h_k = fit(S_k), S_k the records whose id hashes to k;    served: mean_k h_k(x)
    delete F: h_k = fit(S_k ∖ F) for every shard with records of F; the others stay as they are

m shards. The model after a deletion is the one that the same training gives without F: a record's shard is a hash of its own
id, and the seed of a fit follows from (seed, k).
Needs:    forget, retain; recipe (model.fit).     Updates: the shards that held records.
Cost:     training: as much as one fit on all records, or less. A deletion of one record: 1/m of it.
Limits:   m = 1: retraining. A class hits every shard: retraining, too.
Fails by: accuracy of members that saw 1/m of the records; requests that hit many shards at once.
Deviations: no slices, since a fit cannot go on from a checkpoint. Means of probabilities, not votes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from lethe.core.config import Count, config
from lethe.core.families.fitted import FittedTask
from lethe.core.modules import named_tensors, state_fingerprint
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Split, concat
from lethe.core.training import TRUSTED
from lethe.exact import manifest
from lethe.exact.manifest import Manifest
from lethe.exact.sliced import agreed, of_training, outcome_of, parts, planned, require_deletable, union
from lethe.train.checkpoint import load_tensors, save_tensors
from lethe.train.loop import Loop, Settings


@config
class Sharded:
    """Options of sharded models."""

    trained: str = ""     # folder that `lethe train --exact sharded` wrote; none: trained first [tested in test_fitted] [ours]
    shards: Count = 5     # m; more: cheaper deletions, weaker members                     [SISA: 1–20]
    by: str = "id"        # records with an equal value share a shard: id, content, or a column [e.g. content] [ours]


@dataclass(frozen=True)
class Shards:
    """The fitted members, None where a shard holds no record, what each has read, and how they are made one model."""

    manifest: Manifest
    members: tuple[nn.Module | None, ...]
    join: Callable[[Sequence[nn.Module]], nn.Module]

    def save(self, folder: Path, model: nn.Module, write: Callable[[nn.Module, Path], None]) -> None:
        """Write members, manifest and the served model into an empty folder; `write` puts the served model there."""
        names = []
        for k, member in enumerate(self.members):
            if member is not None:
                names.append(f"shards/{k}.safetensors")
                save_tensors(folder / names[-1], named_tensors(member), {"shard": k})
        write(model, folder)
        whole = replace(self.manifest, details={**self.manifest.details, "model": state_fingerprint(model)})
        whole.write(folder, [*names, "model.safetensors"])


def train(cfg: Sharded, task: FittedTask, loop: Loop, records: Split, base: nn.Module | None = None, given: bool = False
          ) -> Shards:
    """Fit every shard on its records."""
    plan = planned("sharded", of_training(cfg), records, [[0]], loop.seed, {})
    return Shards(plan, tuple(fitted(plan, shard, records, task, loop) for shard in range(cfg.shards)), task.joined)


def fitted(plan: Manifest, shard: int, records: Split, task: FittedTask, loop: Loop) -> nn.Module | None:
    """The member of a shard, from the records that it still holds; the same bits for the same records and seed."""
    if loop.stop is not None:
        loop.stop.check()
    split = union(records, parts(records, plan), shard, [0])
    if split is None:
        return None
    own = Loop(loop.task, Settings(seed=derive(plan.seed, "sharded", shard)), title=f"shard {shard}", stop=loop.stop)
    return own.finish(task.train(own.start(task.build(own.seed)), split, task.recipe, own)).model


def served(state: Shards, base: nn.Module | None = None) -> nn.Module:
    """The mean of the members that hold records."""
    return state.join([member for member in state.members if member is not None])


def deleted(state: Shards, ids: Sequence[object], retained: Split, task: FittedTask, loop: Loop) -> tuple[Shards, list[int]]:
    """(the model without these records, the shards that were fitted again)."""
    after = state.manifest.without(ids)
    again = [shard for shard, slices in enumerate(after.hit) if slices]
    plan = after.retrained(again)
    return Shards(plan, tuple(fitted(plan, k, retained, task, loop) if k in again else member
                              for k, member in enumerate(state.members)), state.join), again


def opened(folder: Path, task: FittedTask) -> Shards:
    """The model in a folder, after every check of its manifest."""
    known = manifest.read(folder, "sharded")
    members: list[nn.Module | None] = []
    for k in range(len(known.hit)):
        file = folder / "shards" / f"{k}.safetensors"
        member = task.build(0) if file.exists() else None
        if member is not None:
            task.restored(member, load_tensors(file)[0])
        members.append(member)
    return Shards(known, tuple(members), task.joined)


def deletable(cfg: Sharded, task: FittedTask) -> None:
    """What is wrong with a deletion from the model in `trained`, before any work."""
    if cfg.trained:
        require_deletable(Path(cfg.trained), "sharded", task)


@method(needs={"forget", "retain", "recipe"}, uses={"build", "joined", "restored"}, mechanism="exact", check=deletable)
def run(cfg: Sharded, task: FittedTask, loop: Loop) -> Outcome:
    if cfg.trained:
        state = opened(Path(cfg.trained), task)
        cfg = agreed(cfg, state.manifest)
    else:
        state = train(cfg, task, loop, concat([task.retain, task.forget], "train"))
    ids = task.forget.ids.tolist()
    state.manifest.require_deletable(ids)
    state.manifest.require_retained(ids, task.retain.ids.tolist())
    left, again = deleted(state, ids, task.retain, task, loop)
    outcome = outcome_of(loop, left, served(left), cfg.trained, "shards")
    outcome.guarantee = {
        "level": "exact", "basis": "the mean of shards; each that held a deleted record was fitted again without it",
        "deleted": len(ids), "shards_retrained": len(again),
        "assumptions": [TRUSTED, "A record's shard follows from its own key, not from other records."]}
    return outcome

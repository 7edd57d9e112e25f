"""S3T: train small adapters slice by slice, and delete a record by switching off the adapters that saw it. Chowdhury,
Choromanski, Sehanobish, Dubey & Chaturvedi (2025), ICLR, arXiv:2406.16257.

    shard k:  D_k = S_1 ∪ … ∪ S_L;  B sequences π of its slices;  layers in L groups, the top one first
    stage t:  (A_t, B_t, head_t) = argmin ℓ over S_π(1) ∪ … ∪ S_π(t)   with stages 1 … t − 1 and the backbone W frozen
    W_ℓ ← W_ℓ + (α/√r)·B_t A_t   for the layers ℓ of group t;   served: the mean of the shards' outputs
    delete x in slice s:  of every π drop the stages from s on, serve head_{p−1} and stages 1 … p − 1 of the π with the largest
    p = position of s in π;  a shard is dead when p = 1 in all of them

r rank of the adapters, α their scale. What is served after a deletion is bit for bit what the same training gives when the
slice holds anything else, or nothing: stage t reads π(1) … π(t) alone, its draws are seeded by (shard, π, t), and a
record's place is a hash of its own id.
Needs:    forget; retain to train it here (no `trained`), and to train dead shards again.     Updates: adapters and head.
Cost:     training: m·B·L stages. A deletion trains nothing until a shard is dead: 39 ms of processor time (median of 15; read,
          checked, deleted, assembled; 5 layers of 64, 80 stages), a quarter of SISA's (benchmarks/exact.py).
Limits:   B = 1, L = 1: shards that are retrained as a whole. Uniform deletions until all shards are dead: on average
          m·L·H(m·min(B, L)), SISA's m·L·H(m) with B = 1; simulated with m = 5, L = 6, 400 runs: 67 with B = 1, 121 with B = 6.
          Exact for what is trained here. The backbone must not have seen the records: it is made afresh, or you say so.
Fails by: all slices hit at once (a class): then every shard is retrained. By accuracy, as stages are switched off.
Deviations: no dropout on adapters. With fewer layers than stages the layers are gone round again, each time with a new adapter.
          Learning rate and passes suit a backbone with random weights; a pretrained one wants those of the official code, and
          `public_base`. Conditional sampling of sequences is not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lethe.core.config import Count, Positive, config
from lethe.core.families.headed import HeadedTask
from lethe.core.modules import copied
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive, generator
from lethe.core.split import Split, concat
from lethe.core.view import missing
from lethe.errors import ModelError, NeedsUnmet
from lethe.exact.ensemble import Ensemble, assembled, require_last
from lethe.exact.sliced import (
    Sliced,
    State,
    agreed,
    deleted,
    guaranteed,
    of_training,
    opened,
    outcome_of,
    parts,
    planned,
    require_deletable,
    silence,
    single,
    state_of,
    train_stage,
    union,
)
from lethe.exact.slicing import groups, sequences
from lethe.train.loop import Loop
from lethe.train.modifiers.where.names import Names


@config
class S3T:
    """Options of S3T."""

    trained: str = ""  # folder of a model that `lethe train --exact s3t` wrote; none: trained first [tested in test_s3t] [ours]
    shards: Count = 5            # m; more: longer service, weaker members                        [official code]
    slices: Count = 4            # L; more: longer service, more stages                           [official code: 4–6]
    budget: Count = 4            # B ≤ L sequences per shard; more: longer service, B times the training  [paper: B ≤ L]
    order: Literal["cyclic", "matched"] = "cyclic"   # matched: bipartite matching on `probabilities` [tested in test_s3t] [paper]
    probabilities: tuple[Positive, ...] = ()   # of a deletion in each slice, for order=matched [tested in test_s3t] [paper]
    rank: Count = 16             # r of the adapters                                              [official code]
    alpha: Positive = 16.0       # α; the scale is α/√r (rank-stabilised)                         [official code: α = r]
    lr: Positive = 1e-2          # AdamW; a pretrained backbone wants less                        [ours; official code 2e-3]
    epochs: Positive = 30.0      # passes over the slices of a stage                              [ours; official code 15]
    batch_size: Count = 64       # records per step                                               [official code: 64–128]
    by: str = "id"               # records with an equal value share a slice: id, content, or a column [e.g. content] [ours]
    retrain_dead: bool = True  # dead shards are trained again on retained data [only with shards=2 slices=1 budget=1] [paper]
    public_base: bool = False    # a given backbone never saw the data: you say so [tested in test_s3t] [ours]


class LowRank(nn.Module):
    """W ↦ W + scale·(b a), a parametrisation of a weight; b starts at zero, so that it starts as the identity."""

    def __init__(self, weight: Tensor, rank: int, scale: float, rng: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        bound = (3 / columns) ** 0.5   # variance 1/columns
        self.a = nn.Parameter(((2 * torch.rand(rank, columns, generator=rng) - 1) * bound).to(weight.device))
        self.b = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """[out, in, …] -> [out, in, …]"""
        return raised(weight, self.a, self.b, self.scale)


def raised(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """W + scale·(b a).  [out, in, …], [r, in·…], [out, r] -> [out, in, …];  W = 0, a = 2, b = 3, scale = ½: 3"""
    return weight + scale * (b @ a).view_as(weight)


def merged(base: State, stages: Iterable[State], scale: float) -> State:
    """The weights of a member after these stages: adapters added one after the other, the head of the last."""
    state = dict(base)
    for stage in stages:
        for name in [key.removesuffix(".lora_a") for key in stage if key.endswith(".lora_a")]:
            state[name] = raised(state[name], stage[f"{name}.lora_a"], stage[f"{name}.lora_b"], scale)
        state |= {name: value for name, value in stage.items() if not name.endswith((".lora_a", ".lora_b"))}
    return state


def train(cfg: S3T, task: HeadedTask, loop: Loop, records: Split, base: nn.Module, given: bool = False) -> Sliced:
    """Train every shard in every sequence on `records`, from `base` (a trained backbone stays unchanged)."""
    head = task.head
    some = records.batch([0, len(records) - 1])
    require_last(base, head, lambda model: task.outputs(model, some))
    layers = [name for name, module in base.named_modules()
              if name != head and isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))]
    if not layers:
        raise ModelError(f"{type(base).__name__} has no linear or convolution layer before its head, so there is nothing to "
                         "adapt; nothing was trained. Use method: sisa, or exact_head.")
    details = {"head": head, "groups": groups(layers, cfg.slices), "given": given}
    orders = sequences(cfg.slices, cfg.budget, cfg.order, cfg.probabilities)
    plan = planned("s3t", of_training(cfg), records, orders, loop.seed, details)
    made = Sliced(plan, state_of(base), {})
    for shard in range(cfg.shards):
        train_shard(cfg, made, shard, records, base, task, loop, "train")
    return made


def train_shard(
    cfg: S3T, state: Sliced, shard: int, records: Split, base: nn.Module, task: HeadedTask, loop: Loop, phase: str
) -> None:
    """Put all stages of a shard into `state`; `phase` names the folder where a killed run goes on."""
    known = state.manifest
    head, where = known.details["head"], parts(records, known)
    for b, sequence in enumerate(known.sequences):
        model = copied(base, trainable=True).to(loop.settings.device)   # before the adapters, which go where the weights are
        model.load_state_dict(state.base)
        for t, layers in enumerate(known.details["groups"], 1):
            adapters = {}
            for layer in layers:
                module = model.get_submodule(layer)
                rng = generator(known.seed, "s3t", shard, b, t, layer)
                weight = module.weight
                assert isinstance(weight, Tensor)
                adapters[f"{layer}.weight"] = LowRank(weight, cfg.rank, cfg.alpha / cfg.rank**0.5, rng)
                parametrize.register_parametrization(module, "weight", adapters[f"{layer}.weight"])
            moving = {id(p) for adapter in adapters.values() for p in adapter.parameters()}
            names = tuple(name for name, p in model.named_parameters() if id(p) in moving or name.startswith(f"{head}."))
            split = union(records, where, shard, sequence[:t])
            if split is None:   # nothing was left of these slices: a member without a prediction
                for p in model.get_submodule(head).parameters():
                    nn.init.zeros_(p)
            else:
                train_stage(loop, task, model, split, known.seed, ("s3t", shard, b, t), phase, Names(names), lr=cfg.lr,
                            epochs=cfg.epochs, batch_size=cfg.batch_size)
            kept = {f"{head}.{name}": value for name, value in state_of(model.get_submodule(head)).items()}
            for name, adapter in adapters.items():
                kept |= {f"{name}.lora_a": adapter.a.detach().cpu().clone(), f"{name}.lora_b": adapter.b.detach().cpu().clone()}
            state.stages[shard, b, t] = kept


def served(state: Sliced, base: nn.Module) -> Ensemble:
    """The ensemble of what survives in each shard."""
    known = state.manifest
    scale = known.config["alpha"] / known.config["rank"] ** 0.5
    holding = {shard for shard, _ in known.records.values()}
    members: list[Mapping[str, Tensor] | None] = []
    for shard in range(len(known.hit)):
        b, length = known.surviving(shard)
        alive = [state.stages[shard, b, t] for t in range(1, length + 1)] if shard in holding else []
        members.append(merged(state.base, alive, scale) if alive else None)
    return assembled(base, known.details["head"], members)


def deletable(cfg: S3T, task: HeadedTask) -> None:
    """What is wrong with a deletion from the model in `trained`, before any work."""
    if cfg.trained:
        require_deletable(Path(cfg.trained), "s3t", task)


@method(needs={"forget", "retain?", "original?"},
        uses={"build", "head", "nll", "outputs"}, mechanism="exact", instead={"retain": "trained=FOLDER"},
        check=deletable)
def run(cfg: S3T, task: HeadedTask, loop: Loop) -> Outcome:
    retained = task.retain if task.has("retain") else None
    if cfg.trained:
        state = opened(Path(cfg.trained), "s3t", task)
        cfg, base = agreed(cfg, state.manifest), single(task)
    elif retained is None:
        raise NeedsUnmet(missing("retain"))
    else:
        base = task.build(derive(loop.seed, "s3t"))
        state = train(cfg, task, loop, concat([retained, task.forget], "train"), base, "no_retraining" in task.facts)
    ids = task.forget.ids.tolist()
    after = state.manifest.without(ids)
    if retained is not None:
        state.manifest.require_retained(ids, retained.ids.tolist())

    def again(now: Sliced, shard: int, kept: Split) -> None:
        train_shard(cfg, now, shard, kept, base, task, loop, "again")

    left, dead = deleted(state, ids, retained if cfg.retrain_dead else None, again)
    known = left.manifest
    silent = silence(known, loop)
    outcome = outcome_of(loop, left, served(left, base), cfg.trained)
    outcome.guarantee = guaranteed(
        known, "assembled from adapters that were trained on slices without any of the deleted records", cfg.public_base,
        {"deleted": len(ids), "stages_dropped": len(state.stages) - len(state.sound(after).stages),
         "shards_retrained": len(dead), "shards_out_of_service": silent})
    return outcome

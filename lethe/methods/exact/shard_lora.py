"""Shard-LoRA: an adapter for each part of the records, all on one base, and delete a record by training the adapter of its part
again. Chowdhury, Choromanski, Sehanobish, Dubey & Chaturvedi (2025), "S3T", ICLR, arXiv:2406.16257, for language models.

    W_ℓ = W⁰_ℓ + w · Σ_k (α/r) · B_{k,ℓ} A_{k,ℓ},     shard k:  (A_k, B_k) = argmin Σ_{x∈D_k} ℓ̄(x) on W⁰ alone, from B_k = 0
    delete x ∈ D_k:  train (A_k, B_k) again on D_k ∖ {x};  without retained data the shard goes out of service:  B_k = 0
    with slices (S3T):  D_k = S_1 ∪ … ∪ S_L;  stage t trains the adapters of one group of layers, the top one first, on
    S_π(1) ∪ … ∪ S_π(t), in B orders π;  x in slice s: the stages from s on are dropped, of the order with most left, no training

W⁰ the base, D_k the records whose id (or tenant, person: `by`) hashes to k, ℓ̄ mean negative log-probability of the answer's
tokens, r rank, α scale, w share of each shard's change. The sum is one adapter of rank m·r, which PEFT loads on the base. What is
served after a deletion is bit for bit what the same training gives without the records: draws are seeded by (k, π, layer).
Needs:    forget; retain to train it here (no `trained`), and to train dead shards again.     Updates: adapters; the base stays.
Cost:     training: as one LoRA fine-tuning, times B. A deletion: that of one shard, 1/m of it, or nothing where stages survive.
Limits:   m = 1, L = 1: fine-tuning again. A tenant whose records are all deleted leaves its shard to the others in it.
Fails by: what the base knows stays. Adapters that were trained apart answer for each other: their sum is no model that was ever
          trained, and of what one shard alone has read their mean keeps a part (w = 1, a sum, spoils all).
Deviations: adapters are added up in the weights, where S3T averages the outputs of m models. α/r, not α/√r. No dropout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.adaptable import unadapted
from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.outcome import Outcome
from lethe.core.parked import parked_copy
from lethe.core.registry import method
from lethe.core.seeds import derive, generator
from lethe.core.split import Split, concat
from lethe.core.view import missing
from lethe.errors import NeedsUnmet, RequestError
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
    train_stage,
    union,
)
from lethe.exact.slicing import groups, sequences
from lethe.train.loop import Loop
from lethe.train.modifiers.where.lora import A, B, Lora, adapted_layers, inject, settings_for, write_adapter
from lethe.train.modifiers.where.names import Names

BASE = "base_model_name_or_path"


@config
class ShardLora:
    """Options of Shard-LoRA."""

    trained: str = ""  # folder that `lethe train --exact shard_lora` wrote; none: trained first [tested in test_shard_lora]
    shards: Count = 4            # m; more: cheaper deletions, adapters that know less            [official code: 4]
    slices: Count = 1     # L; more: deletions without training [tested in test_shard_lora]       [ours; official code 5]
    budget: Count = 1     # B ≤ L orders, B times the training [tested in test_shard_lora]        [paper: B ≤ L]
    rank: Count = 16             # r of each shard's adapter                                      [ours; official code 32]
    alpha: Positive = 32.0       # α; the scale is α/r                                            [official code: α = 2r]
    share: Positive | None = None  # w, of each shard's change of the weights; null: their mean   [paper: mean of outputs]
    lr: Positive = 1e-4          # AdamW; tiny models need more                                   [ours; official code 2e-5, α/√r]
    epochs: Positive = 3.0       # passes over the records of a stage                             [official code]
    batch_size: Count = 16       # records per step                                               [ours]
    weight_decay: NonNegative = 0.0   # pull towards 0                                            [official code]
    by: str = "id"        # records with an equal value share a shard: id, content, or a column [tested in test_shard_lora] [ours]
    retrain_dead: bool = True    # dead shards are trained again on retained data [tested in test_shard_lora] [paper]
    public_base: bool = False    # the base never saw the data: you say so [tested in test_shard_lora] [ours]


def summed(adapters: Sequence[tuple[Tensor, Tensor] | None], rank: int, share: float, like: tuple[Tensor, Tensor]
           ) -> tuple[Tensor, Tensor]:
    """One adapter (A, B) that changes a layer as all together do; None: out of service.

    m × ([r, in], [out, r]) -> [m·r, in], [out, m·r]

    summed([(2, 3), None, (5, 7)], 1, ½, …) = ([2, 0, 5], [1.5, 0, 3.5]): B A = 3 + 17.5 = ½·(6 + 35).
    """
    a, b = (torch.zeros_like(one) for one in like)
    for k, adapter in enumerate(adapters):
        if adapter is not None:
            a[k * rank : (k + 1) * rank], b[:, k * rank : (k + 1) * rank] = adapter[0], share * adapter[1]
    return a, b


def train(cfg: ShardLora, task: LanguageTask, loop: Loop, records: Split, base: nn.Module, given: bool = False,
          apart: bool = True) -> Sliced:
    """Train the adapters of every shard on `records`. apart: they are to lie beside the folder of their base."""
    facts = dict(task.adapter_facts())
    if apart and not facts.get(BASE):
        raise RequestError("adapters of shards stand beside their base, and this model comes from no folder; nothing was "
                           "trained. Set model.folder to the base that is to be adapted.")
    working, layers = adapted(cfg, base, task, loop)
    if cfg.slices > len(layers):
        raise RequestError(f"method.slices = {cfg.slices}, but the model has {len(layers)} layers to adapt, one group of them "
                           "for each slice; nothing was trained. Lower it.")
    details = {"layers": layers, "groups": groups(layers, cfg.slices), "facts": facts, "given": given}
    made = Sliced(planned("shard_lora", of_training(cfg), records, sequences(cfg.slices, cfg.budget), loop.seed, details), {}, {})
    for shard in range(cfg.shards):
        train_shard(cfg, made, shard, records, working, task, loop, "train")
    return made


def adapted(cfg: ShardLora, base: nn.Module, task: LanguageTask, loop: Loop, layers: Sequence[str] = ()
            ) -> tuple[nn.Module, list[str]]:
    """A copy of the base with adapters of rank r, and the layers that have one: those given, or all that the family names."""
    model = unadapted(parked_copy(base))
    found = Lora(rank=cfg.rank, alpha=cfg.alpha, targets=tuple(layers)).select(model, task, loop)
    return model.to(loop.settings.device), adapted_layers(found.params)


def train_shard(cfg: ShardLora, state: Sliced, shard: int, records: Split, working: nn.Module, task: LanguageTask, loop: Loop,
                phase: str) -> None:
    """Put all stages of a shard into `state`; `phase` names the folder where a killed run goes on."""
    known = state.manifest
    where = parts(records, known)
    for b, sequence in enumerate(known.sequences):
        for layer in known.details["layers"]:
            afresh(working, layer, generator(known.seed, "shard_lora", shard, b, layer))
        for t, layers in enumerate(known.details["groups"], 1):
            split = union(records, where, shard, sequence[:t])
            if split is not None:
                names = Names(tuple(f"{layer}.{key}" for layer in layers for key in (A, B)))
                train_stage(loop, task, working, split, known.seed, ("shard_lora", shard, b, t), phase, names, lr=cfg.lr,
                            epochs=cfg.epochs, batch_size=cfg.batch_size, weight_decay=cfg.weight_decay)
            state.stages[shard, b, t] = {f"{layer}.{key}": working.get_parameter(f"{layer}.{key}").detach().cpu().clone()
                                         for layer in layers for key in (A, B)}


def afresh(model: nn.Module, layer: str, rng: torch.Generator) -> None:
    """The adapter of a layer as before training: A uniform with variance 1/(3 d_in), as PEFT draws it, and B = 0."""
    a, b = model.get_parameter(f"{layer}.{A}"), model.get_parameter(f"{layer}.{B}")
    with torch.no_grad():
        a.copy_((2 * torch.rand(a.shape, generator=rng) - 1) / a.shape[1] ** 0.5)
        b.zero_()


def served(state: Sliced, base: nn.Module) -> nn.Module:
    """The base with the adapters of all shards as one, of what survives in each."""
    known = state.manifest
    cfg, count = known.config, len(known.hit)
    holding = {shard for shard, _ in known.records.values()}
    members: list[State] = []
    for shard in range(count):
        b, length = known.surviving(shard) if shard in holding else (0, 0)
        members.append({name: value for t in range(1, length + 1) for name, value in state.stages[shard, b, t].items()})
    if not any(members):
        raise NeedsUnmet("no adapter that was trained is free of the deleted records, so the base alone would be left; nothing "
                         "was changed. Provide the retained data, so that shards can be trained again, or serve the base.")
    model = unadapted(parked_copy(base))
    layers, share = known.details["layers"], cfg["share"] or 1 / sum(map(bool, members))
    inject(settings_for(model, layers, count * cfg["rank"], count * cfg["alpha"], known.details["facts"]), model, 0)
    for layer in layers:
        mine = tuple(model.get_parameter(f"{layer}.{key}") for key in (A, B))
        pairs = [(one[f"{layer}.{A}"], one[f"{layer}.{B}"]) if f"{layer}.{A}" in one else None for one in members]
        with torch.no_grad():
            for place, value in zip(mine, summed(pairs, cfg["rank"], share, (mine[0], mine[1])), strict=True):
                place.copy_(value)
    return model.eval()


def written(model: nn.Module, folder: Path) -> None:
    """Write what is served: the adapter, without its base."""
    write_adapter(model, folder)


def section(model: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The section of a request with which the model in `folder` is read; model: that of its base."""
    return {**{key: value for key, value in model.items() if key not in ("base", "tiny")}, "adapter": str(folder)}


def deletable(cfg: ShardLora, task: LanguageTask) -> None:
    """What is wrong with a deletion from the model in `trained`, before any work."""
    if cfg.trained:
        require_deletable(Path(cfg.trained), "shard_lora", task)


@method(needs={"forget", "retain?", "original?"}, uses={"answer_lengths", "build", "nll"}, mechanism="exact",
        instead={"retain": "trained=FOLDER"}, check=deletable)
def run(cfg: ShardLora, task: LanguageTask, loop: Loop) -> Outcome:
    retained = task.retain if task.has("retain") else None
    if cfg.trained:
        state = opened(Path(cfg.trained), "shard_lora", task)
        cfg, base = agreed(cfg, state.manifest), task.original
    elif retained is None:
        raise NeedsUnmet(missing("retain"))
    else:
        base = task.build(derive(loop.seed, "shard_lora"))
        records = concat([retained, task.forget], "train")
        state = train(cfg, task, loop, records, base, "no_retraining" in task.facts, apart=False)
    ids = task.forget.ids.tolist()
    if retained is not None:
        state.manifest.require_retained(ids, retained.ids.tolist())

    def again(now: Sliced, shard: int, kept: Split) -> None:
        working = adapted(cfg, base, task, loop, now.manifest.details["layers"])[0]
        train_shard(cfg, now, shard, kept, working, task, loop, "again")

    left, dead = deleted(state, ids, retained if cfg.retrain_dead else None, again)
    silent = silence(left.manifest, loop)
    outcome = outcome_of(loop, left, served(left, base), cfg.trained, "adapters")
    outcome.kind = "adapter"
    basis = "assembled from adapters on one base, each trained on records without any of the deleted ones"
    outcome.guarantee = guaranteed(left.manifest, basis, cfg.public_base, {
        "deleted": len(ids), "shards_retrained": len(dead), "shards_kept": len(left.manifest.hit) - len(dead) - silent,
        "shards_out_of_service": silent})
    return outcome

"""NULLs: each source has neurons of its own, a sink, which its records alone move beside what all share; to forget the source is
to switch its sink off. Ghosal, Maini & Raghunathan (2026), arXiv:2606.13873, natively unlearnable models; after MemSinks (2025).

    h(x) = W_B a_B(x) + W_s a_s(x) + Σ_{t≠s} z_t·[W_t a_t(x)],   x of source s,  z_t ~ Bernoulli(q) for each record and step
    L(θ) = E_x ℓ̄(x);   afterwards z = 1 for all sinks;   delete s:  θ_s := 0

a_B, a_t the neurons of an MLP that all share and those of sink t, W what the MLP writes with, [·] no gradient, q `others`, ℓ̄ mean
negative log-probability of the answer's tokens, θ_s the columns W_s and all that moves a_s alone. Sinks are the last neurons of
every block, in ordinary rows and columns: what is served is a plain model, of which all sinks that are left speak to everyone.
Needs:    forget; retain to train it here (no `trained`).     Updates: at training everything, at a deletion θ_s.
Cost:     training: as ordinary training. A deletion: a pass over four records for each block.
Limits:   q = 0: the paper's training, in which a sink meets its own source alone. q = 1: a game between sinks; it did not settle.
Fails by: what all share reads all sources: it may keep what a sink should hold, and nothing is exact. A plain model does not know
          whose prompt it reads, so sinks that never met a record speak to it, too. Of 32 people in four teams (¾ of the neurons,
          three seeds) a deleted team is answered with .16–.19, after retraining with .17–.20, but the others with .66–.73 instead
          of .99 (q = 0: .54–.59); with its own sink alone, each record is answered with .97.
Deviations: the paper's abstract was read, no code: sizes are ours. Sinks are apart, not drawn from a pool. q is ours, because a
          plain model has no switch by prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, NonNegative, Positive, Schedule, config
from lethe.core.families.language import LanguageTask
from lethe.core.modules import hooked
from lethe.core.outcome import Outcome
from lethe.core.parked import parked_copy
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split, concat
from lethe.core.view import missing
from lethe.errors import DataError, NeedsUnmet, RequestError
from lethe.exact.manifest import Manifest
from lethe.exact.reserved import SAMPLE, Units, Whole, entries, neurons, reopened, require_one_process, zeroed
from lethe.exact.reserved import section as section
from lethe.exact.reserved import served as served
from lethe.exact.sliced import of_training, outcome_of, require_deletable
from lethe.train.loop import Loop, Term

Sinks = dict[str, Tensor]   # name of a layer that writes -> which of its inputs each sink is  [S, k] bool


@config
class NULLs:
    """Options of NULLs."""

    trained: str = ""      # folder that `lethe train --exact nulls` wrote; none: trained first [tested in test_nulls]
    by: str = "id"         # records with an equal value are a source: id, or a column [tested in test_nulls]    [ours]
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5   # of each block's neurons, all sinks together; more: less shared  [ours]
    others: Fraction = 0.1           # q, how often a sink speaks to a record of another source; 0: never      [ours; paper 0]
    lr: Positive = 5e-4              # AdamW                                                                   [ours, as sgtm]
    epochs: Positive = 1.0           # passes over the records                                                 [ours, as sgtm]
    batch_size: Count = 128          # records per step                                                        [ours, as sgtm]
    weight_decay: NonNegative = 0.1  # pull towards 0                                                          [ours, as sgtm]
    schedule: Schedule = "cosine"    # of the learning rate                                                    [ours, as sgtm]


def sinks_of(cfg: NULLs, task: LanguageTask, model: nn.Module, count: int) -> Sinks:
    """The last neurons of each block, in `count` equal parts."""
    found: Sinks = {}
    for name, width in neurons(task, model).items():
        each = int(cfg.share * width / count)
        if not each:
            raise RequestError(f"method.share = {cfg.share} of {width} neurons leaves less than one for each of {count} "
                               "sources; nothing was trained. Use a wider model, a larger share, or a column of fewer values.")
        place = torch.arange(width) - (width - count * each)
        found[name] = torch.stack([(place >= s * each) & (place < (s + 1) * each) for s in range(count)])
    return found


def speaking(sinks: Tensor, which: Tensor) -> Tensor:
    """The inputs of a layer that are a sink's which is on, row by row.  [S, k], [n, S] -> [n, k] bool"""
    return (which.float() @ sinks.to(which.device).float()).bool()


@contextmanager
def routed(model: nn.Module, sinks: Sinks, own: Tensor, others: Tensor) -> Iterator[None]:
    """Inside, row i of a batch is answered by what is shared and the sinks own[i], and, without a gradient, others[i].

    own, others  [n, S] bool, disjoint
    """
    handles = []
    for name, each in sinks.items():
        mine, theirs = speaking(each, own) | ~each.any(0).to(own.device), speaking(each, others)
        heard: list[Tensor] = []

        def split(_: nn.Module, args: tuple[Any, ...], mine: Tensor = mine, theirs: Tensor = theirs, heard: list[Tensor] = heard
                  ) -> tuple[Any, ...]:
            x = args[0]
            mine, theirs = (_as_rows(mask, x) for mask in (mine, theirs))
            heard[:] = [x.detach().masked_fill(~theirs, 0)]
            return (x.masked_fill(~mine, 0), *args[1:])

        def add(layer: nn.Module, _: Any, out: Tensor, heard: list[Tensor] = heard) -> Tensor:
            weight = layer.get_parameter("weight").detach()
            return out + heard.pop() @ (weight.T if isinstance(layer, nn.Linear) else weight)

        layer = model.get_submodule(name)
        handles += [layer.register_forward_pre_hook(split), layer.register_forward_hook(add)]
    with hooked(*handles):
        yield


def _as_rows(mask: Tensor, x: Tensor) -> Tensor:
    """[n, k] -> as x [n, T, k] or [n·T, k]"""
    n, k = mask.shape
    if x.dim() == 3 and len(x) != n:
        raise RequestError("short sequences share a row, so a row has no single source; nothing was trained. Set "
                           "model.packing=false.")
    return mask.unsqueeze(1).expand(n, x.numel() // (n * k), k).reshape(x.shape)


def planned(cfg: NULLs, records: Split, seed: int, given: bool) -> Manifest:
    """The manifest before training: the number of each record's source, in the order of their names."""
    values = [str(value) for value in records.column(cfg.by)]
    names = sorted(set(values))
    if len(names) < 2:
        raise RequestError(f"all {len(records)} records have one value of {cfg.by}, so there is one source, and nothing would "
                           "stay; nothing was trained. Name a column with several values: method.by.")
    known = Manifest("nulls", of_training(cfg), seed, {}, [[0]], [[] for _ in names], details={"given": given})
    places = {known.key(one): [names.index(value), 0] for one, value in zip(records.ids, values, strict=True)}
    return replace(known, records=places)


def train(cfg: NULLs, task: LanguageTask, loop: Loop, records: Split, base: nn.Module, given: bool = False) -> Whole:
    """Train a copy of the base on `records`, each with the sink of its source."""
    require_one_process(loop)
    known = planned(cfg, records, loop.seed, given)
    count = len(known.hit)
    model = loop.start(fresh=parked_copy(base))
    sinks = sinks_of(cfg, task, model, count)
    source = torch.tensor([known.records[known.key(one)][0] for one in records.ids])

    def prepare(batch: Batch, rng: torch.Generator) -> Batch:
        own = nn.functional.one_hot(source[batch.index], count).bool()
        others = (torch.rand(own.shape, generator=rng) < cfg.others) & ~own
        return batch.replace(own=own, others=others)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with routed(model, sinks, batch.own, batch.others):
            return task.nll(model, batch)

    loop.minimise(model, {"train": Term(records, loss, prepare=prepare)}, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  weight_decay=cfg.weight_decay, schedule=cfg.schedule)
    return Whole(known, model)


def deletable(cfg: NULLs, task: LanguageTask) -> None:
    """What is wrong with a deletion from the model in `trained`, before any work."""
    if cfg.trained:
        require_whole(require_deletable(Path(cfg.trained), "nulls", task), task.forget)


def require_whole(known: Manifest, forget: Split) -> list[int]:
    """The sources that go; DataError where a part of one is to stay."""
    after = known.without(forget.ids.tolist())
    gone = sorted({known.records[known.key(one)][0] for one in forget.ids})
    left = sum(source in gone for source, _ in after.records.values())
    if left:
        raise DataError(f"{left} records of the same {len(gone)} sources are to stay, and a sink is switched off as a whole; "
                        f"nothing was deleted. Name all records of a source: forget={{column: {{{known.config['by']}: …}}}}.")
    return gone


@method(needs={"forget", "retain?", "original?"}, uses={"answer_lengths", "build", "down_projections", "layer_count", "nll"},
        mechanism="mask", instead={"retain": "trained=FOLDER"}, check=deletable,
        judged=False)   # what is lost was decided at training: there is no step size to lower
def run(cfg: NULLs, task: LanguageTask, loop: Loop) -> Outcome:
    retained, ids = task.retain if task.has("retain") else None, task.forget.ids.tolist()
    if cfg.trained:
        cfg, state = reopened(cfg, "nulls", task, loop)
    elif retained is None:
        raise NeedsUnmet(missing("retain"))
    else:
        state = train(cfg, task, loop, concat([retained, task.forget], "train"), task.build(derive(loop.seed, "nulls")))
    gone = require_whole(state.manifest, task.forget)
    if retained is not None:
        state.manifest.require_retained(ids, retained.ids.tolist())
    sinks = sinks_of(cfg, task, state.model, len(state.manifest.hit))
    units: Units = {name: each[gone].any(0) for name, each in sinks.items()}
    own = entries(task, state.model, units, loop.on_device(task.forget.batch(range(len(ids))[:SAMPLE])))
    outcome = outcome_of(loop, Whole(state.manifest.without(ids), zeroed(state.model, own)), state.model, cfg.trained, "sinks")
    outcome.guarantee = {"level": "none", "deleted": len(ids), "sources": len(gone), "void": (
        "Not exact: no other record ever moved the sinks that were switched off, and the deleted records never moved the sinks "
        "that stay, but they did move what all sources share.")}
    return outcome

"""SGTM: at training labelled records move only units that are reserved for them; to forget is to set these to zero. Shilov,
Cloud, Gema et al. (2025), arXiv:2512.05648: selective gradient masking, after gradient routing (Cloud et al. 2024, 2410.04332).

    L(θ) = E_{x∈D_r} [ s·ℓ̄(x; θ_r, 0) + (1−s)·ℓ̄(x; θ_r, θ_l) ]  +  w · E_{x∈D_l} ℓ̄(x; [θ_r], θ_l),    w = |D_l|/|D_r|
    delete:  θ_l := 0

D_l labelled records, D_r the others, ℓ̄ mean negative log-probability of the answer's tokens, [·] no gradient, s `sure`. θ_l: in
every block the last `heads` of attention and the last `units` of the MLP, with all that moves them alone (what grouped heads
share is θ_r); 0: they say nothing. They are ordinary rows and columns: what is served is a plain model.
Needs:    forget; retain to train it here (no `trained`).     Updates: at training everything, at a deletion θ_l.
Cost:     training: as ordinary training on all records. A deletion: one pass over four records for each block.
Limits:   s = 1: θ_r never depends on D_l, and the deletion is exact: bit for bit the training without D_l.
Fails by: records that were not labelled: they moved everything, and their deletion is refused. That what is like D_l is drawn
          into θ_l (paper) was not seen here: 4 people beside 4 labelled ones keep .78–.86, the others .83–.87. All of D_l goes at
          once. With s near 1 the others are answered badly as long as θ_l speaks. On 32 people (8 labelled, 1 of 2 heads, ¼ of
          the neurons, equal steps, three seeds) what is left answers the others with .72–.81, retraining with .99. Relearning the
          8 takes 32–51 steps, after NPO 8–9, after RMU 12–17 (paper: 350 to 50), after retraining 11–14: it also learns slower.
Deviations: the official code draws one kind of batch a step, and momentum and weight decay of θ_r go on in labelled steps; here
          each step has a batch of each kind. Embeddings and norms are θ_r (official: an option; the last norm and the head's bias
          move there). No logits are calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lethe.core.config import Count, Fraction, Natural, NonNegative, Positive, Schedule, config
from lethe.core.families.language import LanguageTask
from lethe.core.outcome import Outcome
from lethe.core.parked import parked_copy
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split, concat
from lethe.core.view import missing
from lethe.errors import DataError, NeedsUnmet, RequestError
from lethe.exact.manifest import Manifest
from lethe.exact.reserved import (
    SAMPLE,
    Entries,
    Units,
    Whole,
    entries,
    heads,
    moving,
    neurons,
    reopened,
    require_one_process,
    silenced,
    zeroed,
)
from lethe.exact.reserved import section as section
from lethe.exact.reserved import served as served
from lethe.exact.sliced import guaranteed, of_training, outcome_of, parts, require_deletable
from lethe.train.loop import Loop, Modifiers, Term

REST, LABELLED = (0, 0), (1, 0)   # places in the manifest


@config
class SGTM:
    """Options of SGTM."""

    trained: str = ""     # folder that `lethe train --exact sgtm` wrote; none: trained first [tested in test_sgtm]
    by: str = "id"        # column that says which records are labelled [tested in test_sgtm]                   [ours]
    labelled: tuple[str, ...] = ()   # its values that are; none: the forget set [tested in test_sgtm]          [ours]
    heads: Natural = 1               # reserved of each block's attention                              [official code]
    units: Fraction = 0.03125        # reserved of each block's MLP; more: room for what is labelled   [official code: 64 of 2048]
    sure: Fraction = 0.25            # s, share of the others learnt without θ_l; 1: exact             [official code: .25 and .1]
    lr: Positive = 5e-4              # AdamW                                                           [official code: 5e-4, 6e-4]
    epochs: Positive = 1.0           # passes over the records                                         [official code]
    batch_size: Count = 128          # unlabelled records per step; the labelled in proportion         [official code]
    weight_decay: NonNegative = 0.1  # pull towards 0                                                  [official code]
    schedule: Schedule = "cosine"    # of the learning rate                                            [official code]
    public_base: bool = False        # the base never saw the data: you say so [tested in test_sgtm]   [ours]


def reserved(cfg: SGTM, task: LanguageTask, model: nn.Module) -> Units:
    """The last heads and neurons of each block."""
    found: Units = {}
    for name, width in neurons(task, model).items():
        found[name] = torch.arange(width) >= width - round(cfg.units * width)
    for name, (count, size) in heads(task, model).items() if cfg.heads else ():
        found[name] = torch.arange(count * size) >= (count - cfg.heads) * size
    if full := [name for name, chosen in found.items() if chosen.all()]:
        raise RequestError(f"method.heads = {cfg.heads} and method.units = {cfg.units} reserve all that {full[0]} reads, so "
                           "nothing would be left after a deletion; nothing was trained. Lower them.")
    if not any(chosen.any() for chosen in found.values()):
        raise RequestError(f"method.heads = {cfg.heads} and method.units = {cfg.units} reserve nothing, so labelled records "
                           "would be learnt nowhere; nothing was trained. Raise one of them.")
    return {name: chosen for name, chosen in found.items() if chosen.any()}


def planned(cfg: SGTM, records: Split, labelled: set[str], seed: int, given: bool) -> Manifest:
    """The manifest before training: which records are labelled."""
    values = [str(value) for value in records.column(cfg.by)]
    if not labelled or not labelled & set(values) or labelled >= set(values):
        raise RequestError(f"method.labelled names {sorted(labelled)[:3]}, and of {len(records)} records "
                           f"{sum(value in labelled for value in values)} have such a value of {cfg.by}: some have to be "
                           "labelled, and some not; nothing was trained. Write method.by=COLUMN method.labelled='[VALUE]'.")
    known = Manifest("sgtm", of_training(cfg), seed, {}, [[0]], [[], []], details={"given": given})
    places = {known.key(one): LABELLED if value in labelled else REST for one, value in zip(records.ids, values, strict=True)}
    return replace(known, records={key: list(place) for key, place in places.items()})


def objective(cfg: SGTM, task: LanguageTask, known: Manifest, records: Split, units: Units, own: Entries) -> dict[str, Term]:
    """The terms of L; those of weight 0 are left out."""
    def silent(model: nn.Module, batch: Batch) -> torch.Tensor:
        with silenced(model, units):
            return task.nll(model, batch)

    where = parts(records, known)
    rest, labelled = (records.subset(where[place], name) for place, name in ((REST, "the others"), (LABELLED, "labelled")))
    terms = {"silent": (Term(rest, silent), cfg.sure), "open": (Term(rest, task.nll), 1 - cfg.sure),
             "labelled": (Term(labelled, moving(own, task.nll)), len(labelled) / len(rest))}
    return {name: replace(term, weight=weight, batch_size=max(1, round(cfg.batch_size * weight)))
            for name, (term, weight) in terms.items() if weight}


def train(cfg: SGTM, task: LanguageTask, loop: Loop, records: Split, base: nn.Module, given: bool = False) -> Whole:
    """Train a copy of the base on `records`, those that `cfg` labels in its reserved units."""
    return trained(cfg, task, loop, records, base, set(cfg.labelled), given)


def trained(cfg: SGTM, task: LanguageTask, loop: Loop, records: Split, base: nn.Module, labelled: set[str], given: bool) -> Whole:
    require_one_process(loop)
    known = planned(cfg, records, labelled, loop.seed, given)
    model = loop.start(fresh=parked_copy(base))
    units = reserved(cfg, task, model)
    own = entries(task, model, units, loop.on_device(records.batch(range(len(records))[:SAMPLE])))
    rest = sum(tuple(place) == REST for place in known.records.values())
    loop.minimise(model, objective(cfg, task, known, records, units, own), steps=math.ceil(cfg.epochs * rest / cfg.batch_size),
                  lr=cfg.lr, weight_decay=cfg.weight_decay, schedule=cfg.schedule)
    return Whole(known, model)


def deletable(cfg: SGTM, task: LanguageTask) -> None:
    """What is wrong with a deletion from the model in `trained`, before any work."""
    if cfg.trained:
        require_labelled(require_deletable(Path(cfg.trained), "sgtm", task), task.forget)


def require_labelled(known: Manifest, forget: Split) -> None:
    """DataError where records are to go that have moved what stays."""
    free = [one for one in forget.ids if tuple(known.records[known.key(one)]) != LABELLED]
    if free:
        raise DataError(f"{len(free)} of {len(forget)} records were not labelled when the model was trained (first: {free[0]}), "
                        "so they have moved the weights that stay; nothing was deleted. Choose another method for them: npo.")


@method(needs={"forget", "retain?", "original?"}, uses={"answer_lengths", "build", "down_projections", "layer_count", "nll"},
        mechanism="mask", instead={"retain": "trained=FOLDER"}, check=deletable,
        judged=False)   # what is lost was decided at training: there is no step size to lower
def run(cfg: SGTM, task: LanguageTask, loop: Loop) -> Outcome:
    retained = task.retain if task.has("retain") else None
    if cfg.trained:
        cfg, state = reopened(cfg, "sgtm", task, loop)
    elif retained is None:
        raise NeedsUnmet(missing("retain"))
    else:
        records = concat([retained, task.forget], "train")
        cfg = cfg if cfg.labelled else replace(cfg, by="id")
        labelled = set(cfg.labelled or map(str, task.forget.ids))
        base = task.build(derive(loop.seed, "sgtm"))
        state = trained(cfg, task, loop, records, base, labelled, "no_retraining" in task.facts)
    ids = task.forget.ids.tolist()
    left = state.manifest.without(ids)
    require_labelled(state.manifest, task.forget)
    if retained is not None:
        state.manifest.require_retained(ids, retained.ids.tolist())
    units = reserved(cfg, task, state.model)
    own = entries(task, state.model, units, loop.on_device(task.forget.batch(range(len(ids))[:SAMPLE])))
    model = zeroed(state.model, own)
    others = sum(tuple(place) == LABELLED for place in left.records.values())
    if others:
        loop.notes.append(f"{others} labelled records that were not named are forgotten with them: all of them share what was "
                          "reserved")
    outcome = outcome_of(loop, Whole(left, model), model, cfg.trained, "units")
    outcome.guarantee = claimed(cfg, left, loop, {"deleted": len(ids), "labelled": others + len(ids)})
    return outcome


def claimed(cfg: SGTM, known: Manifest, loop: Loop, numbers: Mapping[str, int]) -> dict[str, Any]:
    """Exact where no weight that stays ever depended on a labelled record, and all of these are deleted; else nothing."""
    void = ""
    if numbers["deleted"] < numbers["labelled"]:
        void = "Not exact: labelled records that stay were forgotten, too."
    elif cfg.sure < 1 or loop.modifiers != Modifiers():
        void = ("Not exact: no gradient of a labelled record ever moved the weights that stay, but those of other records did "
                "while reserved units, which labelled records had moved, were at work (method.sure below 1, or modifiers).")
    if void:
        return {"level": "none", "void": void, **numbers}
    basis = "what no labelled record ever moved or reached; the units that were reserved for these are zero"
    return guaranteed(known, basis, cfg.public_base, numbers)

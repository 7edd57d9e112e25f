"""How a process cuts its part of a batch: for accumulation, and so that what a piece leaves for the backward pass stays small."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from lethe.core.activations import kept_bytes
from lethe.core.parked import is_large
from lethe.core.split import Batch
from lethe.train.session import Session
from lethe.train.terms import Term

ACTIVATIONS = 0.1   # of the model's bytes, that a backward pass may keep of sequences on the CPU           [ours]


def token_bytes(loop: Session, model: nn.Module, term: Term, draw: Callable[[], Batch]) -> float:
    """Bytes that a token of this term leaves for the backward pass, where its batches may be cut for them: sequences on the CPU,
    of a model that is large. 0 elsewhere. draw: a batch of the term, asked for only where it is looked at."""
    weights = list(model.parameters())
    if term.split.lengths is None or term.coupled or loop.distribution.size > 1 or not is_large(weights):
        return 0.0
    one = draw().part(slice(0, 1))
    with loop.autocast():
        kept = kept_bytes(lambda: term.loss(model, one), weights)
    return kept / one.columns[next(iter(term.split.padding))].shape[1]


def cut(each: float, model: nn.Module, term: Term, batch: Batch) -> int:
    """Into how many pieces a batch of a term is cut whose tokens leave `each` bytes, so that those of a piece are a share of the
    model (`ACTIVATIONS`)."""
    if not each:
        return 1
    width = batch.columns[next(iter(term.split.padding))].shape[1]
    room = ACTIVATIONS * sum(p.nbytes for p in model.parameters())
    return min(len(batch), math.ceil(each * width * len(batch) / room))


def pieces(loop: Session, batch: Batch, least: int) -> list[tuple[Batch, float]]:
    """This process's part of a batch in at least so many pieces, or as many as accumulation wants: (piece, 1). A sharded model
    runs with all its peers or not at all, so a process with fewer pieces than the others runs along on an example that counts
    for nothing."""
    world, count = loop.distribution, max(loop.settings.accumulate, least)
    mine = batch if world.size == 1 else batch.part(slice(world.rank, None, world.size))
    found = [(piece, 1.0) for piece in (mine.pieces(count) if count > 1 else [mine]) if len(piece)]
    if world.kind == "fsdp":
        most = math.ceil(len(batch) / world.size)
        wanted = math.ceil(most / math.ceil(most / count))
        found += [(batch.part(slice(0, 1)), 0.0)] * (wanted - len(found))
    return found

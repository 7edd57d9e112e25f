"""How a process cuts its part of a batch: for accumulation, and so that what a piece leaves for the backward pass finds room."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from lethe.core.activations import kept_bytes
from lethe.core.parked import is_large
from lethe.core.split import Batch
from lethe.errors import OutOfMemory
from lethe.train.session import Session
from lethe.train.terms import Term

ACTIVATIONS = 0.1   # of the model's bytes, that a backward pass may keep on the CPU                        [ours]


class Pieces:
    """Into how many pieces the batches of each term are cut: as `accumulate` says, or more where memory is short.

    On the CPU, of a model that is large, so that what a piece leaves for the backward pass is a share of the model
    (`ACTIVATIONS`). An accelerator says itself when it is full: then `finer`.

    draw   a batch of a term, asked for only where it is looked at
    uncut  whether the model reads statistics of whole batches
    """

    def __init__(self, loop: Session, model: nn.Module, terms: Mapping[str, Term], draw: Callable[[str], Batch], uncut: bool
                 ) -> None:
        self.loop, self.terms, self.uncut = loop, terms, uncut
        weights = list(model.parameters())
        self.room = ACTIVATIONS * sum(p.nbytes for p in weights)
        looked_at = not uncut and loop.distribution.size == 1 and is_large(weights)
        self.unit_bytes = {name: self._unit_bytes(model, term, draw(name)) if looked_at and not term.coupled else 0.0
                           for name, term in terms.items()}
        self.least = dict.fromkeys(terms, loop.settings.accumulate)

    def _unit_bytes(self, model: nn.Module, term: Term, batch: Batch) -> float:
        """Bytes that a token of a sequence, or an example of what has no sequences, leaves for the backward pass."""
        one = batch.part(slice(0, 1))
        with self.loop.autocast():
            kept = kept_bytes(lambda: term.loss(model, one), model.parameters())
        return kept / units(term, one)

    def count(self, name: str, batch: Batch) -> int:
        """Into how many pieces a batch of this term is cut."""
        wanted = math.ceil(self.unit_bytes[name] * units(self.terms[name], batch) / self.room) if self.unit_bytes[name] else 1
        return max(self.least[name], min(len(batch), wanted))

    def cut(self, name: str, batch: Batch) -> list[tuple[Batch, float]]:
        """This process's pieces of a batch, and how much each counts.

        A coupled term is never cut: every process computes the loss of the whole batch and counts for its share. A sharded model
        runs with all its peers or not at all, so a process with fewer pieces than the others runs along on an example that
        counts for nothing.
        """
        world, count = self.loop.distribution, self.count(name, batch)
        if self.terms[name].coupled:
            return [(batch, 1.0 / world.size)]
        mine = batch if world.size == 1 else batch.part(slice(world.rank, None, world.size))
        found = [(piece, 1.0) for piece in (mine.pieces(count) if count > 1 else [mine]) if len(piece)]
        if world.kind == "fsdp":
            most = math.ceil(len(batch) / world.size)
            wanted = math.ceil(most / math.ceil(most / count))
            found += [(batch.part(slice(0, 1)), 0.0)] * (wanted - len(found))
        return found

    def finer(self, name: str, batch: Batch, error: torch.OutOfMemoryError) -> None:
        """The device has no room for the gradient of a piece: batches of this term are cut into twice as many from now on.

        Raises OutOfMemory where they may not be cut any further, with what helps.
        """
        device, count = self.loop.settings.device, self.count(name, batch)
        why = ("a single example" if count >= len(batch) else
               "a batch that its loss compares as a whole" if self.terms[name].coupled else
               "a batch whose statistics batch norm reads as a whole" if self.uncut else
               "a part of a batch, which all processes cut alike" if self.loop.distribution.size > 1 else "")
        if why:
            raise OutOfMemory(
                f"{device} has no room for the gradient of {why} ({name}, {len(batch)} examples a batch): "
                f"{str(error).splitlines()[0]} Nothing was saved. Set settings.precision=bfloat16, model.checkpointing=true or "
                "where=lora, or lower method.batch_size.")
        self.least[name] = min(len(batch), 2 * count)
        self.loop.note(f"batches of {name} are cut into {self.least[name]} pieces, for {device} has no room for "
                       f"{'the whole' if count == 1 else f'{count}'}")


def units(term: Term, batch: Batch) -> int:
    """Tokens of a batch of sequences, padding included; else examples."""
    width = 1 if term.split.lengths is None else batch.columns[next(iter(term.split.padding))].shape[1]
    return width * len(batch)

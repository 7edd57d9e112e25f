"""Shadow models: what an attacker trains who knows the recipe and can run the unlearning procedure himself.

Candidates C are the forget set F and as many unseen holdout examples. Shadow k is trained on R ∪ A_k, A_k a random
half of C (the next shadow takes the other half), then the procedure under audit forgets A_k. So for each candidate half
of the shadows have seen and unlearned it, and half never saw it; the audited model itself was trained on R ∪ F and has
unlearned F. One pool serves every attack and every procedure; it is grown as an audit needs, and
kept on disk by the fingerprints of everything that determines a model.
"""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from torch import nn

from lethe.core.alike import beside
from lethe.core.config import digest
from lethe.core.events import Listener, Units, silent
from lethe.core.identity import NUMBERS, code_of
from lethe.core.modules import copied, filled, named_tensors
from lethe.core.seeds import derive, numpy_generator
from lethe.core.split import Split, concat
from lethe.core.task import Task
from lethe.maths.membership import two_sided
from lethe.pools.backends import AUTO
from lethe.pools.member import sound
from lethe.pools.pool import Wanted
from lethe.pools.subject import Procedure, Subject
from lethe.pools.workers import in_processes, why_no_processes, workers_for
from lethe.train.checkpoint import load_tensors, save_tensors
from lethe.train.stop import Stop

BLOCK = 8   # shadows that an audit adds at a time


@dataclass(eq=False)
class Shadows:
    """The shadow models of one task. `limit` is the most that an audit may use; it needs recipe, retain and holdout."""

    task: Task
    limit: int = 16
    seed: int = 0
    strategy: str = AUTO
    device: str = "cpu"
    cache: Path | None = None
    listener: Listener = silent
    stop: Stop = field(default_factory=Stop)
    _kept: dict[Any, list[Subject]] = field(default_factory=dict, repr=False)

    @cached_property
    def candidates(self) -> Split:
        """F, then as many holdout examples like it, at most."""
        like = np.flatnonzero(beside(self.task.forget, self.task.holdout).mask)
        order = numpy_generator(self.seed, "candidates").permutation(like)[: len(self.task.forget)]
        order = order[: len(order) - (len(self.task.forget) + len(order)) % 2]   # an even number: halves are equal
        return concat([self.task.forget, self.task.holdout.subset(np.sort(order), "candidates")], "candidates")

    @cached_property
    def members(self) -> np.ndarray:
        """Which candidates the audited model was trained on.  [c] bool"""
        return np.arange(len(self.candidates)) < len(self.task.forget)

    @cached_property
    def population(self) -> Split:
        """Holdout examples that are no candidates: no model has seen them."""
        return self.task.holdout.subset(~np.isin(self.task.holdout.ids, self.candidates.ids), "population")

    def inside(self, count: int) -> np.ndarray:
        """Which candidates each shadow was trained on: shadow 2j a random half of them, shadow 2j + 1 the others, so that
        every candidate is in half of the models and every model has half of the candidates.  [count, c] bool"""
        rows = []
        for pair in range(-(-count // 2)):
            order = numpy_generator(self.seed, "membership", pair).permutation(len(self.candidates))
            half = np.isin(np.arange(len(order)), order[: len(order) // 2])
            rows += [half, ~half]
        return np.stack(rows)[:count]

    def sides(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(inside, members, others): the latter are the candidates of each kind that have shadows on both sides.  [c] bool"""
        inside = self.inside(count)
        known = two_sided(inside)
        return inside, self.members & known, ~self.members & known

    def trained(self, count: int) -> list[Subject]:
        """`count` models trained on R ∪ A_k."""
        return self._grown("trained", count, lambda: self.made(self.halves(count)))

    def unlearned(self, procedure: Procedure, count: int) -> list[Subject]:
        """`count` shadows after the procedure has forgotten A_k; one that retrains yields models trained on R."""

        def halved(k: int) -> Task:
            half = self.candidates.subset(self.inside(count)[k], "forget")
            return self.task.replaced(self.trained(count)[k].model, forget=half, holdout=self.population)

        return self._grown(f"unlearned {procedure.key}", count, lambda: self._processed(procedure, halved, count, "unlearned"))

    def repeated(self, procedure: Procedure, count: int) -> list[Subject]:
        """`count` models made as the audited one with other seeds: trained on R ∪ F anew, then F forgotten."""

        def again(k: int) -> Task:
            return self.task.replaced(originals[k].model)

        originals = [] if procedure.retrains else self._grown("originals", count, lambda: self.made(
            self.wholes(count)))
        return self._grown(f"repeated {procedure.key}", count, lambda: self._processed(procedure, again, count, "repeated"))

    def retrained(self, count: int) -> list[Subject]:
        """`count` models trained on R, none of them a reference: what exact unlearning makes."""
        return self._grown("retrained", count, lambda: self.made(self.without(count)))

    def made(self, wanted: Wanted) -> list[Subject]:
        """The models of a pool that an audit has put together itself (`on`)."""
        pool = wanted.train(self.strategy, self._folder, self.listener, self.stop)
        return [Subject(f"{wanted.purpose} {k}", model, self.task, pool.seconds[k], self.device)
                for k, model in enumerate(pool.models)]

    def processed(self, procedure: Procedure, tasks: Sequence[Task], seeds: Sequence[int]) -> list[nn.Module]:
        """What the procedure makes of each task with each seed; one worker per core, from the cache where it is there."""
        if not procedure.weights or not self.task.keeps() or why_no_processes(self.device):
            with Units(self.listener, "unlearned shadows", len(tasks)) as units:
                return [self._one(procedure, task, seed, units) for task, seed in zip(tasks, seeds, strict=True)]
        files = [self._folder / "shadows" / f"{self._key(procedure, task, seed)}.safetensors"
                 for task, seed in zip(tasks, seeds, strict=True)]

        def job(i: int) -> None:
            save_tensors(files[i], named_tensors(procedure.run(tasks[i], seeds[i])), {"seed": seeds[i]})

        kept = [sound(file) for file in files]
        missing = [i for i, one in enumerate(kept) if one is None]
        if missing:
            with Units(self.listener, "unlearned shadows", len(missing)) as units:
                in_processes([partial(job, i) for i in missing], workers_for(len(missing)), units.done, self.stop)
        return [filled(copied(task.original, trainable=False), (one or load_tensors(file))[0])
                for task, file, one in zip(tasks, files, kept, strict=True)]

    # -- the pools, before they are trained (`lethe pool` deals them out) ------------------------------------------------

    def halves(self, count: int) -> Wanted:
        """What `trained` takes: shadow k on R ∪ A_k."""
        inside = self.inside(count)

        def split_of(k: int) -> Split:
            return concat([self.task.retain, self.candidates.subset(inside[k], "half")], "train")

        return self._wanted("shadows", count, split_of)

    def wholes(self, count: int) -> Wanted:
        """What `repeated` starts from: originals on R ∪ F anew."""
        whole = concat([self.task.retain, self.task.forget], "train")
        return self._wanted("originals", count, lambda k: whole)

    def without(self, count: int, purpose: str = "retrained") -> Wanted:
        """Models on R alone: `retrained`, and what a procedure that retrains makes of shadows ("unlearned retrained") and of
        originals ("repeated retrained")."""
        return self._wanted(purpose, count, None)

    def on(self, purpose: str, splits: Sequence[Split]) -> Wanted:
        """One model on each split, each with its own seed."""
        return self._wanted(purpose, len(splits), splits.__getitem__)

    def _wanted(self, purpose: str, count: int, split_of: Callable[[int], Split] | None) -> Wanted:
        return Wanted(purpose, self.task, count, derive(self.seed, purpose), split_of, self.device)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _grown(self, key: str, count: int, make: Callable[[], list[Subject]]) -> list[Subject]:
        have = self._kept.setdefault(key, [])
        if len(have) < count:
            have += make()[len(have) :]   # existing models keep their cached outputs
        return have[:count]

    def _processed(self, procedure: Procedure, task_of: Callable[[int], Task], count: int, purpose: str) -> list[Subject]:
        if procedure.retrains:
            return self.made(self.without(count, f"{purpose} retrained"))
        seeds = [derive(self.seed, purpose, k) for k in range(count)]
        models = self.processed(procedure, [task_of(k) for k in range(count)], seeds)
        return [Subject(f"{purpose} {k}", model, self.task, device=self.device) for k, model in enumerate(models)]

    def _one(self, procedure: Procedure, task: Task, seed: int, units: Units) -> nn.Module:
        self.stop.check()
        made = procedure.run(task, seed)
        units.done()
        return made

    def _key(self, procedure: Procedure, task: Task, seed: int) -> str:
        return digest([procedure.key, task.fingerprint, code_of(task.model), seed, NUMBERS, str(torch.__version__)])

    @property
    def _folder(self) -> Path:
        return self.cache or self._scratch

    @cached_property
    def _scratch(self) -> Path:
        """A folder that lives as long as the pool."""
        place = Path(mkdtemp(prefix="lethe-shadows-"))
        weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)
        return place

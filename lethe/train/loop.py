"""Loop: the one place that knows devices, precision, accumulation, progress, budgets, checkpoints, seeds, distribution.

A method says *what is minimised over what*: terms, each a per-example loss over a split. The loop draws batches, joins
gradients as the modifiers say, steps, logs, checkpoints, and watches. Every random draw is a function of (seed, call,
step), so a run that was killed goes on to the same bits (same thread count).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.adaptable import fold
from lethe.core.config import Optimiser, Schedule, digest, plain
from lethe.core.events import Ended
from lethe.core.evidence import Kind
from lethe.core.guard import Guard
from lethe.core.modules import codes, differentiable, evaluating, has_batch_norm, named_tensors
from lethe.core.operations import frozen, starting_point, taken_apart
from lethe.core.outcome import Fall, Outcome
from lethe.core.parked import released
from lethe.core.passes import drawn
from lethe.core.seeds import generator
from lethe.core.split import Batch, Split
from lethe.core.visiting import fetched
from lethe.errors import Diverged, RequestError
from lethe.train import optimise, table
from lethe.train.distribute import full
from lethe.train.memory import peak_memory_mb
from lethe.train.modifiers import Choice, resolve
from lethe.train.modifiers.average import Average
from lethe.train.modifiers.average.last import Last
from lethe.train.modifiers.combine import Member, takes_steps
from lethe.train.modifiers.weigh import Weigh
from lethe.train.modifiers.where import Adds, Selection, Where
from lethe.train.modifiers.where.all import All
from lethe.train.modifiers.where.lora import save_adapter
from lethe.train.noise import Noisy
from lethe.train.order import batches_per_epoch
from lethe.train.run import BatchNorm, Run
from lethe.train.session import Session
from lethe.train.settings import Settings
from lethe.train.terms import Loss, Modifiers, Term, require_movable, step_count
from lethe.train.watchdog import Watch, Watchdog, in_words

__all__ = ["Loop", "Modifiers", "Settings", "Term"]


class Loop(Session):
    """The engine of one run on one task. Methods receive it with their view of the task."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.kind: Kind = "weights"
        self._calls = 0
        self._selection: Selection | None = None
        self._watch: Watch | None = None
        self._fresh = False
        self._damage = 0
        self._norms_were: set[BatchNorm] = set()

    # -- what methods use ------------------------------------------------------------------------------------------

    def generator(self, *purpose: object) -> torch.Generator:
        """A generator for one purpose of this run."""
        return generator(self.seed, *purpose)

    def start(self, fresh: nn.Module | None = None, where: Where | Choice | None = None) -> nn.Module:
        """A trainable copy of the original on the device, with what `where` adds to it; or `fresh`, all of which moves.

        where  what the method itself moves (a name or a member), when the `where` modifier is left at "all"
        """
        model = (starting_point(self.task) if fresh is None else fresh).to(self.settings.device)
        asked = self.modifiers.where if fresh is None else All()
        if where is not None and asked == All():
            asked = resolve("where", where)
        elif where is not None and isinstance(asked, Adds):
            asked = asked.within(resolve("where", where).select(model, self.task, self).params)
        self._fresh = fresh is not None
        self._selection = asked.select(model, self.task, self)
        if fixed := codes(self._selection.params):
            raise RequestError(f"{fixed[0]} and {len(fixed) - 1} others are quantised: codes of a few bits, which no step moves; "
                               "nothing was started. Set modifiers.where=lora: an adapter moves, and the base stays.")
        self.kind = self._selection.kind
        if self._selection.rest:
            self._once(self._selection.rest)
        taken_apart(self.task, self._selection.params.values() if self.settings.distribution == "none"
                    else model.parameters())
        for name, p in model.named_parameters():
            p.requires_grad_(name in self._selection.params)
        model = self.distribution.place(model)
        if self.watchdog and not self._fresh:   # also where calls are only loaded: the data that it reads count
            self._watching(self.watchdog).begin({**self.selected(model), **dict(model.named_buffers())})
        return model

    def selected(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that move, by name."""
        assert self._selection is not None, "call loop.start() first"
        names = self._selection.params
        return {name: p for name, p in model.named_parameters() if name in names}

    def include(self, model: nn.Module, *names: str) -> None:
        """Parameters that the method adds to the model for the time of the run move, too, whatever `where` says."""
        assert self._selection is not None, "call loop.start() first"
        added = {name: model.get_parameter(name) for name in names}
        taken_apart(self.task, added.values())
        self._selection.params |= added

    def assign(self, model: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
        """Set parameters to new values by name, where `where` lets them move. The watchdog judges what the run ends with."""
        moving = self.selected(model)
        masks = self._joined(None, moving)
        with torch.no_grad():
            for name, p in moving.items() if not self.broken else ():
                if name in values:
                    value = self.distribution.like(values[name].to(p.device, p.dtype), p)
                    p.copy_(torch.where(masks[name], value, p) if name in masks else value)
        return model

    @contextlib.contextmanager
    def damage(self) -> Iterator[None]:
        """What is done inside damages the model on purpose, and the method repairs it or takes it back: no point inside is a
        sound one, and the watchdog looks again after it."""
        self._damage += 1
        try:
            yield
        finally:
            self._damage -= 1

    def drawn(self, split: Split, batch_size: int, *purpose: object, train: bool = False) -> Iterator[Batch]:
        """Every example of a split once, in order, with its random draws (noise) for this purpose, on the device."""
        return drawn(self.task, split, batch_size, purpose, seed=self.seed, device=self.settings.device, train=train)

    def mean_nll(self, model: nn.Module, split: Split, *purpose: object) -> float:
        """Mean training loss over a split, in eval mode, with the same draws at every call for this purpose."""
        total = torch.zeros((), dtype=torch.float64)
        with evaluating(model):
            for batch in self.drawn(split, 256, *purpose):
                total += self.task.nll(model, batch).double().sum().cpu()
        return float(total) / len(split)

    def reference(self, key: str, ask: Loss, split: Split, batch_size: int = 256, draws: float = math.inf
                  ) -> Callable[[Batch], Tensor]:
        """The frozen original's answers for the examples of `split`: `ask(original, batch)`, computed once for all.

        Examples with random draws (noise, augmentation) cannot be looked up, and tables above `cache_mb` are not kept:
        then the original is called at every step. Values per answer token may be wider than the batch's longest answer:
        zeros follow, which `task.divergence` leaves out.

        draws  examples that will be looked up in all: fewer than the split has are asked at their step, for that costs less
        """
        original = frozen(self.task)

        def once(batch: Batch) -> Tensor:
            with evaluating(fetched(original, self.settings.device)), self.autocast():
                return ask(original, batch)

        def now(batch: Batch) -> Tensor:
            self.original_stays = True
            return once(batch)

        def prepare(batch: Batch) -> Batch:
            return self.on_device(self.task.draw(batch, self.generator("reference"), False))

        if draws < len(split):
            self.original_stays = True
            return now
        name = f"{key}-{split.fingerprint}" if self.folder is not None else key
        kept = self.checkpoints.recall(name)
        rows = kept["table"] if kept else table.fill(once, prepare, split, batch_size, self.settings.cache_mb)
        if not isinstance(rows, Tensor):
            if rows:
                self.note(rows)
            self.original_stays = True
            return now
        if kept is None and self.distribution.first:
            self.checkpoints.remember(name, {"table": rows})
        rows, less = rows.to(self.settings.device), table.shorter(once, prepare, split)
        released(original)   # the table answers from now on
        return lambda batch: now(batch) if batch.drawn else table.look_up(rows, batch, split, less)

    def minimise(
        self, model: nn.Module, terms: Mapping[str, Term], *,
        epochs: float | None = None, steps: int | None = None, over: str | None = None, batch_size: int = 64,
        optimiser: Optimiser | Noisy = "adamw", lr: float, weight_decay: float = 0.0, momentum: float = 0.9,
        beta1: float = 0.9, beta2: float = 0.999, clip: float | None = None, clip_value: float | None = None,
        schedule: Schedule = "constant", warmup: int = 0, asked_every: int | None = None,
        rates: Mapping[str, float] = MappingProxyType({}), masks: Mapping[str, Tensor] | None = None,
        penalty: Callable[[nn.Module, float], Tensor] | None = None,
        combine: Member | Choice = "sum", weigh: Weigh | Choice = "uniform", average: Average | Choice = "last",
        batch_norm: BatchNorm | None = None, augment: bool = False, until: Callable[[nn.Module], bool] | None = None,
    ) -> nn.Module:
        """Minimise Σ weight·mean(loss) over the selected parameters of `model`, in place; returns it.

        epochs      passes over the split of term `over` (default: the first term); or provide `steps`
        clip        largest norm of the gradient; clip_value: largest magnitude of its entries
        rates       shares of lr by parameter name, 1 for others: for two players, each at its own pace
        masks       boolean [shape of θ] by name: entries outside stay bit-identical, momentum or not; joined with `where`'s
        penalty     (model, share done) -> scalar, added to the group of the first term
        average     which point is returned, when the `average` modifier is left at "last"
        batch_norm  frozen: statistics are kept; update: training mode for layers that move, unless a term has one example
        augment     whether batches are drawn as in training
        until       asked every `asked_every` steps (None: after a pass over `over`), in eval mode: whether the call ends there
        """
        size = {name: min(term.batch_size or batch_size, len(term.split)) for name, term in terms.items()}
        total = step_count(terms, size, over, epochs, steps)
        call, self._calls = self._calls, self._calls + 1
        moving = self.selected(model)
        require_movable(terms, moving)
        combined = self.modifiers.combine or resolve("combine", combine)
        if takes_steps(combined, list(terms)):
            optimiser, momentum, clip, clip_value = self._plain_steps(combined)
        weighed = self.modifiers.weigh or resolve("weigh", weigh)
        averaged = resolve("average", average) if self.modifiers.average == Last() else self.modifiers.average
        alone = self._alone(terms)
        norms = batch_norm or self._norms(model, alone)
        plan = self._plan(terms, size, [
            total, lr, optimiser.named if isinstance(optimiser, Noisy) else optimiser, weight_decay, momentum, beta1, beta2,
            schedule, warmup, sorted(rates.items()), clip, clip_value, norms, augment, sorted(moving),
            *map(_named, (combined, weighed, averaged))])
        watch = None if self._fresh else self._watch   # a fresh model has nothing to fall from
        if self._loaded(model, call, plan, watch) or self.broken:
            return model
        exact = optimise.masters(moving)
        self._carry_out(Run(
            self, model, terms, moving, self._joined(masks, moving), total, size, call,
            optimise.optimiser(optimiser, exact, lr, weight_decay, momentum, beta1, rates, beta2),
            lambda step: lr * optimise.factor(schedule, step, total, warmup),
            clip, clip_value, penalty, augment, norms, combined, weighed, averaged, watch, plan, alone, self._damage > 0, until,
            asked_every or _one_pass(terms, size, over or next(iter(terms))), exact, self._held(moving)))
        return model

    def finish(self, model: nn.Module, guard: Callable[[nn.Module], Guard] | None = None) -> Outcome:
        """The outcome: the model in eval mode, and what the run cost.

        guard  a wrapper of the finished model that answers instead of it; the outcome is then of kind "guard"
        """
        fall = self._judged(model if guard is None else guard(model).eval())
        for name, p in model.named_parameters():
            value = full(p)
            if not (value.sum().isfinite() or torch.isfinite(value).all()):   # the sum needs no memory
                raise Diverged(f"{name!r} holds NaN or infinity, so the model would be useless and was not saved. Lower "
                               "method.lr, set a clip, or leave the watchdog on, which ends at the last sound point.")
        if told := self._moved(model):
            self.notes.append(told)
        if self._norms_were:
            were = ("updated in calls that draw retained data, kept in others" if len(self._norms_were) == 2 else
                    "updated" if "update" in self._norms_were else "kept")
            self.notes.append(f"batch norm: running statistics were {were}")
        differentiable(model)
        self.resume_from(self.standing())
        self.cost.peak_memory_mb = peak_memory_mb()
        model = self.distribution.gathered(model).eval()
        if self._fresh and self.kind == "adapter":   # what a recipe trains comes out in the original's form
            model, self.kind = fold(model), "weights"
        export = save_adapter if self.kind == "adapter" else None
        if export and (told := self.task.told_of_adapters):
            self.notes.append(told)
        served = None if guard is None or fall else guard(model).eval()   # after a fall the original answers, without it
        return Outcome(model, kind="guard" if served else self.kind, cost=self.cost, notes=self.notes, task=self.task,
                       export=export, served=served, fall=fall)

    def _moved(self, model: nn.Module) -> str:
        """Of weights in half precision, the share of those that may move that did; empty where there are none."""
        task = self.watched or self.task
        moving = {} if self._fresh or self._selection is None or not task.has("original") else {
            name: full(p) for name, p in self.selected(model).items() if p.dtype in optimise.HALF}
        before = named_tensors(task.original) if moving else {}
        pairs = [(value, before[name].to(value.device)) for name, value in moving.items() if name in before]
        if not pairs:
            return ""
        count = sum(int((now != then).sum()) for now, then in pairs)
        whole = sum(now.numel() for now, _ in pairs)
        return f"{count / whole:.2%} of the weights in half precision that could move differ from the original's"

    # -- inside ----------------------------------------------------------------------------------------------------

    def _plain_steps(self, member: Member) -> tuple[Optimiser, float, None, None]:
        """What steps as `member` says, and no other way: an optimiser, its momentum, and no clips."""
        self._once(f"combine: {type(member).__name__} takes the steps, so optimiser, momentum and clip do not count")
        return "sgd", 0.0, None, None

    def _once(self, words: str) -> None:
        """Note what several calls would say alike."""
        if words not in self.notes:
            self.note(words)

    def _watching(self, watchdog: Watchdog) -> Watch:
        if self._watch is None:
            self._watch = Watch(watchdog, self.watched or self.task, self.settings.device, self.seed, self.autocast,
                                self.references)
        return self._watch

    @property
    def asked(self) -> int:
        """Examples that the watchdog has put to models."""
        return 0 if self._watch is None else self._watch.gauge.asked

    def _judged(self, model: nn.Module) -> Fall | None:
        """What the watchdog says of the finished model, which is then at the last sound point; noted for the reader."""
        if self.watchdog is None:
            return None
        watch = self._watching(self.watchdog)
        fall = watch.judge(model, self.cost.steps, self.broken, self.cost.examples)
        for said in (watch.conspicuous(model) if fall is None else in_words(fall), watch.allowed, watch.doubt):
            if said:
                self.note(said)
        return fall

    def _alone(self, terms: Mapping[str, Term]) -> bool:
        """Whether a call draws no retained data; the watchdog remembers whether all calls did not."""
        alone = not any(self._retained(term.split) for term in terms.values())
        if self._watch:
            self._watch.alone &= alone
        return alone

    def _retained(self, split: Split) -> bool:
        """Whether it holds retained records, by their ids."""
        known = (self.watched or self.task).ids("retain")
        return bool(len(known)) and bool(np.isin(split.ids, known).any())

    def _norms(self, model: nn.Module, alone: bool) -> BatchNorm:
        """What batch-norm layers do in a call; alone: it draws no retained data."""
        asked = self.settings.batch_norm
        mode: BatchNorm = asked if asked != "auto" else "frozen" if alone else "update"
        if has_batch_norm(model):
            self._norms_were.add(mode)
        return mode

    def _loaded(self, model: nn.Module, call: int, plan: str, watch: Watch | None) -> bool:
        """Whether the call was finished before: the model, and the run, are then as it left them."""
        done = self.checkpoints.finished(call, plan)
        if done is None:
            return False
        tensors, meta = done
        self.resume_from(meta)
        if watch:
            watch.put(tensors, meta)
        self.restored(model, tensors)
        return True

    def _carry_out(self, run: Run) -> None:
        """All steps of a call, and the checkpoint of its end."""
        cuda = range(torch.cuda.device_count()) if torch.device(self.settings.device).type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=cuda):   # the caller's random state is left as it was
                run.go()
        finally:
            self.tell(Ended(self.title, run.call))
        tensors = self.tensors(run.model)
        if self.distribution.first:
            sound, steps = run.watch.kept() if run.watch else ({}, {})
            self.checkpoints.finish(run.call, tensors | sound, {"call": run.call, "plan": run.plan, **steps, **self.standing()})
        run.forget_state()
        self.distribution.barrier()

    def _plan(self, terms: Mapping[str, Term], size: Mapping[str, int], options: list[Any]) -> str:
        """A digest of what determines the result of a call, so that a checkpoint of another run is not taken for it."""
        if self.folder is None:
            return ""
        settings = self.settings
        parts = [[name, size[name], term.every, term.split.fingerprint, "" if callable(term.weight) else term.weight,
                  term.coupled, sorted(term.moves or [])] for name, term in terms.items()]
        shared = [settings.seed, settings.precision, settings.accumulate, settings.max_steps, settings.max_examples,
                  settings.max_minutes]
        modifiers = [_named(getattr(self.modifiers, seam)) for seam in ("where", "perturb")]
        known = [len(self.references)] if self.references else []
        return digest([parts, options, shared, modifiers, _named(self.watchdog), *known])

    def _held(self, moving: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        assert self._selection is not None
        if self._selection.spared and self.settings.distribution != "none":
            raise RequestError("the modifier where spares what matrices answer to retained data, which is not possible with "
                               "several processes; nothing was started. Set settings.distribution=none.")
        return {name: basis for name, basis in self._selection.spared.items() if name in moving}

    def _joined(self, masks: Mapping[str, Tensor] | None, moving: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        assert self._selection is not None
        own = self._selection.masks
        joined = {name: mask for name, mask in own.items() if name in moving}
        for name, mask in (masks or {}).items():
            if name in moving:
                joined[name] = mask & joined[name] if name in joined else mask
        return {name: self.distribution.like(mask, moving[name]) for name, mask in joined.items()}


def _one_pass(terms: Mapping[str, Term], size: Mapping[str, int], over: str) -> int:
    """Steps of a pass over the split of a term."""
    return batches_per_epoch(terms[over].split, size[over])


def _named(modifier: Any) -> list[Any]:
    return [type(modifier).__name__, plain(modifier)]

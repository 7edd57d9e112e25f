"""Loop: the one place that knows devices, precision, accumulation, progress, budgets, checkpoints, seeds, distribution.

A method says *what is minimised over what*: terms, each a per-example loss over a split. The loop draws batches, joins
gradients as the modifiers say, steps, logs, checkpoints, and guards. Every random draw is a function of (seed, call,
step), so a run that was killed goes on to the same bits (same thread count).
"""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config, digest
from lethe.core.data import Batch, Split
from lethe.core.modules import evaluating, freeze_batch_norm, named_tensors
from lethe.core.outcome import Cost, Outcome
from lethe.core.seeds import derive, generator
from lethe.core.task import Recipe, Task
from lethe.engine import optimise
from lethe.engine.checkpoint import Checkpoints
from lethe.engine.distribute import Distribution, full
from lethe.engine.guard import Guard, Watch
from lethe.engine.journal import Journal
from lethe.engine.modifiers import resolve
from lethe.engine.modifiers.where import All, Selection
from lethe.engine.order import Order, batches_per_epoch
from lethe.errors import Diverged, RequestError

Loss = Callable[[nn.Module, Batch], Tensor]


@config
class Settings:
    """How a run is carried out; the same for every method."""

    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"         # float32 | bfloat16 (autocast; 12–35 times slower on CPUs without bf16 units)
    accumulate: Count = 1              # pieces that a batch is cut into; same gradient, less memory
    distribution: str = "none"         # none | ddp | fsdp, under torchrun
    max_steps: Count | None = None     # budget over the whole run
    max_minutes: Positive | None = None
    checkpoint_seconds: NonNegative = 30.0   # at most this much work is lost to a kill
    cache_mb: NonNegative = 1024.0     # largest table of what the original says; above it, it is asked at every step
    tensorboard: bool = False


@dataclass(frozen=True)
class Term:
    """One part of the objective: the mean over a batch of `split` of `loss` [n], times `weight`.

    weight   a number, or a function of the share of the run that is done (0 to 1)
    every    the term takes part in every so many steps
    prepare  (batch, rng) -> batch, before anything else sees the batch; `task.relabel` draws new targets at every step
    """

    split: Split
    loss: Loss
    weight: float | Callable[[float], float] = 1.0
    every: int = 1
    batch_size: int | None = None
    prepare: Callable[[Batch, torch.Generator], Batch] | None = None


@dataclass
class Modifiers:
    """The four questions that any method can be combined with, and the weights of examples."""

    where: Any = "all"
    combine: Any = None        # None: as the method says
    perturb: Any = "none"
    average: Any = "last"
    weigh: Any = None          # None: as the method says

    def __post_init__(self) -> None:
        for seam in ("where", "combine", "perturb", "average", "weigh"):
            value = getattr(self, seam)
            setattr(self, seam, None if value is None else resolve(seam, value))


@dataclass
class Loop:
    """The engine of one run on one task. Methods get it beside their view of the task."""

    task: Task
    settings: Settings = field(default_factory=Settings)
    modifiers: Modifiers = field(default_factory=Modifiers)
    guard: Guard | None = None
    folder: Path | None = None
    progress: bool = False
    title: str = ""

    def __post_init__(self) -> None:
        if self.settings.precision not in ("float32", "bfloat16"):
            raise RequestError(f"precision = {self.settings.precision!r} is neither float32 nor bfloat16; nothing was started.")
        self.distribution = Distribution(self.settings.distribution)
        lead = self.distribution.first
        self.checkpoints = Checkpoints(self.folder)
        self.journal = Journal(self.folder if lead else None, self.progress and lead, self.settings.tensorboard, self.title)
        self.cost, self.notes, self.kind = Cost(), [], "weights"
        self._calls = 0
        self._began, self._cpu_began = time.perf_counter(), time.process_time()
        self._selection: Selection | None = None

    # -- what methods use ------------------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        return self.settings.seed

    def generator(self, *purpose: object) -> torch.Generator:
        """A generator for one purpose of this run."""
        return generator(self.seed, *purpose)

    def start(self, fresh: nn.Module | None = None) -> nn.Module:
        """A trainable copy of the original on the device, with what `where` adds to it; or `fresh`, all of which moves."""
        model = (self.task.copy_of_original() if fresh is None else fresh).to(self.settings.device)
        where = self.modifiers.where if fresh is None else All()
        self._selection = where.select(model, self.task, self)
        self.kind = self._selection.kind
        for name, p in model.named_parameters():
            p.requires_grad_(name in self._selection.params)
        return self.distribution.place(model)

    def selected(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that move, by name."""
        assert self._selection is not None, "call loop.start() first"
        names = self._selection.params
        return {name: p for name, p in model.named_parameters() if name in names}

    def assign(self, model: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
        """Give parameters new values by name, where the `where` modifier lets them move; the rest stays bit-identical."""
        moving = self.selected(model)
        masks = self._joined(None, moving)
        with torch.no_grad():
            for name, p in moving.items():
                if name in values:
                    value = self.distribution.like(values[name].to(p.device, p.dtype), p)
                    p.copy_(torch.where(masks[name], value, p) if name in masks else value)
        return model

    def drawn(self, split: Split, batch_size: int, *purpose: object, train: bool = False) -> Iterator[Batch]:
        """Every example of a split once, in order, with its random draws (noise) for this purpose, on the device."""
        for number, batch in enumerate(split.batches(batch_size)):
            yield self.task.draw(batch, self.generator(*purpose, number), train).to(self.settings.device)

    def reference(self, key: str, ask: Loss, split: Split, batch_size: int = 256) -> Callable[[Batch], Tensor]:
        """What the frozen original says about the examples of `split`: `ask(original, batch)`, computed once for all.

        Examples with random draws (noise, augmentation) cannot be looked up, and tables above `cache_mb` are not kept:
        then the original is asked at every step.
        """
        original = self.task.original.to(self.settings.device)

        def now(batch: Batch) -> Tensor:
            with evaluating(original), self._autocast():
                return ask(original, batch)

        kept = self.checkpoints.recall(key)
        table = kept["table"] if kept else self._table(now, split, batch_size)
        if table is not None and kept is None and self.distribution.first:
            self.checkpoints.remember(key, {"table": table})
        if table is None:
            return now
        table = table.to(self.settings.device)
        return lambda batch: now(batch) if batch.drawn else table[batch.index.to(table.device)]

    def minimise(
        self,
        model: nn.Module,
        terms: Mapping[str, Term],
        *,
        lr: float,
        epochs: float | None = None,
        steps: int | None = None,
        over: str | None = None,
        batch_size: int = 64,
        optimiser: str = "adamw",
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        schedule: str = "constant",
        warmup: int = 0,
        clip: float | None = None,
        masks: Mapping[str, Tensor] | None = None,
        penalty: Callable[[nn.Module, float], Tensor] | None = None,
        combine: Any = "sum",
        weigh: Any = "uniform",
        batch_norm: str = "frozen",
        augment: bool = False,
    ) -> nn.Module:
        """Minimise Σ weight·mean(loss) over the selected parameters of `model`, in place; returns it.

        epochs      passes over the split of term `over` (default: the first term); or give `steps`
        masks       boolean [shape of θ] by parameter name: entries outside stay bit-identical, whatever momentum and
                    weight decay want; joined with the masks of the `where` modifier
        penalty     (model, share done) -> scalar, added to the group of the first term
        batch_norm  frozen: running statistics are used and kept; update: training mode
        augment     whether batches are drawn as in training
        """
        call, self._calls = self._calls, self._calls + 1
        done = self.checkpoints.finished(call)
        if done is not None:
            return self.restored(model, done)
        over = over or next(iter(terms))
        size = {name: min(term.batch_size or batch_size, len(term.split)) for name, term in terms.items()}
        total = steps if steps is not None else math.ceil((epochs or 0) * batches_per_epoch(terms[over].split, size[over]))
        moving = self.selected(model)
        run = _Run(self, model, terms, moving, self._joined(masks, moving), total, size, call)
        run.optimiser = optimise.optimiser(optimiser, moving, lr, weight_decay, momentum)
        run.rate = lambda step: lr * optimise.factor(schedule, step, total, warmup)
        run.clip, run.penalty, run.augment, run.batch_norm = clip, penalty, augment, batch_norm
        run.combine = self.modifiers.combine or resolve("combine", combine)
        run.weigh = self.modifiers.weigh or resolve("weigh", weigh)
        run.plan = digest([total, lr, size, optimiser, weight_decay, momentum, schedule, sorted(moving), self.seed])
        try:
            run.go()
        finally:
            self.journal.end()
        self.checkpoints.finish(call, self.tensors(model), {"call": call}) if self.distribution.first else self.tensors(model)
        return model

    def finish(self, model: nn.Module) -> Outcome:
        """The outcome: the model in eval mode, and what the run cost."""
        for name, p in model.named_parameters():
            if not torch.isfinite(full(p)).all():
                raise Diverged(f"{name!r} holds NaN or infinity, so the model would be useless and was not saved. Lower method.lr, "
                               "set a clip, or give guard.floor so that the run stops at its last sound point.")
        model.requires_grad_(True)
        self.cost.seconds += time.perf_counter() - self._began
        self.cost.cpu_seconds += time.process_time() - self._cpu_began
        self._began, self._cpu_began = time.perf_counter(), time.process_time()
        self.cost.peak_memory_mb = peak_memory_mb()
        return Outcome(model.eval(), kind=self.kind, cost=self.cost, notes=self.notes, task=self.task)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.settings.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.settings.device).type, torch.bfloat16)

    def _joined(self, masks: Mapping[str, Tensor] | None, moving: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        assert self._selection is not None
        own = self._selection.masks
        joined = {name: mask for name, mask in own.items() if name in moving}
        for name, mask in (masks or {}).items():
            if name in moving:
                joined[name] = mask & joined[name] if name in joined else mask
        return {name: self.distribution.like(mask, moving[name]) for name, mask in joined.items()}

    def _table(self, now: Callable[[Batch], Tensor], split: Split, batch_size: int) -> Tensor | None:
        rows: Tensor | None = None
        for batch in split.batches(batch_size):
            drawn = self.task.draw(batch, self.generator("reference"), False)
            if drawn.drawn:
                return None
            said = now(drawn.to(self.settings.device)).cpu()
            if rows is None:
                if said.numel() / len(batch) * len(split) * said.element_size() > self.settings.cache_mb * 1e6:
                    self.notes.append(f"what the original says about {split.name} is larger than cache_mb="
                                      f"{self.settings.cache_mb:g}; it is asked at every step")
                    return None
                rows = said.new_zeros((len(split), *said.shape[1:]))
            if said.dim() > 1 and said.shape[1] > rows.shape[1]:   # sequences come sorted by length
                rows = torch.cat([rows, rows.new_zeros((len(rows), said.shape[1] - rows.shape[1], *rows.shape[2:]))], 1)
            if said.dim() > 1:
                rows[batch.index, : said.shape[1]] = said
            else:
                rows[batch.index] = said
        return rows

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Parameters and buffers by name, whole even when sharded."""
        return {name: full(value).detach() for name, value in named_tensors(model).items()}

    def restored(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
        """`model` with these tensors put in, in place."""
        with torch.no_grad():
            for name, value in named_tensors(model).items():
                value.copy_(self.distribution.like(tensors[name].to(value.device), value))
        return model


@dataclass
class _Run:
    """One call of `minimise` in progress."""

    loop: Loop
    model: nn.Module
    terms: Mapping[str, Term]
    params: dict[str, nn.Parameter]
    masks: dict[str, Tensor]
    total: int
    size: dict[str, int]
    call: int
    optimiser: torch.optim.Optimizer = field(init=False)
    rate: Callable[[int], float] = field(init=False)
    clip: float | None = None
    penalty: Callable[[nn.Module, float], Tensor] | None = None
    augment: bool = False
    batch_norm: str = "frozen"
    combine: Any = None
    weigh: Any = None
    plan: str = ""

    def go(self) -> None:
        loop, journal = self.loop, self.loop.journal
        self.frozen = {name: self.params[name].detach().clone() for name in self.masks}
        average = loop.modifiers.average
        self.slow = {name: p.detach().clone() for name, p in self.params.items()} if average.keeps else {}
        self.orders = {
            name: Order(term.split, self.size[name], loop.seed, self.call, name) for name, term in self.terms.items()
        }
        self.watch = Watch(loop.guard, loop.task, loop.settings.device, loop.seed) if loop.guard else None
        step = self._resume()
        journal.begin(self.call, step, self.total)
        self._last_save, self._losses = time.monotonic(), {}
        while step < self.total and not self._over_budget():
            self._step(step)
            if average.keeps:
                average.update(self.slow, self.params, step)
            step += 1
            loop.cost.steps += 1
            journal.advance(step)
            self._log(step)
            if self.watch and self.watch.due(step, self.total) and self.watch.fell(self.model, self.params):
                loop.notes.append(self.watch.message(step))
                break
            if loop.checkpoints.folder and time.monotonic() - self._last_save >= loop.settings.checkpoint_seconds:
                self._save(step)
        if average.keeps:
            with torch.no_grad():
                for name, p in self.params.items():
                    p.copy_(self.slow[name])

    def _step(self, step: int) -> None:
        loop = self.loop
        torch.manual_seed(derive(loop.seed, "step", self.call, step))   # dropout
        self.model.train()
        if self.batch_norm == "frozen":
            freeze_batch_norm(self.model)
        share = step / max(self.total, 1)
        active = [name for name, term in self.terms.items() if step % term.every == 0]
        batches = {}
        for name in active:
            term, k = self.terms[name], step // self.terms[name].every
            index = self.orders[name].draw(k)
            batch = term.split.batch(loop.distribution.share(index))
            rng = generator(loop.seed, "draw", self.call, name, step, loop.distribution.rank)
            if term.prepare is not None:
                batch = term.prepare(batch, rng).replace(drawn=True)
            batches[name] = (loop.task.draw(batch, rng, self.augment).to(loop.settings.device), len(index))
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step)

        def gradients(names: Sequence[str]) -> list[Tensor]:
            return loop.modifiers.perturb.gradients(
                list(self.params.values()), lambda: self._backward({n: batches[n] for n in names}, share)
            )

        self.combine.step(active, gradients, self._apply)

    def _backward(self, batches: Mapping[str, tuple[Batch, int]], share: float) -> list[Tensor]:
        loop = self.loop
        for p in self.params.values():
            p.grad = None
        for name, (batch, whole) in batches.items():
            term = self.terms[name]
            weight = term.weight(share) if callable(term.weight) else term.weight
            for piece in batch.pieces(loop.settings.accumulate) if loop.settings.accumulate > 1 else [batch]:
                if not len(piece):
                    continue
                with loop._autocast():
                    losses = term.loss(self.model, piece)
                counted = losses * self.weigh.weights(losses, name)
                (weight * loop.distribution.loss_scale / whole * counted.sum()).backward()
                seen = self._losses.setdefault(name, [0.0, 0])
                seen[0], seen[1] = seen[0] + losses.detach().float().sum(), seen[1] + len(piece)
            loop.cost.examples += whole
        if self.penalty is not None and next(iter(self.terms)) in batches:
            scale = loop.distribution.loss_scale / loop.distribution.size
            (scale * self.penalty(self.model, share)).backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params.values()]
        loop.distribution.sum(grads)
        return grads

    def _apply(self, grads: list[Tensor]) -> None:
        for (name, p), g in zip(self.params.items(), grads, strict=True):
            p.grad = g * self.masks[name] if name in self.masks else g
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(list(self.params.values()), self.clip)
        self.optimiser.step()
        with torch.no_grad():   # momentum and weight decay move masked entries; they are put back bit for bit
            for name, mask in self.masks.items():
                self.params[name].copy_(torch.where(mask, self.params[name], self.frozen[name]))

    def _log(self, step: int) -> None:
        if step % max(1, min(50, self.total // 20)) and step != self.total:
            return
        means = {name: float(total) / max(count, 1) for name, (total, count) in self._losses.items()}
        self._losses = {}
        self.loop.journal.write(call=self.call, step=step, lr=self.rate(step - 1), **means)
        for name, value in means.items():
            if not math.isfinite(value) and self.watch is None:
                raise Diverged(f"the {name} loss became {value} before step {step}, so the model would be useless and was not "
                               "saved. Lower method.lr, set a clip, or give guard.floor to stop at the last sound point.")

    def _over_budget(self) -> bool:
        loop, settings = self.loop, self.loop.settings
        reason = ""
        if settings.max_steps is not None and loop.cost.steps >= settings.max_steps:
            reason = f"budget of {settings.max_steps} steps"
        elif settings.max_minutes is not None:
            spent = loop.cost.seconds + time.perf_counter() - loop._began
            if spent >= 60 * settings.max_minutes:
                reason = f"budget of {settings.max_minutes:g} minutes"
        if reason and not any(reason in note for note in loop.notes):
            loop.notes.append(f"stopped early by the {reason}")
        return bool(reason)

    def _save(self, step: int) -> None:
        loop = self.loop
        names = list(self.params)
        state = {f"model/{k}": v for k, v in loop.tensors(self.model).items()}
        state |= {f"opt/{k}": full(v) for k, v in optimise.state_tensors(self.optimiser, names).items()}
        state |= {f"slow/{k}": full(v) for k, v in self.slow.items()}
        if self.watch:
            state |= {f"best/{k}": full(v) for k, v in self.watch.best.items()}
        meta = {"call": self.call, "step": step, "plan": self.plan, "steps": loop.cost.steps, "examples": loop.cost.examples,
                "seconds": loop.cost.seconds + time.perf_counter() - loop._began, "notes": loop.notes}
        if loop.distribution.first:
            loop.checkpoints.save(state, meta)
        self._last_save = time.monotonic()

    def _resume(self) -> int:
        loop = self.loop
        found = loop.checkpoints.current(self.call, self.plan)
        if found is None:
            return 0
        tensors, meta = found
        part = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
        loop.restored(self.model, part("model/"))
        state = part("opt/")
        by_name = {f"{name}/": p for name, p in self.params.items()}
        laid = {k: v if k.endswith("/step") else loop.distribution.like(v.to(p.device), p)
                for k, v in state.items() for prefix, p in by_name.items() if k.rsplit("/", 1)[0] + "/" == prefix}
        optimise.load_state(self.optimiser, list(self.params), laid)
        for name, value in part("slow/").items():
            self.slow[name].copy_(loop.distribution.like(value, self.slow[name]))
        if self.watch:
            self.watch.best = part("best/")
        loop.cost.steps, loop.cost.examples, loop.cost.seconds = meta["steps"], meta["examples"], meta["seconds"]
        loop.notes[:] = meta["notes"]
        return int(meta["step"])


def recipe_terms(task: Task, split: Split) -> dict[str, Term]:
    """The objective of the recipe: the family's training loss on `split`."""
    return {"train": Term(split, task.nll)}


def recipe_options(recipe: Recipe) -> dict[str, Any]:
    """`Loop.minimise` options of a recipe."""
    return {
        "lr": recipe.lr, "epochs": recipe.epochs, "batch_size": recipe.batch_size, "optimiser": recipe.optimiser,
        "weight_decay": recipe.weight_decay, "momentum": recipe.momentum, "schedule": recipe.schedule,
        "batch_norm": "update", "augment": recipe.augment != "none",
    }


def peak_memory_mb() -> float:
    """Peak memory of this process (or of the GPU) in MB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6

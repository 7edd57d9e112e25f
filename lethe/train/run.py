"""One call of `Loop.minimise` at work: draw, differentiate, join, step, log, look after the model, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lethe.core.events import Advanced, Ended, Logged, Started
from lethe.core.modules import evaluating, freeze_batch_norm, has_batch_norm, named_tensors
from lethe.core.parked import is_large
from lethe.core.seeds import derive
from lethe.core.split import Batch
from lethe.errors import Diverged
from lethe.train import optimise
from lethe.train.distribute import full
from lethe.train.modifiers.average import Average
from lethe.train.modifiers.combine import Combine, Member, Remembers
from lethe.train.modifiers.weigh import Weigh
from lethe.train.order import Order
from lethe.train.pieces import Pieces
from lethe.train.session import Session
from lethe.train.stop import Interrupt
from lethe.train.terms import Term
from lethe.train.watchdog import Watch

CHECKPOINTS = 0.05  # of the time that checkpoints of a large model may take                                [ours]
RATE = 4e8          # bytes a second of the first one, digest included; a core and a disk of 2 GB/s reach 7e8   [ours]
BatchNorm = Literal["frozen", "update"]   # running statistics: kept and used, or those of the batches of what moves


@dataclass
class Run:
    """The state of one call. Random draws are functions of (seed, call, step), so this state is all of a checkpoint."""

    loop: Session
    model: nn.Module
    terms: Mapping[str, Term]
    params: dict[str, nn.Parameter]      # those that move
    masks: dict[str, Tensor]
    total: int
    size: dict[str, int]
    call: int
    optimiser: torch.optim.Optimizer
    rate: Callable[[int], float]
    clip: float | None
    clip_value: float | None
    penalty: Callable[[nn.Module, float], Tensor] | None
    augment: bool
    batch_norm: BatchNorm
    combine: Member
    weigh: Weigh
    average: Average
    watch: Watch | None
    plan: str
    alone: bool = False     # no retained data are drawn
    damage: bool = False    # what is done now is repaired or taken back by the method itself
    until: Callable[[nn.Module], bool] | None = None
    between: int = 1        # steps between two times that `until` is asked
    exact: dict[str, nn.Parameter] = field(default_factory=dict)   # what the optimiser steps: see `optimise.masters`
    spared: Mapping[str, Tensor] = field(default_factory=dict)   # by matrix a basis of inputs: see `where.Selection`
    slow: dict[str, Tensor] = field(default_factory=dict)

    def go(self) -> None:
        """All steps from where the run stands; the model ends at the point that `average` and the watchdog choose."""
        loop, average, broke = self.loop, self.average, False
        self._prepare()
        step = self._resume()
        self._begin(step)
        whole = sum(value.nbytes for value in (*self.model.parameters(), *self.exact.values(), *self.exact.values()))
        self.saved, self.took = time.monotonic(), whole / RATE   # the model and two moments of what moves
        with Interrupt(loop.stop, terminate=loop.folder is not None) as interrupt:
            while not broke and step < self.total and not self._over_budget(step) and not self._enough(step):
                self._step(step)
                if average.keeps:
                    average.update(self.slow, self.exact, step)
                step += 1
                loop.cost.steps += 1
                self.advance(step)
                self._log(step)
                step, broke = self._watched(step)
                stopped = not broke and loop.distribution.agree(interrupt.asked)
                if not broke:
                    self._checkpoint(step, stopped)
                if stopped:
                    raise interrupt.ending(f"stopped after step {step} of {self.total}")
        if average.keeps and not broke:   # the last sound point stays: the average holds others
            with torch.no_grad():
                for name, p in self.params.items():
                    p.copy_(self.slow[name])

    def _enough(self, step: int) -> bool:
        """Whether `until` ends the call after this step; a resumed run asks again."""
        if self.until is None or step == 0 or step % self.between:
            return False
        with evaluating(self.model), self.loop.autocast():
            return self.until(self.model)

    def forget_state(self) -> None:
        """Free what only steps need: an optimiser lies in a circle of references, and would stay until they are searched."""
        self.optimiser.state.clear()
        for p in self.params.values():
            p.grad = None
        self.slow.clear()
        self.frozen.clear()

    def _prepare(self) -> None:
        loop = self.loop
        self.frozen = {name: self.params[name].detach().clone() for name in {*self.masks, *self.spared}}
        if self.average.keeps:
            self.slow = {name: p.detach().clone() for name, p in self.exact.items()}
        self.orders = {
            name: Order(term.split, self.size[name], loop.seed, self.call, name) for name, term in self.terms.items()
        }
        self.memory: dict[str, Tensor] = {}
        self.stepper: Combine = (self.combine.recalling(self.params, self.memory) if isinstance(self.combine, Remembers)
                                 else self.combine)
        self.seen: dict[str, list[Any]] = {name: [torch.zeros(()), 0] for name in self.terms}   # sum of losses, count
        self.rng = torch.Generator()
        self.touched: set[str] = set()
        if self.watch:
            self.moving = {**self.params, **dict(self.model.named_buffers())}
            loop.step_size.begin(self.moving, named_tensors(self.watch.task.original))
            examples = sum(self.size[name] * self.total // term.every for name, term in self.terms.items())
            self.spacing = self.total + 1 if self.damage else self.watch.spacing(self.total, examples, self.alone)
            if self.spacing <= self.total:
                self.watch.ready()
        self._train_mode()
        self.pieces = Pieces(loop, self.model, self.terms, lambda name: self._batch(name, 0),
                             self.batch_norm == "update" and has_batch_norm(self.model))
        loop.original_leaves()

    def _watched(self, step: int) -> tuple[int, bool]:
        """The step to go on from, and whether the run ends at its last sound point."""
        watch, loop = self.watch, self.loop
        if watch is None:
            return step, False
        if (step % max(1, self.total // watch.watchdog.checks) == 0 or step == self.total) and not watch.finite(self.moving):
            if loop.step_size.may_lower(step, self.total):
                return self._start_again(step), False
            watch.restore(self.model)
            loop.broken = True
            return step, True
        if step % self.spacing == 0:
            watch.look(self.model, self.moving, loop.cost.steps)
        return step, False

    def _start_again(self, step: int) -> int:
        """Everything as at the start of the call, with a lower learning rate; the step to go on from."""
        loop = self.loop
        loop.step_size.lower(self.moving)
        loop.note(f"learning rate lowered to {self._rate(0):.3g} at step {step}: weights were not finite; the call started again")
        self.optimiser.state.clear()
        self.memory.clear()
        self._refine()
        self.slow = {name: self.exact[name].detach().clone() for name in self.slow}
        self.seen = {name: [torch.zeros(()), 0] for name in self.terms}
        loop.tell(Ended(loop.title, self.call))
        self._begin(0)
        return 0

    def _rate(self, step: int) -> float:
        return self.rate(step) * self.loop.step_size.share

    # -- one step --------------------------------------------------------------------------------------------------

    def _train_mode(self) -> None:
        self.model.train()
        parts = self.loop.settings.accumulate * self.loop.distribution.size
        single = any(size < 2 * parts for size in self.size.values())   # one example has no variance
        freeze_batch_norm(self.model, keep=() if self.batch_norm == "frozen" or single else self.params)

    def _step(self, step: int) -> None:
        loop = self.loop
        loop.reseed("step", self.call, step, loop.distribution.rank)   # dropout
        share = step / self.total
        batches = {name: self._batch(name, step) for name, term in self.terms.items() if step % term.every == 0}
        if not batches:
            return
        rate = self._rate(step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        params = list(self.params.values())

        def gradients(names: Sequence[str]) -> list[Tensor]:
            self.touched |= self._moved_by(names)
            return loop.modifiers.perturb.gradients(
                params, lambda: self._backward({name: batches[name] for name in names}, share)
            )

        self.stepper.step(list(batches), gradients, self._apply)

    def _batch(self, name: str, step: int) -> Batch:
        """The whole batch of a term; every process draws the same and then takes its part."""
        loop, term = self.loop, self.terms[name]
        batch = term.split.batch(self.orders[name].draw(step // term.every))
        rng = self.rng.manual_seed(derive(loop.seed, "draw", self.call, name, step))
        if term.prepare is not None:
            batch = term.prepare(batch, rng).replace(drawn=True)
        return loop.on_device(loop.task.draw(batch, rng, self.augment))

    def _backward(self, batches: Mapping[str, Batch], share: float) -> list[Tensor]:
        """The gradient of the weighted sum of these terms, summed over pieces and processes."""
        loop = self.loop
        seen = {name: list(self.seen[name]) for name in batches}
        while not self._collected(batches, share):   # the device had no room: once more, in smaller pieces
            self.seen.update({name: list(before) for name, before in seen.items()})
        loop.cost.examples += sum(map(len, batches.values()))
        if self.penalty is not None and next(iter(self.terms)) in batches:
            (loop.distribution.loss_scale / loop.distribution.size * self.penalty(self.model, share)).backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params.values()]
        loop.distribution.sum(grads)
        return grads

    def _collected(self, batches: Mapping[str, Batch], share: float) -> bool:
        """Whether the gradients of these terms found room on the device; if not, the one without is cut finer from now on."""
        for p in self.params.values():
            p.grad = None
        for name, batch in batches.items():
            try:
                with self._only(self.terms[name].moves):
                    self._backward_of(name, batch, share)
                continue
            except torch.OutOfMemoryError as error:
                self.pieces.finer(name, batch, error)
            if torch.accelerator.is_available():   # after the handler, which holds what the pass left
                torch.accelerator.empty_cache()
            return False
        return True

    def _backward_of(self, name: str, batch: Batch, share: float) -> None:
        """Add this process's part of one term's gradient; the parts of all processes add up to the whole."""
        loop, term, seen = self.loop, self.terms[name], self.seen[name]
        weight = term.weight(share) if callable(term.weight) else term.weight
        for piece, counts in self.pieces.cut(name, batch):
            with loop.autocast():
                losses = term.loss(self.model, piece).float().reshape(-1)   # of a coupled term perhaps a single number
            weights = self.weigh.weights(losses, name)
            total = losses.sum()
            objective = total if weights is None else (losses * weights).sum()
            whole = len(losses) if term.coupled else len(batch)
            if objective.requires_grad:   # not when all that moves lies behind what the term reads
                (weight * loop.distribution.loss_scale / whole * counts * objective).backward()
            if counts:
                seen[0], seen[1] = seen[0] + total.detach(), seen[1] + len(losses)

    def _moved_by(self, names: Sequence[str]) -> set[str]:
        moves = [self.terms[name].moves for name in names]
        return {p for p in self.params if any(own is None or p in own for own in moves)}

    @contextmanager
    def _only(self, moves: frozenset[str] | None) -> Iterator[None]:
        """Gradients that are collected within reach these parameters alone."""
        before = {} if moves is None else {name: p.grad for name, p in self.params.items() if name not in moves}
        for name in before:
            self.params[name].grad = None
        yield
        for name, grad in before.items():
            self.params[name].grad = grad

    def _apply(self, grads: list[Tensor]) -> None:
        for (name, p), g in zip(self.exact.items(), grads, strict=True):
            p.grad = None if name not in self.touched else (g * self.masks[name] if name in self.masks else g).to(p.dtype)
        self.touched = set()   # what no term moved since the last step stays, momentum or not
        if self.clip_value is not None:
            torch.nn.utils.clip_grad_value_(list(self.exact.values()), self.clip_value)
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(list(self.exact.values()), self.clip)
        self.optimiser.step()
        for p in (*self.params.values(), *self.exact.values()):   # room for looks and checkpoints
            p.grad = None
        with torch.no_grad():   # momentum and weight decay move masked entries; they are put back bit for bit
            for name, mask in self.masks.items():
                self.exact[name].copy_(torch.where(mask, self.exact[name], self.frozen[name].to(self.exact[name].dtype)))
            for name, basis in self.spared.items():
                now, then = self.exact[name], self.frozen[name].to(self.exact[name].dtype)
                now.copy_(then + spared(now - then, basis))
            for name, p in self.params.items():
                if p is not self.exact[name]:
                    p.copy_(self.exact[name])

    def _refine(self) -> None:
        """The float32 copies of what moves in half precision are as the weights are."""
        with torch.no_grad():
            for name, p in self.params.items():
                if p is not self.exact[name]:
                    self.exact[name].copy_(p)

    # -- around the steps ------------------------------------------------------------------------------------------

    def _begin(self, step: int) -> None:
        self.began = (time.monotonic(), step)   # the pace is that of this process, since it began
        self.loop.tell(Started(self.loop.title, self.call, step, self.total))

    def advance(self, step: int) -> None:
        """Report that `step` steps are done, and how long the rest will take at this pace."""
        since, first = self.began
        left = (time.monotonic() - since) / (step - first) * (self.total - step)
        self.loop.tell(Advanced(self.loop.title, self.call, step, self.total, left))

    def _log(self, step: int) -> None:
        if step % max(1, min(50, self.total // 20)) and step != self.total:
            return
        means = {}
        for name, (total, count) in self.seen.items():
            summed, counted = self.loop.distribution.total(float(total), count)
            if counted:
                means[name] = summed / counted
            self.seen[name] = [torch.zeros(()), 0]
        self.loop.tell(Logged(self.loop.title, self.call, step, self._rate(step - 1), means))
        for name, value in means.items():
            if not math.isfinite(value) and self.watch is None:
                raise Diverged(f"the {name} loss became {value} before step {step}, so the model would be useless and "
                               "was not saved. Lower method.lr, set a clip, or leave the watchdog on, which ends at the "
                               "last sound point.")

    def _over_budget(self, step: int) -> bool:
        loop, settings = self.loop, self.loop.settings
        reason = ""
        if settings.max_steps is not None and loop.cost.steps >= settings.max_steps:
            reason = f"budget of {settings.max_steps} steps"
        elif settings.max_examples is not None and loop.cost.examples + self._due(step) > settings.max_examples:
            reason = f"budget of {settings.max_examples} examples"
        elif settings.max_minutes is not None and loop.cost.steps and loop.distribution.agree(   # one step in any case
                loop.elapsed() >= 60 * settings.max_minutes):
            reason = f"budget of {settings.max_minutes:g} minutes"
        if reason and not any(reason in note for note in loop.notes):
            loop.note(f"stopped early by the {reason}")
        return bool(reason)

    def _due(self, step: int) -> int:
        """How many examples a step draws."""
        return sum(len(self.orders[name].draw(step // term.every)) for name, term in self.terms.items() if step % term.every == 0)

    def _checkpoint(self, step: int, now: bool = False) -> None:
        loop = self.loop
        if loop.checkpoints.folder is None:
            return
        waited = time.monotonic() - self.saved
        least = self.took / CHECKPOINTS if is_large(self.params.values()) else 0.0   # small ones are written in no time
        due = now or waited >= max(loop.settings.checkpoint_seconds, least)
        if not loop.distribution.agree(due):
            return
        began = time.monotonic()
        state = {f"model/{k}": v for k, v in loop.tensors(self.model).items()}
        state |= {f"opt/{k}": full(v) for k, v in optimise.state_tensors(self.optimiser, self.exact).items()}
        state |= {f"exact/{k}": full(v.detach()) for k, v in self.exact.items() if v is not self.params[k]}
        state |= {f"slow/{k}": full(v) for k, v in self.slow.items()}
        state |= {f"memory/{k}": full(v) for k, v in self.memory.items()}
        state |= {f"seen/{k}": total for k, (total, _) in self.seen.items()}
        sound, steps = self.watch.kept() if self.watch else ({}, {})
        counts = {name: count for name, (_, count) in self.seen.items()}
        if loop.distribution.first:
            place = {"call": self.call, "step": step, "plan": self.plan, "seen": counts, **steps}
            loop.checkpoints.save(state | sound, place | loop.standing())
        self.saved, self.took = time.monotonic(), time.monotonic() - began

    def _resume(self) -> int:
        """The step to go on from, with everything put back that `_checkpoint` wrote."""
        loop = self.loop
        found = loop.checkpoints.current(self.call, self.plan)
        if found is None:
            return 0
        tensors, meta = found

        def part(prefix: str) -> dict[str, Tensor]:
            return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}

        def laid(value: Tensor, as_: Tensor) -> Tensor:
            return loop.distribution.like(value.to(as_.device), as_)

        loop.restored(self.model, part("model/"))
        optimise.load_state(self.optimiser, self.exact, part("opt/"), laid)
        with torch.no_grad():
            for name, value in part("exact/").items():
                self.exact[name].copy_(laid(value, self.exact[name]))
        self.slow = {name: laid(value, self.exact[name]).clone() for name, value in part("slow/").items()}
        for key, value in part("memory/").items():
            like = self.params.get(key.partition("/")[2])
            self.memory[key] = value.to(loop.device) if like is None else laid(value, like).clone()
        self.seen = {name: [value, meta["seen"][name]] for name, value in part("seen/").items()}
        if self.watch:
            self.watch.put(tensors, meta)
        loop.resume_from(meta)
        return int(meta["step"])


def spared(change: Tensor, basis: Tensor) -> Tensor:
    """The change of a matrix without its part on some inputs: D(I − U Uᵀ).  [out, in], [in, k] -> [out, in]"""
    return change - (change @ basis) @ basis.T

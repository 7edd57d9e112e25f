"""Watchdog: judge the model that a method ends with, and return the run's last sound point where too much was lost.

    loss = score of the original − score of the model, on unseen data or, where they are few or cannot tell, also on retained
           ones (of a language model on retained ones: `Task.generalises`);
    sound: loss ≤ floor; where retrained models are known (`lethe compare`, `lethe run`), the lower of the two scores
           counts instead of the original's: a random tenth may cost what retraining without it costs

A method is left to do what it does: looks on the way change nothing, they only keep the last sound point. What the method ends
with is judged by a larger sample; beyond the floor (and the error of the sample) the run ends at the last sound point, and
the outcome says so (`Outcome.fall`); what the sample is too small to tell is noted. Weights that are not finite end the run at
once, or, soon after its start, lower the learning rate (`step_size`). Where a method damages the model in order to repair it, or
tries edits that it takes back (`Loop.damage`), nothing is looked at until it is done.

It looks at the forget side, too: predictions outside the range of all targets are no forgetting. A large loss there is noted, no
more: retrained models are as sure of other answers (30 nats on memorised wrong labels of digits, single examples 65), so a loss
does not tell a ruined model, and the original, which has forgotten nothing, is no better one.

It costs at most a tenth of the training, counted in forward passes, of which a step takes three by example: 3 % on the way and
7 % at the end. Three things cost more: runs on forgotten data alone, whose only protection it is, and which keep some looks and
the whole sample however short they are (a look at 64 examples, 512 at the end); runs on fewer than 760 examples, for the first
sample is 64; and what is asked once something was lost (the whole sample, retained data, retrained models, points before). A
small model is asked about all data in any case: that takes no time (`FREE`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.alike import leaving
from lethe.core.config import Count, Natural, Positive, config
from lethe.core.guard import bare
from lethe.core.modules import named_tensors
from lethe.core.operations import unlimited
from lethe.core.outcome import UNSURE, Fall
from lethe.core.parked import put, release
from lethe.core.registry import Method
from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.core.words import number
from lethe.errors import NeedsUnmet
from lethe.train.distribute import full, laid_out
from lethe.train.gauge import LEAST, Found, Gauge

NEEDS = ("original", "forget?", "retain?", "holdout?")   # of holdout its reserved half
SMALL = 0.01      # of all training data: what a request below this may cost at most ...
POINTS = (1.0, 3.0)   # ... and any other                                                                   [ours]
BUDGET = 0.09     # examples looked at on the way per example trained on: 3 % of the time, a look being a third of a step
JUDGED = 0.21     # the same of the final judgement, the original's answers included: 7 %
FREE = 10**9      # weights times examples that are judged in any case: about a second of one core           [ours]
SAMPLE = 512      # most examples of a part that are scored, of a model that is not small                    [ours]
ENOUGH = 100      # unseen examples that are enough without retained ones                                   [ours]
KEPT, ROOM = 8, 2**28   # sound points that are kept, while they are few bytes: the last may have been sound by a small sample
REFERENCES = 4   # retrained models that are asked, of those that are known: their mean is known to half of what seeds do [ours]
FEWEST = 16       # forgotten examples whose loss is looked at: what is meant is no matter of points          [ours]
SWOLLEN = 1e3     # times its size that no matrix grows to by forgetting                                     [ours]
FEW = 4           # looks that a call without retained data gets in any case: nothing but the watchdog holds it


@config
class Watchdog:
    """How much of its score a model may lose on retained and unseen data, and how it is looked at."""

    loss: Positive | None = None     # points; null: 1 for less than 1 % of the data, else 3 (ours) [tested in test_watchdog]
    forget_loss: Positive = 50.0     # nats, mean loss on F above which a note says so (ours) [tested in test_watchdog]
    beyond: Positive = 1.0           # regression: how far predictions leave the targets' range (ours) [tested in test_watchdog]
    examples: Count | None = None    # most scored of a part; null: 512, small models more (ours) [tested in test_watchdog]
    checks: Count = 10               # looks during a call of the loop, while they cost 3 % of it (ours) [tested in test_watchdog]
    tries: Natural = 3               # times that a rate is lowered that breaks weights (ours) [tested in test_stepsize]


@dataclass
class Point:
    """A state of the model: what moves, and buffers. step: of the whole run."""

    tensors: dict[str, Tensor]
    step: int


class Watch:
    """The watchdog at work in one run.

    task        what `NEEDS` are granted of: not the method's view, which may have less. What is taken of it is counted there.
    references  models retrained without the forget set, where there are any
    """

    def __init__(self, watchdog: Watchdog, task: Task, device: str, seed: int,
                 precision: Callable[[], AbstractContextManager[object]] = nullcontext, references: Sequence[nn.Module] = ()
                 ) -> None:
        self.watchdog = watchdog
        self.task = task = unlimited(task).granted(NEEDS)   # it scores on its own account
        if not (task.has("retain") or task.has("holdout")):
            raise NeedsUnmet("the watchdog reads retained (or holdout) data, and the task has neither, so a ruined model would "
                             "go unnoticed. Provide retain data, or run without a watchdog.")
        self.weights = sum(p.numel() for p in task.original.parameters())
        self.most = most = watchdog.examples or max(SAMPLE, FREE // max(1, self.weights))
        rng = generator(seed, "guard")
        parts = {role: shuffled(split, most, rng) for role, split in judged_on(task).items()}
        self.parts = list(parts)   # unseen data first
        if task.has("forget"):
            parts["forget"] = shuffled(task.forget, LEAST, rng)
        if task.has("retain") and "retain" not in parts:   # asked where the unseen data cannot tell
            parts["retain"] = shuffled(task.retain, most, rng)
        self.gauge = Gauge(task, parts, device, precision, references[:REFERENCES])
        self.points = watchdog.loss or POINTS[not small(task)]
        self.moving: Mapping[str, Tensor] = {}
        self.sound: list[Point] = []   # the last ones, oldest first; none: the start of the run
        self.looked_at: Point | None = None   # the point that the gauge has looked at last, if it was sound
        self.first: dict[str, Tensor] = {}
        self.alone = True   # no call has drawn retained data so far
        self.allowed = ""   # a note where retraining was compared with, not the original
        self.doubt = ""     # a note where the sample is too small to tell whether more than the floor was lost

    # -- on the way ------------------------------------------------------------------------------------------------

    def begin(self, moving: Mapping[str, Tensor]) -> None:
        """Another model starts from the original with these tensors; the start is a sound point."""
        self.sound, self.moving = [], moving
        origin = named_tensors(self.task.original)
        self.first = {name: value.detach().clone() for name, value in moving.items()
                      if name not in origin or origin[name].shape != full(value).shape}

    def spacing(self, total: int, examples: int, alone: bool) -> int:
        """Steps between two looks in a call of `total` steps over so many examples; alone: it draws no retained data."""
        affordable = int(BUDGET * examples / LEAST)
        looks = min(self.watchdog.checks, max(affordable, FEW if alone else 0))
        return max(1, total // looks) if looks else total + 1

    def ready(self) -> None:
        """Ask the original now what looks will compare with: later the optimiser's state is in memory, too."""
        self.gauge.ask_original(self.parts[0], min(LEAST, len(self.gauge.parts[self.parts[0]])))

    def look(self, model: nn.Module, moving: Mapping[str, Tensor], step: int) -> None:
        """Keep this point when it is sound."""
        self.looked_at = None
        found = self.gauge.compare(model, self.parts[0], min(LEAST, len(self.gauge.parts[self.parts[0]])), self.floor)
        if found.loss > self.floor or self._outside(model) is not None:
            return
        most = max(1, min(KEPT, ROOM // max(1, sum(value.nbytes for value in moving.values()))))
        room = self.sound.pop(0).tensors if len(self.sound) >= most else {}
        if room.keys() != moving.keys():
            room = put(moving)
        with torch.no_grad():
            for name, value in moving.items():
                room[name].copy_(value)
        release(room.values())
        self.looked_at = Point(room, step)
        self.sound.append(self.looked_at)

    def kept(self) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
        """The sound points for a checkpoint: `sound/number/name` -> whole tensor; and `sound` -> the step of each."""
        return {f"sound/{number}/{name}": full(value) for number, point in enumerate(self.sound)
                for name, value in point.tensors.items()}, {"sound": [point.step for point in self.sound]}

    def put(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """The sound points from a checkpoint that `kept` went into; what else is in it is not looked at."""
        self.sound = [Point({}, step) for step in meta["sound"]]
        for key, value in tensors.items():
            kind, _, place = key.partition("/")
            if kind == "sound":
                number, _, name = place.partition("/")
                self.sound[int(number)].tensors[name] = value.to(self.gauge.device)

    @staticmethod
    def finite(moving: Mapping[str, Tensor]) -> bool:
        """Whether every weight is a number. A sum that is one says so eight times faster than a look at each."""
        floats = [full(value) for value in moving.values() if value.is_floating_point()]
        return all(bool(value.sum().isfinite()) or bool(value.isfinite().all()) for value in floats)

    # -- at the end ------------------------------------------------------------------------------------------------

    def affordable(self, examples: int) -> int:
        """Examples of a part that the final judgement of a run over so many examples may ask for: a multiple of `LEAST`."""
        if self.alone:
            return self.most
        paid = max(JUDGED * examples - FEWEST, FREE / max(1, self.weights))
        return LEAST * max(1, int(paid / (2 * len(self.parts) * LEAST)))   # the model's and the original's answers

    def judge(self, model: nn.Module, step: int, broken: bool = False, examples: int = 0) -> Fall | None:
        """None when the model is sound. Else why not; the model is then back at the last sound point.

        broken    weights were not finite before, so the model is already put back
        examples  that the run was trained on
        """
        self.allowed = self.doubt = ""
        self.gauge.most = self.affordable(examples)
        self.gauge.known = {self.parts[0]: self.gauge.looked} if self._is_the_last_point(model) else {}
        fall = Fall("weights", "share that is finite", None, 1.0, 1.0, step) if broken or not self.finite(
            named_tensors(model)) else self._fault(model, step)
        if fall is None:
            return None
        told, self.gauge.known = self.allowed, {}
        self.restore(model)
        while self.sound and self._fault(model, self.sound[-1].step) is not None:   # sound by a small sample only
            self.sound.pop()
            self.restore(model)
        self.allowed, self.doubt = told, ""
        return Fall(fall.part, fall.metric, fall.value, fall.original, fall.floor, step, self.sound[-1].step if self.sound else 0)

    def _is_the_last_point(self, model: nn.Module) -> bool:
        """Whether the last look was at these very weights, so that nobody need be asked again."""
        if not self.sound or self.looked_at is not self.sound[-1]:
            return False
        known = {**named_tensors(self.task.original), **self.sound[-1].tensors}
        here = {name: full(value) for name, value in named_tensors(model).items()}
        same = here.keys() <= known.keys() and all(torch.equal(value, full(known[name]).to(value.device))
                                                   for name, value in here.items())
        release(known.values())
        return same

    def restore(self, model: nn.Module) -> None:
        """Put the last sound point back, inside a guard, too: the start, where there is none or the model has become another."""
        here, origin = named_tensors(bare(model)), named_tensors(self.task.original)
        if not self.moving.keys() <= here.keys():
            self.sound = []
        tensors = self.sound[-1].tensors if self.sound else {}
        with torch.no_grad():
            for name, value in here.items():
                kept = tensors.get(name, self.first.get(name, origin.get(name)))
                if kept is not None and kept.shape == value.shape:
                    kept = kept.to(value.device)
                    value.copy_(kept if hasattr(kept, "placements") else laid_out(kept, value))
        release([*tensors.values(), *origin.values()])

    @property
    def floor(self) -> float:
        """The largest loss that is sound, as a share."""
        return self.points / 100

    def _fault(self, model: nn.Module, step: int) -> Fall | None:
        for found in self._losses(model):
            if found.retrained:
                self.allowed = self._beside(found)
            if found.doubtful(self.floor) and not self.doubt:
                self.doubt = self._unsure(found)
            if found.over(self.floor):
                return Fall("holdout" if found.part == "holdout" else "retain", self.task.score_name, found.now,
                            self.gauge.original(found.part, found.n) if found.retrained else found.before,
                            found.before - self.floor, step)
        if (grown := self._grown(model)) > SWOLLEN:
            return Fall("weights", "size beside the original", grown, 1.0, SWOLLEN, step)
        strange = self._outside(model)
        return None if strange is None else Fall("forget", *strange, step)

    def _losses(self, model: nn.Module) -> Iterator[Found]:
        """What was lost on each part; on retained data, too, where more than the floor may be lost on unseen ones."""
        for part in self.parts:
            found = self.gauge.settle(model, part, self.floor)
            yield found
        if found.loss > self.floor and "retain" in self.gauge.parts.keys() - set(self.parts):
            yield self.gauge.settle(model, "retain", self.floor)

    def _beside(self, found: Found) -> str:
        """That retraining loses, too, so that it and not the original is what was compared with."""
        data, count = "unseen" if found.part == "holdout" else "retained", len(self.gauge.references)
        return (f"the watchdog compared with retraining, not with the original: {self.task.score_name} on {data} data is "
                f"{number(found.now)}, {number(found.before)} of retrained models (mean of {count}), "
                f"{number(self.gauge.original(found.part, found.n))} of the original")

    def _unsure(self, found: Found) -> str:
        """That more than the floor may have been lost."""
        data = "unseen" if found.part == "holdout" else "retained"
        than = "retrained models" if found.retrained else "the original"
        return (f"{UNSURE} whether more than {number(self.points)} points were lost: {number(100 * found.loss)} ± "
                f"{number(100 * found.error)} of {self.task.score_name} beside {than}, by {found.n} {data} examples. More "
                "holdout data would tell")

    def conspicuous(self, model: nn.Module) -> str:
        """A note where the loss on forgotten data is above `forget_loss`, the original's and retrained models'; else nothing."""
        if "forget" not in self.gauge.parts or "likelihood" not in self.task.provides:
            return ""
        few, limit = min(FEWEST, len(self.gauge.parts["forget"])), self.watchdog.forget_loss
        loss = self.gauge.mean_nll(model, "forget", few)
        if loss <= limit or any(loss <= self.gauge.mean_nll(one.to(self.gauge.device), "forget", few)
                                for one in (self.task.original, *self.gauge.references)):
            return ""
        return (f"the mean loss on forgotten data is {number(loss)} nats, above {number(limit)}: who looks at losses may see "
                "that something was taken out. Lower method.lr or method.epochs where that matters")

    def _grown(self, model: nn.Module) -> float:
        """How many times larger than the original's the matrix that moved and grew most is. A network with norms may not show it
        in what it says."""
        origin, here = named_tensors(self.task.original), named_tensors(model)
        pairs = [(here[name], origin[name]) for name in self.moving if name in here and name in origin
                 and here[name].is_floating_point() and here[name].dim() > 1 and here[name].shape == origin[name].shape]
        sizes = [(float(full(now).detach().float().norm()), float(before.detach().float().norm())) for now, before in pairs]
        return max((now / before for now, before in sizes if before > 0), default=1.0)

    @property
    def _few(self) -> int:
        """Forgotten examples that are looked at: enough, for what is meant here is no matter of points."""
        return min(LEAST // 2, len(self.gauge.parts["forget"]))

    def _outside(self, model: nn.Module) -> tuple[str, float, float | None, float | None] | None:
        """Regression predictions of forgotten examples far from all targets: (metric, value, the original's value, the limit)."""
        y = self.gauge.parts["forget"].columns.get("y") if "forget" in self.gauge.parts else None
        if y is None or not y.is_floating_point():
            return None
        targets = torch.cat([split.columns["y"].reshape(-1) for role, split in self.gauge.parts.items()]).double()
        low, high = float(targets.min()), float(targets.max())
        said = self.gauge.predictions(model, "forget", self._few)
        far = float((said - (low + high) / 2).abs().max()) - (high - low) / 2
        limit = self.watchdog.beyond * (high - low)
        return None if far <= limit else ("distance of a prediction from the targets", far, None, limit)


def judged_on(task: Task) -> dict[str, Split]:
    """Unseen data of classes and groups that stay, where they are granted; where they are few or none, retained data, too.

    Of a family that does not generalise, unseen data stand in for retained ones alone.
    """
    parts: dict[str, Split] = {}
    if task.has("holdout") and (task.generalises or not task.has("retain")):
        unseen = task.holdout
        if task.has("retain"):
            unseen = unseen.subset(~leaving(unseen, task.forget if task.has("forget") else None, task.retain), "holdout")
        if len(unseen):
            parts["holdout"] = unseen
    if task.has("retain") and len(parts.get("holdout", ())) < ENOUGH:
        parts["retain"] = task.retain
    return parts


def shuffled(split: Split, most: int, rng: torch.Generator) -> Split:
    """A random sample of at most `most` examples, in random order."""
    return split.subset(np.asarray(torch.randperm(len(split), generator=rng)[:most]), "watchdog")


def small(task: Task) -> bool:
    """Whether less than 1 % of the training data are to be forgotten."""
    if not (task.has("forget") and task.has("retain")):
        return False
    return len(task.forget) < SMALL * (len(task.forget) + len(task.retain))


def watching(asked: Watchdog | bool | None, record: Method, task: Task) -> Watchdog | None:
    """The watchdog of a method's run: the one asked for, or the usual one where there are data to score on."""
    if asked is False or not record.judged:
        return None
    usual = Watchdog() if task.has("retain") or task.has("holdout") else None
    return asked if isinstance(asked, Watchdog) else usual


def in_words(fall: Fall) -> str:
    """A fall as the note of a run."""
    end = ("the original was returned, so nothing was forgotten" if fall.kept == 0 else
           f"the model of step {fall.kept}, the last sound one, was returned")
    if fall.part == "weights":
        found = "weights became NaN or infinite" if fall.value is None else (
            f"weights were {number(fall.value)} times as large as the original's")
    elif fall.original is None or fall.part == "forget":
        found = f"{fall.metric} on forgotten data was {number(fall.value)}, beyond {number(fall.floor)}"
    else:
        data = "unseen" if fall.part == "holdout" else "retained"
        found = (f"{fall.metric} on {data} data was {number(fall.value)}, below {number(fall.floor)} (the original: "
                 f"{number(fall.original)})")
    return (f"the watchdog ended the run: after step {fall.step}, {found}; {end}. Lower method.lr or method.epochs, or allow "
            "more: watchdog.loss (points)")

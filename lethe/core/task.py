"""Task: what is to be forgotten from which model. The only thing through which methods and audits see model and data.

A family (`lethe/models/<family>.py`) subclasses `Task` and implements the operations marked abstract, per example and
batched. A method that uses only these runs on every family.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, Schedule, config
from lethe.core.engine import Engine, Term
from lethe.core.modules import copied, reinitialised, require_finite, seeded, state_fingerprint
from lethe.core.operations import limited
from lethe.core.split import Batch, Split, by_role
from lethe.core.view import reserved
from lethe.errors import NeedsUnmet, NotFinite, NotGranted, SplitsOverlap


@config
class Recipe:
    """How the original model was trained, so that it can be retrained without the forget set."""

    epochs: Positive = 10.0      # passes over the training set
    lr: Positive = 1e-3          # peak learning rate
    batch_size: Count = 64       # examples per step
    optimiser: Optimiser = "adamw"
    weight_decay: NonNegative = 0.0
    momentum: NonNegative = 0.9  # sgd only
    schedule: Schedule = "constant"   # of the learning rate over the run
    augment: Literal["none", "flip_crop", "drop_prompt"] = "none"   # images: flip_crop; text to image: drop_prompt


def recipe_options(recipe: Recipe) -> dict[str, Any]:
    """Options of the engine's `minimise` that a recipe sets."""
    return {
        "lr": recipe.lr, "epochs": recipe.epochs, "batch_size": recipe.batch_size, "optimiser": recipe.optimiser,
        "weight_decay": recipe.weight_decay, "momentum": recipe.momentum, "schedule": recipe.schedule,
        "batch_norm": "update", "augment": recipe.augment != "none",
    }


class Task(ABC):
    """A model, its data and the request.

    original  the trained model; a private frozen copy is kept and never written
    splits    forget (to be removed), retain (to be kept), holdout (never seen, same distribution as the training data:
              the audits' non-members), test (never seen; utility), reference (never seen: what a method gets for holdout,
              so that audits judge it on other data; half of holdout where it is missing). The last three may be missing.
    recipe    how it was trained; with it exact retraining and reference models are possible
    build     seed -> fresh model, the starting point of `recipe`; default: a copy with re-drawn weights
    """

    family: ClassVar[str]
    provides: ClassVar[frozenset[str]] = frozenset()   # operations that mean something here: see core/families
    score_name: ClassVar[str] = "score"          # what `score` measures, e.g. accuracy; higher is better
    distinct: ClassVar[bool] = True              # whether two equal examples mean that data leaked between splits

    def __init__(
        self,
        original: nn.Module,
        splits: dict[str, Split],
        recipe: Recipe | None = None,
        build: Callable[[int], nn.Module] | None = None,
        name: str = "task",
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.name, self._recipe, self._build = name, recipe, build
        self._splits = by_role(splits)
        self._original = copied(original, trainable=False)
        self._granted: frozenset[str] | None = None
        self._used: set[str] = set()   # splits that a method's view has handed out
        self._original_given = True
        self.facts = facts or {}   # what the report should say about where model and data came from
        self._check()

    @classmethod
    def of(cls, task: Task) -> Self:
        """`task` itself, known to be of this family: an audit is passed any task. Raises NeedsUnmet when it is of another."""
        if not isinstance(task, cls):
            raise NeedsUnmet(f"a {task.family} task is no {cls.__name__}, whose operations are needed here. Choose what fits it: "
                             f"lethe audits --family {task.family}.")
        return task

    # -- what the family implements, as far as it says so in `provides` -------------------------------------------

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """The training loss of each example, whatever else is in the batch.  -> [n]"""
        raise self._without("nll", "loss of a single example")

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the model says about each example, as `divergence` compares it.  -> [n, ...]"""
        raise self._without("outputs", "answer to a single example")

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """Divergence of outputs q from outputs p (p is the fixed side).  [n, ...], [n, ...] -> [n]"""
        raise self._without("divergence", "divergence of answers")

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """A representation of each example.  -> [n, d]"""
        raise self._without("features", "representation of a single example")

    def relabel(self, batch: Batch, rng: torch.Generator) -> Batch:
        """The same inputs with other targets: other labels, other answers, an anchor prompt."""
        raise self._without("relabel", "other target for an input")

    @abstractmethod
    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Everything audits need, from one forward pass: at least nll [n], score [n] and signal [n] (higher is more
        member-like); families add logits, token log-probabilities, features."""

    @abstractmethod
    def save_model(self, model: nn.Module, folder: Path) -> None:
        """Write the model in the format it came in; it loads with its own library, without Lethe."""

    def train(self, model: nn.Module, split: Split, recipe: Recipe, loop: Engine) -> nn.Module:
        """Train `model` on `split` as the recipe says, in place; returns it. Originals, references, `retrain` and shards are
        all trained here. A family whose objective is no mean of `nll` (two players, a contrast) trains in its own way."""
        return loop.minimise(model, {"train": Term(split, self.nll)}, **recipe_options(recipe))

    @classmethod
    def trains_itself(cls) -> bool:
        """Whether training is more than the mean of `nll`, so that nobody may put another loss in its place."""
        return cls.train is not Task.train

    def draw(self, batch: Batch, rng: torch.Generator, train: bool) -> Batch:
        """Add what is random about an example (noise, augmentation when `train`); nothing by default."""
        return batch

    def trainable(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Parameters that may move, by name: those that require gradients in the original as it was given."""
        return dict(model.named_parameters())

    def check_family(self) -> None:  # noqa: B027 (a hook: most families need it, none must)
        """Family-specific checks of data and model before any work starts."""

    def samples(self, model: nn.Module, limit: int = 6) -> list[dict[str, Any]]:
        """What a person looks at: a few seeded, unpicked examples with the model's answer; for the report."""
        return []

    # -- data and models ------------------------------------------------------------------------------------------

    @property
    def forget(self) -> Split:
        return self._split("forget")

    @property
    def retain(self) -> Split:
        return self._split("retain")

    @property
    def holdout(self) -> Split:
        """Never-seen data. A method's view hands out `reference`, or half of holdout: the audits use the rest."""
        whole = self._split("holdout")
        return whole if self._granted is None else self._splits.get("reference") or reserved(whole)

    @property
    def test(self) -> Split:
        return self._split("test")

    @property
    def original(self) -> nn.Module:
        """The frozen original, in eval mode. Do not write to it."""
        self._require("original")
        return self._original

    @property
    def recipe(self) -> Recipe:
        self._require("recipe")
        assert self._recipe is not None
        return self._recipe

    @property
    def splits(self) -> dict[str, Split]:
        """Every split that exists and may be touched."""
        return {key: value for key, value in self._splits.items() if self.has(key)}

    def used(self, name: str) -> bool:
        """Whether a method has taken this split from its view."""
        return name in self._used

    def has(self, what: str) -> bool:
        """Whether the task has it and, for a method's view, whether it was granted. `forget.entity`: a column of a split."""
        what, _, column = what.partition(".")
        known = {"original": self._original_given, "recipe": self._recipe is not None}
        present = known.get(what, what in self._splits)
        inside = not column or (present and column in {**self._splits[what].meta, **self._splits[what].columns})
        return present and inside and (self._granted is None or what in self._granted)

    def copy_of_original(self) -> nn.Module:
        """A trainable copy of the original, sharing no storage with it."""
        twin = copied(self._original, trainable=True)
        twin.requires_grad_(True)
        return twin

    def build(self, seed: int) -> nn.Module:
        """A fresh model: what the recipe starts from. The same seed gives the same weights."""
        if self._build is not None:
            return seeded(self._build, seed)
        return reinitialised(self._original, seed)

    def unrepeatable(self, reason: str) -> Task:
        """Itself without the recipe: training again would not be exact (a pre-trained start that knows the forget set)."""
        self._recipe = None
        self.facts["no_retraining"] = reason
        return self

    def without_original(self) -> Task:
        """Itself, with the model only standing in for an original that nobody has: audits of a single model."""
        self._original_given = False
        return self

    def replaced(self, original: nn.Module, **splits: Split | None) -> Task:
        """The same task on another model and, where given, other splits: what shadow models are unlearned on."""
        twin = copy.copy(self)   # of a method's view: the same grants, and what it takes counts as taken by the method
        twin._original = copied(original, trainable=False)
        twin._splits = by_role({**self._splits, **{role: split if split is None or len(split) else None
                                                   for role, split in splits.items()}})
        twin._check()
        return twin

    def granted(self, needs: Iterable[str], uses: Iterable[str] | None = None) -> Task:
        """A view that hands out only `needs`; a name that ends in '?' is optional. Operations: only `uses`; None: all.

        Raises NeedsUnmet when something required is missing.
        """
        needs = set(needs)
        for need in self.lacks(needs):
            raise NeedsUnmet(missing(need))
        view, asked = copy.copy(self), frozenset(need.rstrip("?") for need in needs)
        if self._granted is None:
            view._granted, view._used = asked, set()
        else:   # a view of a view: no more than that had, and on its account
            view._granted = asked & self._granted
        return view if uses is None else limited(view, uses)

    def lacks(self, needs: Iterable[str]) -> list[str]:
        """Those of `needs` that are required and not there."""
        return sorted(need for need in needs if not need.endswith("?") and not self.has(need))

    @property
    def fingerprint(self) -> dict[str, str]:
        """Fingerprints of the original's weights and of every split."""
        prints = {key: split.fingerprint for key, split in self._splits.items()}
        return {"original": state_fingerprint(self._original), **prints}

    def _require(self, what: str) -> None:
        if self._granted is not None and what not in self._granted:
            raise NotGranted(f"the method touched {what!r} without declaring it; its result could not be trusted to be "
                             f"independent of it. Add {what!r} to needs=.")
        if not self.has(what):
            raise NeedsUnmet(missing(what))

    def _without(self, operation: str, meaning: str) -> NeedsUnmet:
        return NeedsUnmet(f"a {self.family} task has no {meaning}, so {operation} cannot be computed. Choose a method that does "
                          f"not use {operation}: lethe methods --family {self.family}.")

    def _split(self, name: str) -> Split:
        self._require(name)
        self._used.add(name)
        return self._splits[name]

    def _check(self) -> None:
        require_finite(self._original, "the original model")
        for name, split in self._splits.items():
            remedy = "Check the forget selection." if name in ("forget", "retain") else f"Leave {name} out or fill it."
            split.require_examples(remedy)
            for key, value in split.columns.items():
                if value.is_floating_point() and not torch.isfinite(value).all():
                    bad = (~torch.isfinite(value)).flatten(1).any(1) if value.dim() > 1 else ~torch.isfinite(value)
                    place = int(bad.nonzero()[0])
                    raise NotFinite(f"column {key!r} of {name!r} has NaN or infinity in {int(bad.sum())} examples (first: "
                                    f"id {split.ids[place]}), so losses would be NaN. Remove or impute them.")
        owners = {name: {str(i) for i in split.ids} for name, split in self._splits.items()}
        for left, right in (("forget", "holdout"), ("forget", "retain"), ("retain", "holdout"), ("forget", "test"),
                            ("retain", "test")):
            shared = owners.get(left, set()) & owners.get(right, set())
            if shared:
                some = ", ".join(sorted(shared)[:3])
                raise SplitsOverlap(f"{left} and {right} share {len(shared)} examples (ids {some}), so the audit would call "
                                    "seen data unseen. Remove them from one of the two.")
        if self.distinct and {"forget", "holdout"} <= self._splits.keys():
            shared_contents = set(self._splits["forget"].contents()) & set(self._splits["holdout"].contents())
            if shared_contents:
                raise SplitsOverlap(f"{len(shared_contents)} examples stand in forget and in holdout with equal content, so the "
                                    "audit would call seen data unseen. Remove the duplicates from holdout.")
        self.check_family()


def missing(what: str) -> str:
    """Message for something a task does not have."""
    remedy = {
        "retain": "Give retain data, or choose a method that works without it: lethe methods --without retain.",
        "holdout": "Give never-seen data of the same distribution as holdout.",
        "recipe": "Give recipe= (how the model was trained), so that it can be retrained.",
        "pictures": "The method lays pictures [n, C, H, W] over each other; choose another for tables or text.",
        "convolutions": "The method turns 2-d convolutions with square kernels over; choose another, e.g. msg or finetune.",
    }.get(what, f"Give {what}.")
    return f"the task has no {what}, which is needed here, so nothing was started. {remedy}"

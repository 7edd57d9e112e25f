"""Task: what is to be forgotten from which model. The only thing through which methods and audits see model and data.

A family (`lethe/models/<family>.py`) subclasses `Task` and implements the operations marked abstract, per example and
batched. A method that uses only these runs on every family.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core import training
from lethe.core.adaptable import Adaptable, matrices
from lethe.core.checks import check
from lethe.core.config import Count, Natural, NonNegative, Optimiser, Positive, Schedule, config
from lethe.core.engine import Engine, Term
from lethe.core.modules import reinitialised, seeded
from lethe.core.operations import limited
from lethe.core.parked import is_parked
from lethe.core.split import NO_IDS, Batch, Split
from lethe.core.view import Grant, missing
from lethe.core.visiting import has_a_home
from lethe.errors import NeedsUnmet, RequestError, unknown_name


@config
class Recipe:
    """How the original model was trained, so that it can be retrained without the forget set: by these options, or by `code`."""

    epochs: Positive = 10.0      # passes over the training set
    lr: Positive = 1e-3          # peak learning rate
    batch_size: Count = 64       # examples per step
    optimiser: Optimiser = "adamw"   # [only with weight_decay=0.1]
    weight_decay: NonNegative = 0.0
    momentum: NonNegative = 0.9  # [only with optimiser=sgd]
    schedule: Schedule = "constant"   # of the learning rate over the run
    lora: Natural = 0            # rank of adapters that were trained, and merged; 0: the weights [tested in test_adapted_recipe]
    augment: str = "none"        # of the family: flip_crop (pictures), drop_prompt, drop_words (text to image) [e.g. flip_crop]
    code: str | Callable[..., Any] = ""   # path/to/file.py:fit, your own training instead    [tested in test_own_training]

    def require_sound(self) -> Recipe:
        """Itself; RequestError when `code` cannot be called, or other options stand beside it without effect."""
        if self.code:
            training.function(self.code)
            idle = [f.name for f in fields(self) if f.name not in ("code", "augment") and getattr(self, f.name) != f.default]
            if idle:
                raise RequestError(f"recipe.{idle[0]} has no effect beside recipe.code, whose function decides how it trains; "
                                   "nothing was started. Leave it out, and set it in your function.")
        return self


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
    splits    forget (to be removed), retain (to be kept), holdout (unseen, same distribution as the training data:
              the audits' non-members), test (unseen; utility), reference (unseen: what a method receives as holdout,
              so that audits judge it on other data; half of holdout where it is missing). The last three may be missing.
    recipe    how it was trained; with it exact retraining and reference models are possible
    build     seed -> fresh model, the starting point of `recipe`; default: a copy with re-drawn weights
    """

    family: ClassVar[str]
    provides: ClassVar[frozenset[str]] = frozenset()   # operations that mean something here: see core/families
    score_name: ClassVar[str] = "score"          # what `score` measures, e.g. accuracy; higher is better
    generalises: ClassVar[bool] = True           # whether the score of unseen data measures what a model can do
    distinct: ClassVar[bool] = True              # whether two equal examples mean that data leaked between splits
    coupled: ClassVar[bool] = False              # whether the training loss of an example depends on the rest of its batch

    def __init__(
        self,
        original: nn.Module,
        splits: Mapping[str, Split],
        recipe: Recipe | None = None,
        build: Callable[[int], nn.Module] | None = None,
        name: str = "task",
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.name, self._recipe, self._build = name, recipe and recipe.require_sound(), build
        self._grant = Grant(original, splits)
        self.facts = facts or {}   # what the report shows about the origin of model and data
        self._check()

    @classmethod
    def of(cls, task: Task) -> Self:
        """`task` itself, known to be of this family: an audit is passed any task. Raises NeedsUnmet when it is of another."""
        if not isinstance(task, cls):
            raise NeedsUnmet(f"a {task.family} task is no {cls.__name__}, whose operations are needed here. Choose what fits it: "
                             f"lethe audits --family {task.family}.")
        return task

    # -- what the family implements, as far as `provides` names it -------------------------------------------

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """The training loss of each example, whatever else is in the batch.  -> [n]"""
        raise self._without("nll", "loss of a single example")

    def batch_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The training loss of a batch: `nll`, unless the family is `coupled`, whose examples are held against each other. What
        only trains or untrains uses this, in a `Term` with `coupled=task.coupled`, and runs on either kind.  -> [n]"""
        return self.nll(model, batch)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model's output for each example, as `divergence` compares it.  -> [n, ...]"""
        raise self._without("outputs", "answer to a single example")

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """Divergence of outputs q from outputs p (p is the fixed side).  [n, ...], [n, ...] -> [n]"""
        raise self._without("divergence", "divergence of answers")

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """A representation of each example.  -> [n, d]"""
        raise self._without("features", "representation of a single example")

    def relabel(self, batch: Batch, rng: torch.Generator, include_true: bool = False) -> Batch:
        """The same inputs with other targets: other labels, other answers, an anchor prompt.

        include_true   whether classes are drawn from all K, the true one among them; without meaning where there are none
        """
        raise self._without("relabel", "other target for an input")

    @abstractmethod
    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Everything audits need, from one forward pass: at least nll [n], score [n] and signal [n] (higher is more
        member-like); families add logits, token log-probabilities, features."""

    @property
    def lends(self) -> bool:
        """Whether a run's model shares storage with the original where nothing moves: large ones that Lethe opened itself. Who
        writes to such an outcome in place writes to the original."""
        return False

    @property
    def original_is_parked(self) -> bool:
        """Whether the original lies in a mapped file (`lethe.core.parked`) in place of memory, or visits from there."""
        original = self._grant.everything()[0]
        return is_parked(original) or has_a_home(original)

    @property
    def serves(self) -> frozenset[str]:
        """The operations of the family that this task can carry out: all that it provides, unless its model is special."""
        return self.provides

    def unserved(self, operations: Iterable[str]) -> str:
        """In words, what kind of model it is that cannot carry out these operations, which the family provides."""
        return "this model"

    def refuses(self, uses: Set[str]) -> str:
        """Why a method with these operations could not do what this task asks, in words; empty where it can."""
        return ""

    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        """The score that `observe` reports, alone: a family may have a cheaper way.  -> [n]"""
        return self.observe(model, batch)["score"]

    def loss_alone(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss by which judges hold an example: `nll` or, where the family has none, what `observe` calls so.  -> [n]"""
        return self.nll(model, batch) if "nll" in self.provides else self.observe(model, batch)["nll"]

    def losses(self, model: nn.Module, split: Split, device: torch.device | str) -> Tensor | None:
        """`loss_alone` of every example of a split by a way of the family that is cheaper than batches, if there is one.  [n]"""
        return None

    @abstractmethod
    def save_model(self, model: nn.Module, folder: Path) -> None:
        """Write the model in the format it came in; it loads with its own library, without Lethe."""

    def require_saved(self, model: nn.Module, folder: Path) -> None:  # noqa: B027
        """NotWritten when what `save_model` wrote there does not answer as `model` when it is loaded again."""

    def save_adapter(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], folder: Path) -> None:  # noqa: B027
        """Write a low-rank adapter in the format of the family's own library beside the merged model, where it has one.

        tensors  lora_A and lora_B by name of layer      settings  of PEFT's LoraConfig
        """

    @property
    def told_of_adapters(self) -> str:
        """What who gets an adapter must know to load it; empty where the family's own library does."""
        return ""

    def deliverable(self, model: nn.Module) -> nn.Module:
        """The model as `save_model` can hold it (rounded to half precision where it came so), in place: what is audited."""
        return model

    def train(self, model: nn.Module, split: Split, recipe: Recipe, loop: Engine) -> nn.Module:
        """Train `model` on `split` by the recipe, in place; returns it. Originals, references, `retrain` and shards are
        all trained here. A family whose objective is no mean of a loss (two players) trains in its own way."""
        if recipe.code:
            return training.train(recipe.code, model, split, loop.seed, loop.device)
        return loop.minimise(model, {"train": Term(split, self.batch_loss, coupled=self.coupled)}, **recipe_options(recipe))

    def trains_itself(self) -> bool:
        """Whether training is more than all weights moving by a mean of `nll`, so that nobody may take the steps instead."""
        own = type(self).train is not Task.train or self.coupled
        return own or bool(self._recipe is not None and (self._recipe.code or self._recipe.lora))

    def keeps(self) -> bool:
        """Whether trained models may come out of a cache that another process has written; else they are trained again."""
        return True

    def draw(self, batch: Batch, rng: torch.Generator, train: bool) -> Batch:
        """Add what is random about an example (noise, augmentation when `train`); nothing by default."""
        return batch

    def trainable(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Parameters that may move, by name: those that require gradients in the original as it was given."""
        return dict(model.named_parameters())

    def adaptable(self, model: nn.Module) -> Adaptable:
        """The layers on which low-rank adapters go: every linear and ungrouped convolution layer but the last."""
        layers = matrices(model)
        return Adaptable(tuple(layers[:-1] or layers))

    def adapter_facts(self) -> Mapping[str, Any]:
        """What an adapter's own file says beside its sizes: options of PEFT's LoraConfig."""
        return {}

    def check_family(self, original: nn.Module, splits: Mapping[str, Split]) -> None:  # noqa: B027 (most families need it)
        """Family-specific checks of model and data before any work starts; notes what operations need to know of them."""

    def samples(self, model: nn.Module, limit: int = 6) -> list[dict[str, Any]]:
        """What a person looks at: a few seeded, unpicked examples with the model's answer; for the report."""
        return []

    # -- data and models ------------------------------------------------------------------------------------------

    @property
    def forget(self) -> Split:
        """What is to be removed."""
        return self._grant.take("forget")

    @property
    def retain(self) -> Split:
        """What is to be kept."""
        return self._grant.take("retain")

    @property
    def holdout(self) -> Split:
        """Unseen data. A method's view hands out `reference`, or half of holdout: the audits use the rest."""
        return self._grant.take("holdout")

    @property
    def test(self) -> Split:
        """Unseen data by which utility is judged."""
        return self._grant.take("test")

    @property
    def splits(self) -> Mapping[str, Split]:
        """Every split that exists and may be touched, by role."""
        return self._grant.splits

    @property
    def original(self) -> nn.Module:
        """The frozen original, in eval mode. Do not write to it."""
        return self._grant.original()

    @property
    def model(self) -> nn.Module:
        """The frozen model that the task stands on: the original or, where it is not available, its stand-in.

        For auditors, which treat both alike; methods use `original`.
        """
        return self._grant.model()

    @property
    def _base(self) -> nn.Module:
        """The same off the account: for the task's own operations, never handed out."""
        return self._grant.everything()[0]

    @property
    def recipe(self) -> Recipe:
        """How the original was trained."""
        self._grant.require_declared("recipe")
        if self._recipe is None:
            raise NeedsUnmet(missing("recipe"))
        return self._recipe

    @property
    def augmentation(self) -> str:
        """The recipe's augmentation, which draws of training batches follow; `none` without a recipe."""
        return "none" if self._recipe is None else self._recipe.augment

    @property
    def augmentations(self) -> tuple[str, ...]:
        """What `recipe.augment` may name besides none, and `draw` carries out."""
        return ()

    def ids(self, role: str) -> np.ndarray:
        """The ids of the records of a split, off the account; none where it does not exist."""
        split = self._grant.everything()[1].get(role)
        return NO_IDS if split is None else split.ids

    def used(self, role: str) -> bool:
        """Whether this split was taken from this view, or from one that was made of it."""
        return role in self._grant.taken

    def has(self, what: str) -> bool:
        """Whether the task has it and, for a method's view, whether it was granted. `forget.entity`: a column of a split."""
        if what == "weights":
            return "weights" in self.provides
        if what == "recipe":
            return self._recipe is not None and self._grant.allows("recipe")
        return self._grant.has(what)

    def copy_of_original(self) -> nn.Module:
        """A trainable copy of the original, sharing no storage with it. Methods declare `original` for it; the copy that a
        method works on comes from `loop.start()`."""
        self._grant.require_declared("original")
        return self._grant.copy()

    def build(self, seed: int) -> nn.Module:
        """A fresh model: what the recipe starts from. The same seed gives the same weights."""
        if self._build is not None:
            return seeded(self._build, seed)
        return reinitialised(self._base, seed)

    def unrepeatable(self, reason: str) -> Task:
        """Itself without the recipe: training again would not be exact (a pre-trained start that knows the forget set)."""
        self._recipe = None
        self.facts["no_retraining"] = reason
        return self

    def without_original(self) -> Task:
        """Itself, with the model as a stand-in for an original that is not available: audits of a single model."""
        self._grant = self._grant.without_original()
        return self

    def replaced(self, original: nn.Module | None = None, **splits: Split | None) -> Task:
        """The same task on another model (None: the same) and, where given, other splits: what shadows are unlearned on.

        Of a method's view: the same grants, and what is taken of it counts as taken by the method.
        """
        twin = copy.copy(self)
        twin._grant = self._grant.replaced(original, splits)
        twin._check()
        return twin

    def narrow(self) -> None:  # noqa: B027 (most families say nothing beside their data)
        """Say no more beside the data than forget and retain set do: what a request names that has only a part of them."""

    def granted(self, needs: Iterable[str], uses: Iterable[str] | None = None) -> Task:
        """A view that hands out only `needs`; a name that ends in '?' is optional. Operations: only `uses`; None: all.
        A view of a view has no more data than that had.

        Raises NeedsUnmet when something required is missing.
        """
        needs = set(needs)
        for need in self.lacks(needs):
            raise NeedsUnmet(missing(need))
        view = copy.copy(self)
        view._grant = self._grant.limited(need.rstrip("?") for need in needs)
        return view if uses is None else limited(view, uses)

    def lacks(self, needs: Iterable[str]) -> list[str]:
        """Those of `needs` that are required and not there."""
        return sorted(need for need in needs if not need.endswith("?") and not self.has(need))

    @property
    def fingerprint(self) -> dict[str, str]:
        """Fingerprints of the original's weights and of every split."""
        return self._grant.fingerprint

    def _without(self, operation: str, meaning: str) -> NeedsUnmet:
        return NeedsUnmet(f"a {self.family} task has no {meaning}, so {operation} cannot be computed. Choose a method that does "
                          f"not use {operation}: lethe methods --family {self.family}.")

    def _check(self) -> None:
        original, splits = self._grant.everything()
        check(original, splits, self.distinct)
        self.check_family(original, splits)
        known = ("none", *self.augmentations)
        if self.augmentation not in known:
            raise unknown_name(f"augmentation of this {self.family} task", self.augmentation, known,
                               f"Choose {' or '.join(known)} for recipe.augment; nothing was trained.")

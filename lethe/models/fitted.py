"""Models of any library behind a pair of functions: `fit(x, y, seed) -> model` and `predict(model, x)`; arrays are numpy's.

    def fit(x, y, seed):
        return RandomForestClassifier(random_state=seed).fit(x, y)

predict  of classes: probabilities [n, K], or class numbers [n]; of numbers: predictions [n] or [n, h]. Without it
         `model.predict_proba(x)` where there is one, else `model.predict(x)`. Classes that a model has not seen get 0.

A fitted model is kept as a pickle, `model.pkl`, and identified by its digest. A pickle can run code, so one that this process
has not made is loaded only with --allow-pickle; without it models are fitted again where others would come out of a cache.
"""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core import code, training
from lethe.core.config import config
from lethe.core.engine import Engine
from lethe.core.families.fitted import FittedClassifierTask, FittedRegressorTask, FittedTask
from lethe.core.files import refuse_pickle
from lethe.core.modules import filled
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split, concat, pixels
from lethe.core.task import Recipe
from lethe.data import transform
from lethe.data.context import Context
from lethe.errors import DataError, LetheError, ModelError, OutputShape, PickleRefused, RequestError, WrongColumn
from lethe.maths import losses
from lethe.models.opened import Opened, Sections

Kind = Literal["classes", "numbers"]
FILE = "model.pkl"
FLOOR = 1e-6   # probabilities below count as it: a forest's 0 would be an infinite loss


@config(name="model")
class FittedSource:
    """`model:` of a request. The function is the recipe: originals, references and shards are made by it."""

    fit: str             # path/to/file.py:fit, from (x, y, seed) to a fitted model of any library
    predict: str = ""    # path/to/file.py:predict, from (model, x) to answers; none: predict_proba, else predict
    saved: str = ""      # the original as a pickle or joblib file (needs --allow-pickle); none: fit makes it first


@dataclass
class _Pickles:
    """Which pickles may be loaded: those of this process, by their digests, and any where the user allowed it."""

    own: set[str] = field(default_factory=set)
    allowed: bool = False


PICKLES = _Pickles()


class Fitted(nn.Module):
    """A fitted model as a module: forward maps x [n, …] to what `predict` says, float32 [n, K].

    state  its pickle, bytes [m]; empty before it is fitted      digest  SHA-256 of the pickle, [32]
    """

    def __init__(self, predict: Callable[[Any, np.ndarray], Any] | None = None) -> None:
        super().__init__()
        self.predict, self.made = predict, None
        self.register_buffer("state", torch.zeros(0, dtype=torch.uint8), persistent=False)
        self.register_buffer("digest", torch.zeros(32, dtype=torch.uint8))

    def hold(self, made: Any) -> Fitted:
        """Itself, now with this fitted model."""
        try:
            data = pickle.dumps(made, protocol=5)
            pickle.loads(data)
        except Exception as error:   # libraries raise anything
            raise ModelError(f"the fitted {type(made).__name__} cannot be pickled ({type(error).__name__}: {error}), so it could "
                             "be neither kept nor delivered. Let fit return a model that can.") from error
        PICKLES.own.add(hashlib.sha256(data).hexdigest())
        return self._taken(made, data)

    def _taken(self, made: Any, data: bytes) -> Fitted:
        self.made = made
        self.state = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)
        self.digest = torch.frombuffer(bytearray(hashlib.sha256(data).digest()), dtype=torch.uint8)
        return self

    def load(self, data: bytes) -> Fitted:
        """Itself, now with the model of a pickle, which stays as it is; PickleRefused where it could run foreign code."""
        if data and hashlib.sha256(data).hexdigest() not in PICKLES.own and not PICKLES.allowed:
            raise PickleRefused("a fitted model is kept as a pickle, and this one was not made by this process, so it was not "
                                "loaded: it could run any code. Pass --allow-pickle, or use strategy: serial.")
        return self._taken(pickle.loads(data) if data else None, data)

    def put_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The fitted model that another one's tensors describe, see `load`."""
        self.load(tensors["state"].numpy().tobytes())

    def forward(self, x: Tensor) -> Tensor:
        """[n, …] -> [n, K]"""
        if self.made is None:
            raise ModelError("the model was not fitted yet, so it cannot answer.")
        try:
            found = (self.predict or answers)(self.made, x.detach().cpu().numpy())
        except LetheError:
            raise
        except Exception as error:
            raise ModelError(f"predict failed on inputs {list(x.shape)} ({type(error).__name__}: {error}), so nothing can be "
                             "asked. Correct model.predict.") from error
        return torch.as_tensor(np.asarray(found)).to(x.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Fitted:
        """A copy with tensors of its own; the fitted model is shared, since nothing changes it."""
        twin = type(self)(self.predict)
        twin.made, twin.training = self.made, self.training
        twin.state, twin.digest = self.state.clone(), self.digest.clone()
        return twin

    def extra_repr(self) -> str:
        return "" if self.predict is None else f"predict={code.identity(self.predict)}"


class Mean(nn.Module):
    """The mean of several fitted models' answers (probabilities, not their logarithms); `classes`: K, 0 for numbers."""

    def __init__(self, models: Sequence[nn.Module], classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.members = nn.ModuleList([copy.deepcopy(model) for model in models])

    def put_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        for i, member in enumerate(self.members):
            assert isinstance(member, Fitted)
            member.put_tensors({key: tensors[f"members.{i}.{key}"] for key in ("state", "digest")})

    def forward(self, x: Tensor) -> Tensor:
        """[n, …] -> [n, K]"""
        return torch.stack([widened(member(x), self.classes).double() for member in self.members]).mean(0)


def answers(model: Any, x: np.ndarray) -> np.ndarray:
    """Probabilities by class number where the model has them, else its predictions."""
    if not hasattr(model, "predict_proba"):
        return np.asarray(model.predict(x))
    p = np.asarray(model.predict_proba(x))
    seen = np.asarray(getattr(model, "classes_", np.arange(p.shape[1])))
    if np.array_equal(seen, np.arange(p.shape[1])):
        return p
    whole = np.zeros((len(p), int(seen.max()) + 1))
    whole[:, seen.astype(int)] = p
    return whole


def widened(p: Tensor, count: int) -> Tensor:
    """Probabilities of K = `count` classes: class numbers [n] become certain answers, missing classes get 0.  -> [n, K]

    Numbers (count 0) stay as they are.
    """
    if not count:
        return p
    if p.dim() == 1:
        return nn.functional.one_hot(p.long().clamp(0, count - 1), count).double()
    return nn.functional.pad(p, (0, count - p.shape[1])) if p.shape[1] < count else p


class _Fitted(FittedTask):
    """What both families share: `fit` instead of a loss, and the exported files."""

    _width = 0

    def train(self, model: nn.Module, split: Split, recipe: Recipe, loop: Engine) -> nn.Module:
        """Fit `model` on `split`, in place; returns it."""
        assert isinstance(model, Fitted)
        return model.hold(self._fit(recipe, split, derive(loop.seed, "own training") % 2**31))

    def fitted(self, split: Split, seed: int) -> nn.Module:
        """A model that `fit` makes of `split` with this seed."""
        assert self._build is not None
        made = self._build(seed)
        assert isinstance(made, Fitted)
        return made.hold(self._fit(self.recipe, split, seed))

    def _fit(self, recipe: Recipe, split: Split, seed: int) -> Any:
        fit = training.function(recipe.code, "model.fit")
        with training.seeded(seed):
            try:
                made = fit(pixels(split.columns["x"]).numpy(), split.columns["y"].numpy(), seed)
            except LetheError:
                raise
            except Exception as error:
                raise ModelError(f"model.fit = {recipe.code!r} failed on {len(split)} records of {split.name} "
                                 f"({type(error).__name__}: {error}), so no model was fitted. Correct it.") from error
        if made is None:
            raise ModelError(f"model.fit = {recipe.code!r} returned nothing, so there is no model. Return the fitted model.")
        return made

    def keeps(self) -> bool:
        """Only with --allow-pickle: what is kept is a pickle."""
        return PICKLES.allowed

    def joined(self, models: Sequence[nn.Module]) -> nn.Module:
        return Mean(models, self._width if "labels" in self.provides else 0)

    def restored(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
        return filled(model, tensors)

    def save_model(self, model: nn.Module, folder: Path) -> None:
        """model.pkl (model-0.pkl, … where answers are the mean of several), their digests as safetensors, and a note."""
        from safetensors.torch import save_model

        members = [one for one in model.modules() if isinstance(one, Fitted)]
        for name, one in zip(_files(len(members) if isinstance(model, Mean) else 0), members, strict=True):
            (folder / name).write_bytes(one.state.numpy().tobytes())
        save_model(model.cpu(), str(folder / "model.safetensors"))
        about = {"family": self.family, "outputs": self._width, "members": len(members) if isinstance(model, Mean) else 0,
                 "classes": model.classes if isinstance(model, Mean) else 0, **transform.prepared(self.facts)}
        (folder / "lethe.json").write_text(json.dumps(about) + "\n", encoding="utf-8")

    def asked(self, original: nn.Module, splits: Mapping[str, Split]) -> Tensor | None:
        """What the original answers to the first examples; None when it is not fitted yet."""
        for name, split in splits.items():
            for column in ("x", "y"):
                if column not in split.columns:
                    raise WrongColumn(f"{name} has no column {column!r}, so nothing can be fitted. Columns: "
                                      f"{', '.join(split.columns)}; name them x and y.")
        if isinstance(original, Fitted) and original.made is None:
            return None
        some = next(iter(splits.values())).batch(range(min(2, len(next(iter(splits.values()))))))
        found: Tensor = original(pixels(some.x))
        if len(found) != len(some) or found.dim() > 2 or not torch.isfinite(found.double()).all():
            raise OutputShape(f"predict returns {list(found.shape)} for {len(some)} examples, or values that are not finite, so "
                              "they cannot be compared. Return one row per example: [n, K] probabilities or [n] numbers.")
        return found


class FittedClassifier(_Fitted, FittedClassifierTask):
    """Columns: `x` [n, …] and `y` [n] class numbers."""

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """log p, p at least FLOOR.  -> [n, K]"""
        p = widened(model(pixels(batch.x)), self._width).double()
        return p.clamp(min=FLOOR).log().float()

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """T²·KL(p ‖ q).  -> [n]"""
        return losses.kl(p, q, temperature)

    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """nll, score (correct), signal and margin (logit-scaled confidence), logits (log p) [n, K]."""
        logits = self.outputs(model, batch)
        margin = losses.margin(logits, batch.y)
        return {"nll": losses.cross_entropy(logits, batch.y), "score": (logits.argmax(-1) == batch.y).float(),
                "signal": margin.float(), "margin": margin, "logits": logits, "y": batch.y}

    def check_family(self, original: nn.Module, splits: Mapping[str, Split]) -> None:
        found = self.asked(original, splits)
        for name, split in splits.items():
            y = split.columns["y"]
            if y.dtype != torch.int64 or y.dim() != 1 or int(y.min()) < 0:
                raise DataError(f"y of {name!r} is {str(y.dtype).removeprefix('torch.')} {list(y.shape)}, but class numbers are "
                                "int64 [n] from 0, so nothing was fitted. For real numbers use family: fitted_regressor.")
        known = max(int(split.columns["y"].max()) for split in splits.values()) + 1
        self._width = max(known, self._width, found.shape[1] if found is not None and found.dim() == 2 else 0)
        if found is not None and found.dim() == 2 and not 0 <= float(found.min()) <= float(found.max()) <= 1.0001:   # rounding
            raise OutputShape(f"predict returns values from {float(found.min()):.3g} to {float(found.max()):.3g}, but "
                              "probabilities lie in 0 to 1, so they cannot be compared. Return predict_proba(x).")


class FittedRegressor(_Fitted, FittedRegressorTask):
    """Columns: `x` [n, …] and `y` float, [n] or [n, h]."""

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Predictions.  -> [n, h]"""
        found: Tensor = model(pixels(batch.x)).float()
        return found.reshape(len(found), -1)

    def divergence(self, p: Tensor, q: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """Mean squared difference of predictions.  -> [n]"""
        return losses.squared_distance(p, q)

    def observe(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """nll (squared error), score exp(−ē/s), signal −log(1 + ē/s), s the deviation of the training targets; prediction, y."""
        prediction, y = self.outputs(model, batch), batch.y.reshape(len(batch), -1)
        error = (prediction - y).abs().mean(1) / self._unit
        return {"nll": (prediction - y).square().mean(1), "score": torch.exp(-error), "signal": -torch.log1p(error),
                "prediction": prediction, "y": y}

    def check_family(self, original: nn.Module, splits: Mapping[str, Split]) -> None:
        for name, split in splits.items():
            if "y" in split.columns and not split.columns["y"].is_floating_point():
                raise DataError(f"y of {name!r} holds whole numbers, but targets of a regression are real; nothing was fitted. "
                                "Set data.target: number, or use family: fitted_classifier.")
        found = self.asked(original, splits)
        y = torch.cat([splits[key].columns["y"] for key in ("forget", "retain") if key in splits]).double()
        self._unit = float(y.std(correction=0)) or 1.0
        self._width = 1 if y.dim() == 1 else y.shape[1]
        if found is not None and found.reshape(len(found), -1).shape[1] != self._width:
            raise OutputShape(f"predict returns {list(found.shape[1:])} numbers per example and y has {self._width}, so they "
                              "cannot be compared. Return [n] or [n, h].")


def _files(members: int) -> list[str]:
    """Names of the pickles of a model; members 0: a single one."""
    return [f"model-{k}.pkl" for k in range(members)] or [FILE]


def loaded(path: Path, predict: Callable[[Any, np.ndarray], Any] | None, allowed: bool) -> nn.Module:
    """The model of a pickle or joblib file, or of a folder that `save_model` wrote; PickleRefused unless allowed."""
    if not path.exists():
        raise ModelError(f"{path} does not exist, so there is no model. Correct model.saved.")
    refuse_pickle(path, "Leave model.saved out, so that model.fit makes the original", allowed)
    about = json.loads((path / "lethe.json").read_text(encoding="utf-8")) if path.is_dir() else {"members": 0}
    try:
        if path.suffix == ".joblib":
            import joblib

            return Fitted(predict).hold(joblib.load(path))
        files = [path / name for name in _files(about["members"])] if path.is_dir() else [path]
        made = [Fitted(predict).load(file.read_bytes()) for file in files]
    except Exception as error:   # a pickle runs code, which raises anything
        raise ModelError(f"{path} cannot be loaded ({type(error).__name__}: {error}), so there is no model. Save it "
                         "again.") from error
    return Mean(made, int(about["classes"])) if about["members"] else made[0]


def recipe_of(fit: training.Fit, given: Recipe | None) -> Recipe:
    """The recipe that `fit` is; RequestError where the request has another one beside it."""
    if given is not None and given != Recipe():
        raise RequestError("model.fit is how the model is trained, so recipe has no meaning beside it; nothing was started. "
                           "Leave recipe out.")
    training.function(fit, "model.fit")
    return Recipe(code=fit)



T = TypeVar("T", bound=_Fitted)


def in_memory(task: type[T], fit: Callable[..., Any], predict: Callable[..., Any] | None, model: Any, seed: int, name: str,
              prepare: Callable[[Any, str], Split], train: Any, forget: Any, **others: Any) -> T:
    """A task of data in memory; the original is `model`, or what `fit` makes of all training data."""
    from lethe.models.heads import divided

    splits, recipe = divided(train, forget, prepare, **others), recipe_of(fit, None)
    start = Fitted(predict)
    if model is not None:
        return task(start.hold(model), splits, recipe, lambda seed: Fitted(predict), name)
    whole = concat([splits["retain"], splits["forget"]], "train")
    first = task(start, splits, recipe, lambda seed: Fitted(predict), name)
    return task(first.fitted(whole, seed), splits, recipe, lambda seed: Fitted(predict), name)


def opened(task: type[Any], source: FittedSource, sections: Sections, context: Context) -> Opened:
    """Read `data` and the model of `source`."""
    from lethe.data.load import load

    PICKLES.allowed = context.allow_pickle
    predict = code.named(source.predict, "model.predict") if source.predict else None
    splits, recipe = load(sections.data, context), recipe_of(source.fit, sections.recipe)
    facts = transform.facts(sections.data)

    def fresh(seed: int) -> nn.Module:
        return Fitted(predict)

    def read(path: Path) -> nn.Module:
        return loaded(path, predict, context.allow_pickle)

    return Opened(splits, lambda model, parts, name: task(model, parts, recipe, fresh, name, dict(facts)), read,
                  read(Path(source.saved)) if source.saved else None, recipe, fresh)

"""Training by code of the user's own: `recipe: {code: train.py:fit}`, or `lethe.Recipe(code=fit)`.

    def fit(model, split, seed, device="cpu"):
        for x, y in DataLoader(split.dataset(), batch_size=64, shuffle=True): …

model   a fresh model on its device, in training mode: train it in place, or return one with the same tensors
split   the records to learn from, and no others: `split.dataset()` has (x, y) as the model gets them, `split.columns` tensors
seed    of this training; torch, numpy and random are seeded with it before the call
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from lethe.core import code
from lethe.core.config import plain
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.errors import LetheError, ModelError, RequestError

Fit = str | Callable[..., Any]   # path/to/file.py:fit, or the function itself
TRUSTED = "The training code of the request reads no other records than it is given."   # what exactness rests on


def function(fit: Fit, option: str = "recipe.code") -> Callable[..., Any]:
    """The function behind `fit`; RequestError when it cannot be called with (model, split, seed)."""
    found = code.named(fit, option) if isinstance(fit, str) else fit
    try:
        inspect.signature(found).bind(None, None, 0, **extras(found))
    except TypeError as error:
        raise RequestError(f"{option} = {fit!r} cannot be called with (model, split, seed): {error}; nothing was started. Define "
                           "def fit(model, split, seed, device=\"cpu\").") from None
    except ValueError:   # a function without a signature, written in C
        pass
    return found


def extras(found: Callable[..., Any], device: str = "cpu") -> dict[str, str]:
    """What a function takes besides the three: its device, if it asks for it."""
    return {"device": device} if "device" in inspect.signature(found).parameters else {}


def identity(recipe: Any) -> Any:
    """What determines a training, as plain data: the options, and the text of its code."""
    own, options = getattr(recipe, "code", ""), plain(recipe)
    if not options.get("lora", 0):   # as before there was this option: what was trained then stays known
        options.pop("lora", None)
    return [options, code.identity(function(own))] if own else options


def train(fit: Fit, model: nn.Module, split: Split, seed: int, device: str) -> nn.Module:
    """`model` after the user's training on `split`."""
    own = function(fit)
    number = derive(seed, "own training") % 2**31   # numpy takes no larger ones
    model.train()
    with seeded(number):
        try:
            found = own(model, split, number, **extras(own, device))
        except LetheError:
            raise
        except Exception as error:
            raise ModelError(f"recipe.code = {fit!r} failed on {len(split)} records of {split.name} ({type(error).__name__}: "
                             f"{error}), so no model was trained. Correct it.") from error
    if found is None or found is model:
        return model.to(device)
    try:
        model.load_state_dict(found.state_dict())
    except (AttributeError, RuntimeError) as error:
        raise ModelError(f"recipe.code = {fit!r} returned a {type(found).__name__} that is not the model it was given "
                         f"({str(error).splitlines()[0]}), so nothing was trained. Train the model in place, and return it or "
                         "nothing.") from None
    return model.to(device)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch, numpy and random at this seed; afterwards as they were."""
    kept, other = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(kept)
            np.random.set_state(other)

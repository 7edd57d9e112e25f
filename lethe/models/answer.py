"""What a model returns, and which part of it are its outputs: a tensor, an entry of a dictionary, a place in a tuple, `.logits`.

    picked(model(x))                      the tensor itself, `.logits`, the entry "logits", or the only tensor that there is
    picked(model(x), "scores")            the entry or attribute of this name
    picked(model(x), 1)                   the second of a tuple
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lethe.errors import OutputShape, nearest

AUTO = "auto"
Place = str | int                              # key or attribute; position in a tuple; `auto`
Returns = Literal["logits", "probabilities"]   # what the numbers are


def picked(found: Any, place: Place = AUTO) -> Tensor:
    """The outputs in what a model returned. OutputShape where it is not clear which they are."""
    if isinstance(found, Tensor):
        return found
    named = dict(_parts(found))
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if place != AUTO:
        wanted = tensors.get(place)
        if wanted is None:
            raise OutputShape(f"the model returns {_described(found, tensors)} and no tensor {place!r}"
                              f"{nearest(str(place), map(str, tensors))}, so there are no outputs to work with. Correct "
                              "model.output.")
        return wanted
    if "logits" in tensors:
        return tensors["logits"]
    if len(set(map(id, tensors.values()))) == 1:
        return next(iter(tensors.values()))
    raise OutputShape(f"the model returns {_described(found, tensors)}, so it is not clear which of them are its outputs. Set "
                      "model.output (from Python output=) to the key, the attribute or the position.")


def logits_of(probabilities: Tensor) -> Tensor:
    """Logits of probabilities [n, K]: their logarithm; of those of one class alone [n] or [n, 1] the log-odds."""
    p = probabilities.float()
    least = torch.finfo(torch.float32).tiny
    if p.dim() < 2 or p.shape[1] == 1:
        return p.clamp(min=least).log() - (1 - p).clamp(min=torch.finfo(torch.float32).eps / 2).log()
    return p.clamp(min=least).log()


def looks_like(outputs: Tensor) -> Returns:
    """Whether outputs [n, K] can only be probabilities: all in [0, 1] and, for K > 1, every row adds up to 1.

    A single output per example is called probabilities when all of at least 20 lie in [0, 1]: logits that do would claim nothing.
    """
    z = outputs.detach().float()
    if not len(z) or not bool(((z >= 0) & (z <= 1)).all()):
        return "logits"
    if z.dim() == 2 and z.shape[1] > 1:
        return "probabilities" if bool((z.sum(1) - 1).abs().max() < 1e-3) else "logits"
    return "probabilities" if len(z) >= 20 else "logits"


def _parts(found: Any) -> Iterator[tuple[Place, Any]]:
    """What can be named in it: entries, positions, attributes that hold tensors."""
    if isinstance(found, Mapping):
        yield from found.items()
        return
    if isinstance(found, (tuple, list)):
        yield from enumerate(found)
    names = getattr(found, "_fields", None) or vars(found) if hasattr(found, "__dict__") or hasattr(found, "_fields") else ()
    for name in names:
        if not name.startswith("_"):
            yield name, getattr(found, name)


def _described(found: Any, tensors: Mapping[Place, Tensor]) -> str:
    shown = ", ".join(f"{key!r} {list(value.shape)}" for key, value in tensors.items()) or "no tensor"
    return f"a {type(found).__name__} with {shown}"

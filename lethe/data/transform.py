"""What is done to inputs once, at the door, because the model was trained on it: `data.transform`, `data.mean`, `data.std`.

    x' = (f(x) − mean) / std        x: inputs as a model would get them, pictures as floats in [0, 1]

mean and std are one number, or one for each channel of pictures [n, C, H, W] or column of a table [n, d]. The exported model
expects inputs to which the same was done: `lethe.json` beside its weights says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from lethe.core import code
from lethe.core.config import Positive, config
from lethe.core.passes import plain
from lethe.core.split import Split, pixels
from lethe.core.store import with_columns
from lethe.data.arrays import empty, x_tensor
from lethe.errors import DataError, LetheError

BATCH = 256   # examples that are transformed together


@config(name="data")
class Transform:
    """What is done to the inputs of every part."""

    transform: str = ""                              # path/to/file.py:f, from a batch [b, …] of inputs to one of new inputs
    mean: float | tuple[float, ...] = ()             # subtracted after it: a number, or one per channel or column
    std: Positive | tuple[Positive, ...] = ()        # divided by: a number, or one per channel or column


def options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of data that stand here."""
    return {f.name: given[f.name] for f in fields(Transform) if f.name in given}


def facts(given: Mapping[str, Any]) -> dict[str, Any]:
    """What inputs of the model went through, for results and for whoever uses the exported model; {} for nothing."""
    wanted = Transform(**options(given))
    found = {f.name: getattr(wanted, f.name) for f in fields(wanted) if getattr(wanted, f.name) != f.default}
    return {"inputs": {**found, **_identity(wanted)}} if found else {}


def prepared(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Of the facts of a task {"inputs": …}, which must also be done to inputs of the exported model; {} for nothing."""
    return {"inputs": facts["inputs"]} if "inputs" in facts else {}


def transformed(splits: Mapping[str, Split], wanted: Transform) -> dict[str, Split]:
    """The splits with other inputs; all else is as it was."""
    if wanted == Transform():
        return dict(splits)
    own = code.named(wanted.transform, "data.transform") if wanted.transform else None
    done = {}
    for name, split in splits.items():
        split.require_one_input("data.transform (mean, std)")
        if own is not None:
            _require_repeatable(own, pixels(split.batch(range(min(4, len(split)))).x), name, wanted.transform)
        found: Tensor | None = None
        for batch in plain(split, BATCH):
            x = scaled(_called(own, pixels(batch.x), name, wanted.transform), wanted, name)
            if found is None:
                found = empty((len(split), *x.shape[1:]), x.dtype)
            found[batch.index] = x
        assert found is not None, "a split has examples"
        done[name] = replace(split, columns=with_columns(split.columns, {"x": found}))
    return done


def scaled(x: Tensor, wanted: Transform, name: str) -> Tensor:
    """(x − mean)/std along dimension 1.  [b, …] -> same"""
    if wanted.mean == () == wanted.std:
        return x
    if not x.is_floating_point():
        raise DataError(f"inputs of {name} are whole numbers (tokens), which have no mean, so nothing was read. Leave data.mean "
                        "and data.std out.")
    parts = []
    for option, usual in (("mean", 0.0), ("std", 1.0)):
        given = getattr(wanted, option)
        values = torch.tensor(given if given != () else usual, dtype=x.dtype).reshape(-1)
        if len(values) not in (1, x.shape[1] if x.dim() > 1 else 1):
            raise DataError(f"data.{option} has {len(values)} numbers and inputs of {name} are {list(x.shape[1:])}, so they do "
                            f"not match; nothing was read. Give one number, or {x.shape[1] if x.dim() > 1 else 1}.")
        parts.append(values.view(-1, *[1] * (x.dim() - 2)) if x.dim() > 1 else values)
    return (x - parts[0]) / parts[1]


def _called(own: Callable[..., Any] | None, x: Tensor, name: str, where: str) -> Tensor:
    if own is None:
        return x
    try:
        found = own(x.clone())   # what it does in place stays its own
    except LetheError:
        raise
    except Exception as error:
        raise DataError(f"data.transform = {where!r} failed on inputs {list(x.shape)} of {name} ({type(error).__name__}: "
                        f"{error}), so nothing was read. Correct it.") from error
    made = x_tensor(found, name)
    if len(made) != len(x):
        raise DataError(f"data.transform = {where!r} made {len(made)} inputs out of {len(x)} of {name}, so they belong to no "
                        "example; nothing was read. It receives a batch [b, …] and returns one of the same b.")
    return made


def _require_repeatable(own: Callable[..., Any], x: Tensor, name: str, where: str) -> None:
    """DataError unless an example becomes the same again, alone and beside others."""
    together, again = _called(own, x, name, where), _called(own, x, name, where)
    alone = torch.cat([_called(own, one, name, where) for one in x.split(1)])
    if not torch.equal(together, again) or alone.shape != together.shape or not torch.allclose(alone, together, 1e-4, 1e-5):
        raise DataError(f"data.transform = {where!r} makes something else of an example of {name} each time, or depends on what "
                        "is beside it, so what is audited would not be what was trained. Take random steps out (they belong to "
                        "recipe.augment), and statistics of the batch.")


def _identity(wanted: Transform) -> dict[str, str]:
    return {"code": code.identity(code.named(wanted.transform, "data.transform"))} if wanted.transform else {}

"""Data in memory as a `Split`: (x, y), a mapping of columns, or any torch `Dataset` with a length."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lethe.core.split import NO_IDS, PIECE, SEVERAL, Split, input_columns
from lethe.errors import DataError, EmptySplit, WrongColumn, nearest

LARGE = 2 * 1024**3      # bytes of a column above which it lies in a file instead of memory
SCRATCH: Path | None = None   # folder of these files; None: the system's


def as_split(data: Any, name: str = "train", x: str | Sequence[str] = "x", y: str = "y") -> Split:
    """A split named `name` of the user's data.

    data   a Split; (x, y); a mapping with the columns x, y, optionally `ids`, and more (kept for selection); or a torch
           Dataset whose items are (x, y) or mappings. A Dataset is read once, so its transform must not be random. Of a model
           with several inputs, x is a mapping of them
    x, y   names of the two columns in a mapping; several of x: the inputs of such a model
    """
    if isinstance(data, Split):
        return data if data.name == name else data.subset(np.arange(len(data)), name)
    if isinstance(data, Mapping):
        return from_columns(dict(data), name, x, y)
    if isinstance(data, (tuple, list)) and len(data) == 2 and not (
            isinstance(data[0], tuple) or (isinstance(data[0], Mapping) and isinstance(data[1], Mapping))):
        return Split({**inputs_of(data[0], name), "y": y_tensor(data[1], name)}, name)
    if isinstance(data, torch.utils.data.TensorDataset) and len(data.tensors) == 2:
        return Split({"x": x_tensor(data.tensors[0], name), "y": y_tensor(data.tensors[1], name)}, name)
    if isinstance(data, torch.utils.data.DataLoader):
        raise DataError(f"{name} is a DataLoader, whose order may change, so examples could not be named. Pass "
                        "loader.dataset.")
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _from_items(data, name, x, y)
    raise DataError(f"{name} is a {type(data).__name__}, from which examples cannot be read one by one. Pass (x, y), a "
                    "mapping of columns, or a Dataset with __len__ and __getitem__.")


def from_columns(columns: dict[str, Any], name: str, x: str | Sequence[str] = "x", y: str = "y") -> Split:
    """A split from named columns; what is neither x, y nor `ids` can be selected by. y='': there are no targets"""
    for wanted in filter(None, [x, y] if isinstance(x, str) else [*x, y]):
        if wanted not in columns:
            raise WrongColumn(f"{name} has no column {wanted!r}{nearest(wanted, columns)}, so inputs and targets "
                              f"cannot be identified. Columns: {', '.join(map(str, columns))}; name them with x= and y=.")
    given = columns.pop(x) if isinstance(x, str) else {one: columns.pop(one) for one in x}
    inputs, targets = inputs_of(given, name), {"y": y_tensor(columns.pop(y), name)} if y else {}
    ids = columns.pop("ids", None)
    meta = {str(key): value.tolist() if isinstance(value, (np.ndarray, Tensor)) else list(value)
            for key, value in columns.items()}
    own = NO_IDS if ids is None else np.asarray(ids).astype(str)
    return Split({**inputs, **targets}, name, own, meta)


def inputs_of(values: Any, name: str) -> dict[str, Tensor]:
    """The input columns of x: itself, or of a mapping a column for each of its inputs."""
    if not isinstance(values, Mapping):
        return {"x": x_tensor(values, name)}
    if not values:
        raise DataError(f"x of {name} is an empty mapping, so there are no inputs. Provide at least one.")
    return {f"{SEVERAL}{key}": x_tensor(value, name, str(key)) for key, value in values.items()}


def x_tensor(values: Any, name: str, what: str = "x") -> Tensor:
    """Inputs: bytes stay bytes (images), real numbers become float32, whole numbers int64.  -> [n, …]"""
    tensor = _tensor(values, f"{what} of {name}")
    if tensor.dim() == 0:
        raise DataError(f"{what} of {name} is a single number, so there are no examples. Pass an array [n, …].")
    if tensor.is_floating_point() or tensor.dtype == torch.bool:
        return converted(tensor, torch.float32)
    return converted(tensor, torch.uint8 if tensor.dtype == torch.uint8 else torch.int64)


def converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers as this type, contiguous; what is large piece by piece into a file, so that it is never in memory."""
    size = tensor.numel() * torch.empty((), dtype=dtype).element_size()
    if (tensor.dtype == dtype and tensor.is_contiguous()) or size <= LARGE:
        return tensor.to(dtype).contiguous()
    found = empty(tuple(tensor.shape), dtype)
    step = max(1, len(tensor) * PIECE // size)
    for start in range(0, len(tensor), step):
        found[start : start + step] = tensor[start : start + step]
    return found


def y_tensor(values: Any, name: str) -> Tensor:
    """Targets: whole numbers are classes [n] or labels 0, 1 [n, L], real numbers are regression targets [n, …]."""
    tensor = _tensor(values, f"y of {name}")
    if tensor.is_floating_point():
        return tensor.float().contiguous()
    if tensor.dim() not in (1, 2):
        raise DataError(f"y of {name} has shape {tuple(tensor.shape)}, but class numbers are [n] and several labels per example "
                        "[n, L], so labels cannot be read. Bring y to one of these shapes.")
    return tensor.long().contiguous()


def _tensor(values: Any, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        array = np.asarray(values)
    except ValueError:
        raise DataError(f"{what} has rows of different shapes, so they do not fit into one tensor. Bring them to one "
                        "shape.") from None
    if array.dtype.kind not in "iufb":
        some = array.reshape(-1)[0] if array.size else ""
        raise DataError(f"{what} holds {array.dtype} values such as {str(some)[:40]!r}, which are not numbers. Pass "
                        "numbers: values.astype(float) of numerals; np.unique(labels, return_inverse=True)[1] of class names.")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:   # torch has no wider numbers
        with np.errstate(invalid="ignore", over="ignore"):   # what becomes NaN is found by whoever needs finite numbers
            array = array.astype(np.float64)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.require(native, requirements=["C", "W"]))   # a copy of what is read-only


def _from_items(data: Any, name: str, x: str | Sequence[str], y: str) -> Split:
    if not len(data):
        raise EmptySplit(f"the {name} set is empty, so there is nothing to work on. Provide a data set with examples.")
    first = data[0]
    if isinstance(first, Mapping):
        found = _read(data, name, list(first), lambda item: [item[key] for key in first])
        return from_columns(found, name, x, y)
    if not isinstance(first, Sequence) or len(first) != 2:
        raise DataError(f"items of {name} are {type(first).__name__}, so inputs and targets cannot be identified. Let the "
                        "Dataset return (x, y) or a mapping.")
    several = list(first[0]) if isinstance(first[0], Mapping) else []

    def values(item: Any) -> list[Any]:
        return [*(item[0][key] for key in several), item[1]] if several else list(item)

    found = _read(data, name, [*([f"{SEVERAL}{key}" for key in several] or ["x"]), "y"], values)
    inputs = {key: x_tensor(found[key], name, key) for key in input_columns(found)}
    split = Split({**inputs, "y": y_tensor(found["y"], name)}, name)
    again = dict(zip(split.inputs, values(data[0]), strict=False))   # y stands last
    if not all(torch.equal(x_tensor(_joined([again[key]], name), name, key), split.batch([0]).columns[key]) for key in again):
        raise DataError(f"example 0 of {name} is different each time it is read, so what is audited would not be what "
                        "was trained. Pass the Dataset without random transforms, and name the augmentation in the "
                        "recipe.")
    return split


def _read(data: Any, name: str, keys: Sequence[str], values: Callable[[Any], Sequence[Any]]) -> dict[str, Any]:
    """The columns of a Dataset, read item by item into one tensor each, so that nothing is held twice.

    values  an item's values in the order of `keys`
    """
    kept: dict[str, Any] = {}
    for place in range(len(data)):
        for key, value in zip(keys, values(data[place]), strict=True):
            if not isinstance(value, (Tensor, np.ndarray)) or np.ndim(value) == 0:
                kept.setdefault(key, []).append(value)
                continue
            one = torch.as_tensor(value)
            one = one.float() if one.is_floating_point() else one
            if key not in kept:
                kept[key] = empty((len(data), *one.shape), one.dtype)
            if not isinstance(kept[key], Tensor) or kept[key].shape[1:] != one.shape:
                before = tuple(kept[key].shape[1:]) if isinstance(kept[key], Tensor) else "text"
                raise DataError(f"examples of {name} have different shapes, such as {before} and {tuple(one.shape)}, so they do "
                                "not fit into one tensor. Resize or pad them in the Dataset.")
            kept[key][place] = one
    return {key: _joined(value, name) if isinstance(value, list) else value for key, value in kept.items()}


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Room for a column: in memory or, above LARGE bytes, in a file that has no name and goes with the process.

    What is written there leaves the memory whenever the system needs it.
    """
    size = torch.empty((), dtype=dtype).element_size() * int(np.prod(shape))
    if size <= LARGE:
        return torch.empty(shape, dtype=dtype)
    with TemporaryFile(dir=SCRATCH) as handle:
        handle.truncate(size)
        held = mmap.mmap(handle.fileno(), size)
    return torch.frombuffer(held, dtype=dtype).view(shape)


def _joined(values: list[Any], name: str) -> Any:
    """The values of one column as a tensor, or unchanged when they are text."""
    first = values[0]
    if hasattr(first, "getbands"):   # PIL
        from lethe.data.pictures import image_of, stacked

        names = [f"image {i} of {name}" for i in range(len(values))]
        return stacked([partial(image_of, *one) for one in zip(values, names, strict=True)], names, None, "auto")
    if not isinstance(first, (Tensor, np.ndarray)):
        return values
    if len({tuple(v.shape) for v in values}) > 1:
        shapes = sorted({tuple(v.shape) for v in values})
        raise DataError(f"examples of {name} have different shapes, such as {shapes[0]} and {shapes[-1]}, so they do "
                        "not fit into one tensor. Resize or pad them in the Dataset.")
    return torch.stack([torch.as_tensor(v) for v in values])

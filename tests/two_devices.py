"""A pretended accelerator: a device whose tensors compute on the CPU and refuse to meet the CPU's. `with Pretended():`

What lies there is a `Far`: a tensor that says so and holds its values in `near`. Every operation is seen, also those of
backward passes, and raises `TwoDevices` where CUDA would: operands on both devices (but for single values in pointwise
operations, positions by which a tensor there is indexed, and copies), and draws on one device by a generator of the other. It
also refuses draws on the device itself, dropout aside: one seed would mean other numbers there than on the CPU.
Values are those of the CPU to the bit. Importing this gives torch a device for the rest of the process, so tests do it in a
process of their own, before the first backward pass: it is then that torch counts devices.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any, Literal, NamedTuple, NoReturn
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, get_alias_info, return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretended"
_setup_privateuseone_for_python_backend(NAME)
THERE = torch.device(NAME, 0)
torch.__future__.set_swap_module_params_on_conversion(True)   # parameters stay what they are when they move, as on CUDA
COPIES = {"aten::copy_", "aten::_to_copy", "aten::_copy_from"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index",
           "aten::_unsafe_index_put"}
FILLED = {"aten::masked_fill", "aten::masked_fill_", "aten::index_fill", "aten::index_fill_", "aten::fill", "aten::fill_"}


DRAWS = {"aten::normal_", "aten::uniform_", "aten::random_", "aten::exponential_", "aten::normal", "aten::multinomial",
         "aten::randn", "aten::randn_like", "aten::rand", "aten::rand_like", "aten::randint", "aten::randint_like",
         "aten::randperm"}


class TwoDevices(RuntimeError):
    """Tensors of two devices in one operation."""


class Far(Tensor):
    """A tensor on the pretended device."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        made: Far = torch.Tensor._make_wrapper_subclass(cls, near.size(), strides=near.stride(), dtype=near.dtype, device=THERE,
                                                        storage_offset=near.storage_offset(), layout=near.layout)
        made.near = near
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:   # so that modules keep their parameters when they move
        return ["near"], None

    @staticmethod
    def __tensor_unflatten__(inner: Mapping[str, Tensor], context: None, size: object, stride: object) -> Far:
        return Far(inner["near"])

    def __repr__(self) -> str:   # type: ignore[override]
        return f"Far({self.near!r})"

    def tolist(self) -> Any:
        return self.near.tolist()

    def numpy(self, *, force: bool = False) -> NoReturn:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory")

    def __getitem__(self, place: Any) -> Tensor:   # type: ignore[override]
        return super().__getitem__(_listed(place))

    def __setitem__(self, place: Any, value: Any) -> None:   # type: ignore[override]
        super().__setitem__(_listed(place), value)

    def __array__(self, dtype: Any = None) -> NoReturn:
        self.numpy()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(func, args, kwargs or {})


class Pretended(TorchDispatchMode):
    """Sees operations whose operands are all on the CPU: those that make something on the device."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False   # nothing is compiled here, and the guard costs as much as a small operation

    def __enter__(self) -> Pretended:
        self.patches = ExitStack()
        for name in ("tensor", "as_tensor"):   # of lists: torch would fill memory of the device before any mode sees it
            self.patches.enter_context(patch.object(torch, name, _made_here_first(getattr(torch, name))))
        swap = torch.utils.swap_tensors
        self.patches.enter_context(patch.object(torch.utils, "swap_tensors",   # what stays where it is is not swapped on CUDA
                                                lambda a, b: swap(a, b) if a.device != b.device else None))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.patches.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(func, args, kwargs or {})


def _made_here_first(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*args: Any, device: torch.device | str | None = None, **kwargs: Any) -> Tensor:
        return make(*args, **kwargs) if device is None else make(*args, **kwargs).to(device)

    return made


class Known(NamedTuple):
    """What the schema of an operation says."""

    name: str
    draws: bool   # it may take a generator
    alias: Literal["", "first", "other"]   # its result is new, is its first operand, or shares an operand in another way


@cache
def known(func: Any) -> Known:
    schema = func._schema
    shares = any(one.alias_info is not None for one in (*schema.arguments, *schema.returns))
    first = shares and len(schema.returns) == 1 and schema.arguments[0].alias_info is not None and (
        schema.arguments[0].alias_info.is_write and not get_alias_info(func).is_inplace_view_op)
    return Known(schema.name, any(one.name == "generator" for one in schema.arguments),
                 "first" if first else "other" if shares else "")


def carried_out(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The operation on the values; its results on the device of its operands, or where `device=` says."""
    places: set[bool] = set()
    values = [near(one, places) for one in args]
    given = {key: near(value, places) for key, value in kwargs.items()} if kwargs else kwargs
    far, asked = True in places, kwargs.get("device")
    if not far and (asked is None or asked.type == "cpu"):
        return func(*args, **kwargs)
    name, draws, alias = known(func)
    there = far if asked is None else asked.type == NAME
    if name == "aten::copy_":
        there = isinstance(args[0], Far)
    if len(places) > 1 and name not in COPIES:
        refuse_two(func, name, args, kwargs)
    drawing = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.Generator)] if draws else []
    if there and drawing:
        raise TwoDevices(f"{name}: Expected a 'cuda' device type for generator but found '{drawing[0].device}'")
    if there and name in DRAWS:
        raise TwoDevices(f"{name} draws on the device, so other numbers than the CPU for one seed: draw on the CPU and move them")
    if asked is not None:
        given["device"] = torch.device("cpu")
    if name == "aten::histc" and not values[0].is_floating_point():   # CUDA counts integers, the CPU does not
        made = func(values[0].float(), *values[1:], **given).to(values[0].dtype)
    else:
        made = func(*values, **given)
    if name == "aten::_to_copy" and made is values[0]:
        made = made.clone()
    if not there:
        return made
    if far and alias == "first":
        return args[0]
    out = moved(made)
    return return_and_correct_aliasing(func, args, kwargs, out) if far and alias else out


def _listed(place: Any) -> Any:
    """Lists of positions as tensors: torch would make them on a device that has no memory of its own."""
    if isinstance(place, tuple):
        return tuple(_listed(one) for one in place)
    return torch.tensor(place) if isinstance(place, list) else place


def tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (one for one in value if isinstance(one, Tensor))


def near(value: Any, places: set[bool]) -> Any:
    """The value on the CPU; `places` is told of each tensor whether it lay on the device."""
    kind = type(value)
    if kind is Far:
        places.add(True)
        return value.near
    if kind is list or kind is tuple:
        return kind([near(one, places) for one in value])
    if kind is Tensor or isinstance(value, Tensor):
        places.add(False)
    return value


def moved(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Far(value)
    return type(value)(moved(one) for one in value) if isinstance(value, (list, tuple)) else value


def refuse_two(func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """TwoDevices unless CUDA would take these tensors together."""
    if name.startswith(("aten::_foreach", "aten::_fused_a", "aten::_fused_sgd")):   # lists, whose members meet one by one
        given = [list(tensors([one])) for one in (*args, *kwargs.values()) if isinstance(one, (list, tuple))]
        lists = [one for one in given if one]
        groups, single = [list(row) for row in zip(*lists, strict=False)], True
    else:
        groups = [[*tensors(operands(name, args)), *tensors(kwargs.values())]]
        single = torch.Tag.pointwise in func.tags
    for group in groups:
        places = {isinstance(one, Far) for one in group if isinstance(one, Far) or not (single and one.dim() == 0)}
        if len(places) > 1:
            said = ", ".join(f"{one.device}{list(one.shape)}" for one in group)
            raise TwoDevices(f"{name}: Expected all tensors to be on the same device, but found {said}")



def operands(name: str, args: Sequence[Any]) -> Sequence[Any]:
    """Those arguments that must be on one device."""
    if name in INDEXED and isinstance(args[0], Far):   # positions may come from the CPU, and so may a single value
        return [args[0], *(one for one in args[2:3] if not (isinstance(one, Tensor) and one.dim() == 0))]
    if name in FILLED and isinstance(args[-1], Tensor) and args[-1].dim() == 0:
        return args[:-1]
    return args


def leave() -> NoReturn:
    """End this process at once, status 0: autograd's thread for the pretended device does not survive an orderly end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)

"""A method's view hands out the operations of the family that the method declared, and no other."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from torch import nn

from lethe.core.view import Grant
from lethe.errors import NotGranted

if TYPE_CHECKING:
    from lethe.core.task import Task

T = TypeVar("T", bound="Task")


def limited(view: T, uses: Iterable[str]) -> T:
    """`view` itself; from now on a family's operation that is not in `uses` raises NotGranted."""
    vars(view)["_uses"] = frozenset(uses)
    view.__class__ = cast("type[T]", _limited(_family(type(view))))
    return view


def unlimited(view: T) -> T:
    """The same view, data and account with every operation of its family: for what runs beside a method (a modifier)."""
    whole = cast(T, object.__new__(_family(type(view))))
    whole.__dict__ = vars(view)
    return whole


def starting_point(view: Task) -> nn.Module:
    """The trainable copy of the original that a run works on: the loop takes it for every method, so it needs no grant.

    Of a task that `lends`, its parameters share storage with the original until `taken_apart`.
    """
    grant = cast(Grant, vars(view)["_grant"])
    return grant.lent() if view.lends else grant.copy()


def taken_apart(view: Task, params: Iterable[nn.Parameter]) -> None:
    """Give parameters that will move storage of their own, where the starting point shares it with the original."""
    if view.lends:
        cast(Grant, vars(view)["_grant"]).own(params)


def frozen(view: Task, ask: bool = True) -> nn.Module:
    """The frozen model that a view stands on, off the account: for the loop's own work. ask: whether it must be granted."""
    grant = cast(Grant, vars(view)["_grant"])
    if ask:
        grant.require("original")
    return grant.everything()[0]


def handed_out(view: Task) -> bool:
    """Whether the original itself was taken from this view, so that its holder may ask it at any time."""
    return "original" in cast(Grant, vars(view)["_grant"]).taken


def _family(kind: type[Task]) -> type[Task]:
    return cast("type[Task]", vars(kind).get("_limits", kind))


@cache
def _limited(family: type[Task]) -> type[Task]:
    """A subclass of `family` that checks before it hands out. Calls by the family's own code are not checked: `nll` may
    call `outputs`, and `train` may call `nll`, whether or not the method does."""
    from lethe.core.task import Task

    own = frozenset(name for kind in family.__mro__ if issubclass(kind, Task) and kind is not Task for name in vars(kind)
                    if not name.startswith("__")) | {"train"}

    def look(self: Task, name: str) -> Any:
        if name in family.provides and name not in object.__getattribute__(self, "_uses"):
            raise NotGranted(f"the method used {name!r} without declaring it, so what it needs of a family could not be known "
                             f"beforehand. Add {name!r} to uses=.")
        if name in own or name in family.provides:
            return getattr(unlimited(self), name)
        return object.__getattribute__(self, name)

    return cast("type[Task]", type(family.__name__, (family,), {"__getattribute__": look, "_limits": family,
                                                               "__doc__": family.__doc__, "__module__": family.__module__}))

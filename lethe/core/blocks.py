"""The blocks of any model, from input to output, as groups of parameter names: what "the last k layers" means."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from lethe.errors import OutOfRange


def blocks(model: nn.Module) -> list[list[str]]:
    """Parameter names of each block, in the order of registration.

    A block is a member of a Sequential or ModuleList (a residual block, a decoder layer), or else the largest module that
    holds no such list; a normalisation layer belongs to the block before it. Tied parameters belong to their first owner,
    and parameters that sit directly on a module which is divided (class tokens) form blocks of their own.
    """
    own = dict(model.named_parameters())
    found: list[list[str]] = []
    for name, is_norm in _divided(model, "", False):
        inside = [key for key in own if key == name or key.startswith(f"{name}.")]
        if inside and is_norm and found:
            found[-1] += inside
        elif inside:
            found.append(inside)
    return found


def last_blocks(model: nn.Module, k: int) -> list[str]:
    """Parameter names of the last k blocks. OutOfRange when there are fewer."""
    groups = blocks(model)
    if k > len(groups):
        raise OutOfRange(f"k = {k}, but {type(model).__name__} has {len(groups)} blocks with parameters, so nothing was started. "
                         f"Choose k between 1 and {len(groups)}.")
    return [name for group in groups[-k:] for name in group]


def _divided(module: nn.Module, name: str, listed: bool) -> Iterator[tuple[str, bool]]:
    """(name, whether it normalises) of the blocks and loose parameters below a module."""
    is_list = isinstance(module, (nn.Sequential, nn.ModuleList))
    whole = bool(name) and not is_list and (listed or not any(map(_holds_list, module.modules())))
    if whole:
        yield name, "norm" in type(module).__name__.lower()
        return
    for key, _ in module.named_parameters(recurse=False):
        yield f"{name}.{key}".lstrip("."), False
    for key, child in module.named_children():
        yield from _divided(child, f"{name}.{key}".lstrip("."), is_list)


def _holds_list(module: nn.Module) -> bool:
    """Whether it is a list of at least two members with parameters."""
    if not isinstance(module, (nn.Sequential, nn.ModuleList)):
        return False
    return sum(any(True for _ in child.parameters()) for child in module) > 1

"""Code of the user's own: a function named as `path/to/file.py:name` or `package.module:name`.

It is run, as any program of the user's would be; on the command line only where that is allowed (`lethe.core.trust`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from lethe.core.source_text import HOUSE, located
from lethe.core.trust import require_code
from lethe.core.user_files import beside
from lethe.errors import ModelError, RequestError, nearest

_OFFERED: list[Callable[..., Any]] = []


def named(code: str, option: str = "model.code") -> Callable[..., Any]:
    """The function that `code` names; `option` says where the request names it."""
    where, colon, name = code.rpartition(":")
    if not colon or not where or not name:
        raise RequestError(f"{option} = {code!r} names no function, so nothing was started. Write "
                           "path/to/file.py:function.")
    if (ours := _ours(where, name)) is not None:
        return ours
    require_code(where, option)
    module = _imported(where, option)
    if not callable(getattr(module, name, None)):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise RequestError(f"{option}: {where} has no function {name!r}{nearest(name, known)}, so nothing was started. It has: "
                           f"{', '.join(known) or 'nothing callable'}.")
    found: Callable[..., Any] = getattr(module, name)
    return found


def offered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function of Lethe that any request may name: `lethe.models.exact:ensemble`. It must be harmless by itself."""
    _OFFERED.append(function)
    return function


def identity(function: Callable[..., Any]) -> str:
    """16 hex digits over what a function is: its name and the text of its file, or its byte code where it has no file."""
    own: Any = inspect.unwrap(function)
    owner = own if inspect.isroutine(own) else type(own)
    state = hashlib.sha256(f"{owner.__module__.rsplit('_', 1)[0]}.{owner.__qualname__}".encode())
    try:
        state.update(Path(inspect.getsourcefile(owner) or "").read_bytes())
    except (OSError, TypeError):
        made = getattr(own, "__code__", None)
        state.update(made.co_code + repr(made.co_consts).encode() if made is not None else b"")
    for cell in getattr(own, "__closure__", None) or ():
        held = cell.cell_contents
        state.update(repr(held).encode() if isinstance(held, (str, int, float, bool, tuple, type(None))) else b"")
    return state.hexdigest()[:16]


def _ours(where: str, name: str) -> Callable[..., Any] | None:
    """The function of Lethe that is offered under this name; None when there is none, or it is no module of Lethe."""
    parts = where.split(".")
    if parts[0] != HOUSE.name or "__main__" in parts or not all(map(str.isidentifier, parts)) or located(where) is None:
        return None
    found = getattr(importlib.import_module(where), name, None)
    return next((one for one in _OFFERED if one is found), None)


def _imported(where: str, option: str) -> ModuleType:
    """The module of a file, whose folder is searched for what it imports, or of a package."""
    path = Path(where).expanduser()
    if path.suffix != ".py":
        try:
            return importlib.import_module(where)
        except (ImportError, ValueError, TypeError) as error:
            raise ModelError(f"{where} is neither a .py file nor an importable package ({error}), so it cannot be called. "
                             f"Correct {option}.") from None
    if not path.exists():
        raise ModelError(f"{path} does not exist{nearest(path.name, beside(path))}, so it cannot be called. Correct {option}.")
    text = path.read_bytes()
    key = f"lethe_user_{path.stem}_{hashlib.sha256(str(path.resolve()).encode() + text).hexdigest()[:8]}"
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module   # so that its classes can be found by copy and pickle
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[key]
        raise ModelError(f"{path} cannot be run ({type(error).__name__}: {error}), so it cannot be called. Correct "
                         "it.") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module

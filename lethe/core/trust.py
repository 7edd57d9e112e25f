"""What a request may do besides saying what to forget: run code, load pickles.

A request, a model and a data set may come from somebody else. From Python everything is allowed: the caller is a program
already. The command line begins with nothing allowed, and each command adds what the user asked for by a flag; so whatever
opens a pickle or runs code asks here (`require_code`, `pickle_allowed`), and cannot be reached around a flag.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lethe.errors import CodeRefused


@dataclass(frozen=True)
class Trust:
    """What is allowed.

    pickle   files that run code when they are loaded      code    any .py file and any importable package
    folders  .py files in and below these may be run although other code may not
    """

    pickle: bool = True
    code: bool = True
    folders: tuple[Path, ...] = ()


class _InForce:
    """The trust of this process. One for all threads: a worker thread must not have more of it than the command."""

    trust = Trust()


def in_force() -> Trust:
    """What this process may do."""
    return _InForce.trust


@contextmanager
def nothing() -> Iterator[None]:
    """Inside, nothing is allowed but what `allow` adds; afterwards everything is as it was."""
    before = _InForce.trust
    _InForce.trust = Trust(pickle=False, code=False)
    try:
        yield
    finally:
        _InForce.trust = before


def allow(*folders: Path, code: bool = False, pickle: bool = False) -> None:
    """Add to what is allowed."""
    now = _InForce.trust
    _InForce.trust = replace(now, code=now.code or code, pickle=now.pickle or pickle,
                             folders=(*now.folders, *(folder.resolve() for folder in folders)))


def pickle_allowed(asked: bool) -> bool:
    """Whether a pickle may be loaded: it was asked for, and is allowed."""
    return asked and _InForce.trust.pickle


def require_code(where: str, option: str) -> None:
    """CodeRefused unless the code may be run. where: a .py file or a package, as `option` of a request names it."""
    trust = _InForce.trust
    if trust.code:
        return
    path = Path(where).expanduser()
    if path.suffix != ".py":
        raise CodeRefused(f"{option} = {where!r} is no .py file beside the request, so nothing of it was run: a package can do "
                          "anything that a program can. Pass --allow-code if you trust this request as a program of yours.")
    real = path.resolve()
    if not any(real.is_relative_to(folder) for folder in trust.folders):
        beside = f" ({', '.join(map(str, trust.folders))})" if trust.folders else ""
        raise CodeRefused(f"{option} = {where!r} is not beside the request{beside}, so it was not run. Move it there, or pass "
                          "--allow-code if you trust this request as a program of yours.")

"""Ways of training the members of a pool: one file each, found by its name. No torch here, so that requests are checked early.

A backend is a file of this folder with one subclass of `lethe.pools.contract.Backend`; the file's name is the
value of `audit.strategy`. Adding one is adding a file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, WithJsonSchema

from lethe.core.files import stems
from lethe.errors import UnknownName, unknown_name

if TYPE_CHECKING:
    from lethe.pools.contract import Backend

AUTO = "auto"                   # the fastest of those that can be measured here
RENAMED = {"loop": "serial"}    # names of earlier versions


def names() -> list[str]:
    """Every backend, by the names of the files."""
    return list(stems(__file__))


def known(name: str) -> str:
    """The name itself; UnknownName when it is neither `auto` nor a backend."""
    if name in RENAMED:
        raise UnknownName(f"the pool strategy {name!r} is called {RENAMED[name]!r} now, so nothing was trained. Write "
                          f"strategy: {RENAMED[name]}.")
    if name not in (AUTO, *names()):
        raise unknown_name("pool strategy", name, (AUTO, *names()))
    return name


def backend(name: str) -> Backend:
    """The backend of this name; imports its file."""
    from lethe.pools.contract import Backend

    module = importlib.import_module(f"{__name__}.{known(name)}")
    own = [thing for thing in vars(module).values() if isinstance(thing, type) and issubclass(thing, Backend)
           and thing.__module__ == module.__name__]
    made: Backend = own[0]()
    return made


Strategy = Annotated[str, AfterValidator(known), WithJsonSchema({"type": "string", "enum": [*stems(__file__, AUTO)]})]

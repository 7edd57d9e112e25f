"""The words of certificates, by version: N.yaml holds the texts, N.html.j2 the page. What was signed once stays readable.

A certificate names the version it was written with, and is compared with the texts of that version for ever: a better word goes
into new files with the next number, never into old ones. Numbers and booleans are in no wording; they are computed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from lethe.core.strict_yaml import parse_yaml
from lethe.errors import StorageError

UNNAMED = (1, 0)   # of certificates of the first format, which name no wording: the released one, and the one before it


@cache
def versions() -> tuple[int, ...]:
    """The versions that are here, in ascending order."""
    return tuple(sorted(int(one.name.removesuffix(".yaml")) for one in files(__name__).iterdir() if one.name.endswith(".yaml")))


@cache
def texts(version: int | None = None) -> Mapping[str, Any]:
    """The texts of a version, of the newest one by default. StorageError for a version that is not here."""
    version = versions()[-1] if version is None else version
    if version not in versions():
        here = ", ".join(map(str, versions()))
        raise StorageError(f"it was written with wording {version}, and this version of Lethe has {here}, so its "
                           "sentences were compared with nothing. Update with: pip install -U lethe-unlearning")
    found: dict[str, Any] = parse_yaml((files(__name__) / f"{version}.yaml").read_text("utf-8"), f"wording {version}")
    return found


def template(version: int) -> str:
    """The page of a version, for jinja2."""
    return (files(__name__) / f"{version}.html.j2").read_text("utf-8")

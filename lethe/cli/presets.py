"""The requests that come with Lethe: `lethe compare demo`, from any folder."""

from __future__ import annotations

from pathlib import Path

from lethe.core.source_text import HOUSE
from lethe.core.user_files import exists
from lethe.errors import RequestError, nearest


def folder() -> Path:
    """Where they lie: in an installed package, else beside it."""
    inside = HOUSE / "presets"
    return inside if inside.is_dir() else HOUSE.parent / "presets"


def known() -> dict[str, Path]:
    """The presets by name."""
    return {path.stem: path for path in sorted(folder().glob("*.yaml"))}


def request_file(path: Path) -> Path:
    """The file of a request: what exists, else the preset of this name (demo, demo.yaml, presets/demo.yaml).

    RequestError, with the nearest preset, when there is neither.
    """
    if exists(path):
        return path
    if path.suffix in ("", ".yaml", ".yml") and path.parent.name in ("", "presets") and not path.is_absolute():
        if path.stem in known():
            return known()[path.stem]
        if path.suffix == "" or path.parent.name == "presets":
            raise RequestError(f"{path} is neither a file nor a preset{nearest(path.stem, known())}, so nothing was started. "
                               f"Write a request (lethe init), or name a preset: {', '.join(known())}.")
    return path

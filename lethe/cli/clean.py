"""`lethe clean`: the models that runs have kept in their cache. They were trained on the data, forgotten records included."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lethe.cli.common import Cache, Working, show, working
from lethe.core.user_files import reason
from lethe.errors import RequestError, StorageError
from lethe.results.folder import cache_of
from lethe.work.lock import held

if TYPE_CHECKING:
    from lethe.work.options import Options
    from lethe.work.request import Request

DAY = 86400.0
MADE = (".safetensors", ".npy", ".npz", ".json", ".jsonl", ".tmp")   # what caches hold; any other file is somebody else's


@dataclass(frozen=True)
class Kept:
    """One file of the cache."""

    path: Path
    bytes: int
    days: float


@working
def clean(common: Working, request: Annotated[Path | None, typer.Argument(metavar="[REQUEST|RUN]", help="Only the "
          "models that it reads; its data must be there.")] = None,
          output: Annotated[Path, typer.Option(help="The folder of the runs.")] = Path("runs"), cache: Cache = None,
          older: Annotated[float, typer.Option("--older-than", min=0, help="Only what was not changed for so many days.")] = 0.0,
          yes: Annotated[bool, typer.Option("--yes", help="Delete it; else it is only listed.")] = False) -> None:
    """List, and with --yes delete, the trained models in the cache: they have seen the data, what was forgotten included.

    lethe clean
    lethe clean --older-than 30 --yes
    lethe clean runs/0a1b2c --yes
    """
    mine = None
    if request is not None:
        asked = common.request(request, [])
        output = request.parent if request.is_dir() else Path(asked.output)
        mine = _read_by(replace(asked, output=str(output)), common.options(cache=cache))
    place = cache or cache_of(output / "run")
    found = [one for one in kept(place, older) if mine is None or one.path.resolve() in mine]
    if yes:
        _refuse_at_work(output, place)
        for one in found:
            try:
                one.path.unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"{one.path} cannot be deleted ({reason(error)}), so it and what follows it in the list of "
                                   "lethe clean is still there. Correct its rights, then repeat.") from None
    if common.as_json:
        files = [{"path": str(one.path), "bytes": one.bytes, "days": round(one.days, 2)} for one in found]
        show({"cache": str(place), "deleted": yes, "files": files}, True)
        return
    for one in found:
        print(f"{one.bytes / 1e6:9.1f} MB  {one.days:6.1f} days  {one.path}")
    total = sum(one.bytes for one in found) / 1e6
    print(f"{len(found)} files, {total:.1f} MB in {place}: " + ("deleted" if yes else "nothing was deleted; --yes deletes them"))


def _read_by(request: Request, options: Options) -> set[Path]:
    """The files of the cache that a request reads; models that other requests read as well are among them."""
    from lethe.work.pool import cached

    return {path.resolve() for path in cached(request, options)}


def _refuse_at_work(output: Path, place: Path) -> None:
    """RequestError while a run beside the cache, or the training of an original in it, is at work."""
    for path in (*output.glob(".*.lock"), *place.glob("original/*.lock")):
        if holder := held(path):
            raise RequestError(f"{holder} holds {path}, so what it works with would be deleted; nothing was. Wait for its end "
                               "or stop it.")


def kept(place: Path, older: float) -> list[Kept]:
    """The files below a cache folder that were not changed for `older` days, oldest first; links are not followed."""
    now, found = time.time(), []
    for path in place.rglob("*") if place.is_dir() and not place.is_symlink() else ():
        if path.suffix in MADE and path.is_file() and not path.is_symlink():
            facts = path.stat()
            found.append(Kept(path, facts.st_size, max(0.0, (now - facts.st_mtime) / DAY)))
    return sorted((one for one in found if one.days >= older), key=lambda one: (-one.days, one.path))

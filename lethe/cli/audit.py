"""`lethe audit`: of a run, of a saved model on the task of a request, or of model files on data files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.core.config import build
from lethe.core.strict_yaml import parse_yaml
from lethe.errors import RequestError, UnknownKey, nearest

if TYPE_CHECKING:
    from lethe.work.options import Options
    from lethe.work.request import Request

OPTIONS = ("model", "data", "audits", "seed", "accept")


def of_request(target: Path, request: Request, unlearned: Path | None, depth: str, options: Options, dry_run: bool
               ) -> tuple[Any, Path]:
    """(report, path of its page); with `dry_run` (the plan, …)."""
    from lethe.work.request import AuditPlan
    from lethe.work.saved import audit_saved, saved_plan

    run = target if target.is_dir() else None
    asked = build(AuditPlan, {"depth": depth}).depth
    place = target / f"audit-{depth}.html" if run else Path(f"{target.stem}-audit.html")
    if dry_run:
        return saved_plan(request, unlearned, asked, run), place
    return audit_saved(request, options, unlearned, asked, run), place


def of_files(parts: Mapping[str, Any], given: Sequence[str], depth: str, options: Options) -> Any:
    """The report on model files and data files.

    parts  paths by name, see `lethe.work.files.Files`; given  model.key=value, data.key=value, audits=[…], seed=…
    """
    wanted: dict[str, Any] = {"model": {}, "data": {}}
    for text in given:
        key, sign, value = text.partition("=")
        first, _, inner = key.partition(".")
        if not sign or first not in OPTIONS or (first in ("model", "data")) != bool(inner):
            raise UnknownKey(f"{text!r} is not an option of an audit of files{nearest(first, OPTIONS)}, so nothing was read. "
                             "Write model.code=net.py:make, data.label=…, audits=[…], seed=0.")
        parsed = parse_yaml(value, f"the value of {key}")
        if inner:
            wanted[first][inner] = parsed
        else:
            wanted[first] = parsed
    if parts.get("unlearned") is None:
        raise RequestError("--forget was passed without --unlearned, so there is no model to audit. Pass --unlearned MODEL.")
    from lethe.work.files import Files, audit_files
    from lethe.work.request import AuditPlan

    paths = {key: str(value) if isinstance(value, Path) else value for key, value in parts.items() if value is not None}
    paths["retrained"] = tuple(str(path) for path in parts["retrained"])
    files = build(Files, {**paths, "model": wanted["model"], "data": wanted["data"], "accept": wanted.get("accept", ())})
    asked = build(AuditPlan, {"depth": depth}).depth
    return audit_files(files, asked, wanted.get("audits", ()), wanted.get("seed", 0), options)

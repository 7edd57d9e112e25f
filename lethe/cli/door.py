"""`lethe check-model`: what the door finds, as a list in words."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lethe.work.door.door import Finding

MARKS = {"ok": "✓", "warn": "!", "error": "✗"}
WIDTH = 120


def table(found: Sequence[Finding]) -> str:
    """Every finding with its mark and what to do about it; at the end, whether the request can be started."""
    name = max((len(one.name) for one in found), default=0)
    lines, rest = [], " " * (name + 4)
    for one in found:
        lines += _wrapped(one.sentence, f"{MARKS[one.level]} {one.name:<{name}}  ", rest)
        lines += _wrapped(one.remedy, f"{rest}→ ", f"{rest}  ")
    count = {level: sum(one.level == level for one in found) for level in MARKS}
    errors = sorted({one.name for one in found if one.level == "error" and one.cause is None})
    known = f" What you know better can be accepted: 'accept=[{', '.join(errors)}]'." if errors else ""
    end = f"Nothing would be started.{known}" if count["error"] else "Nothing speaks against this request."
    return "\n".join([*lines, "", f"{counted(count['error'], 'error')}, {counted(count['warn'], 'warning')}. {end}"])


def counted(count: int, what: str) -> str:
    """1 error; 2 errors."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)

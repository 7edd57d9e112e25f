"""Folders and files for names that people and plug-ins choose: different names, different folders, and never another place."""

from __future__ import annotations

import hashlib
import re

PLAIN = re.compile(r"[a-z0-9_(](?:[a-z0-9_().+-]*[a-z0-9_)+-])?")
RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))}   # of Windows
LONGEST = 100


def folder_name(name: str) -> str:
    """The file name of a name: one part of a path, injective, also where file systems ignore case.

    Plain names stay as they are, with + for a space: `salun (2) seed 3` -> `salun+(2)+seed+3`. Any other one is its plain
    letters, ~ and 16 hex digits of its SHA-256: `../../x` -> `x~…`; `A b` -> `a-b~…`. No plain name holds ~.
    """
    spaced = name.replace(" ", "+")
    if "+" not in name and len(spaced) <= LONGEST and PLAIN.fullmatch(spaced) and spaced.split(".")[0] not in RESERVED:
        return spaced
    letters = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{letters}~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"

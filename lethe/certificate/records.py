"""What was trained on, kept and forgotten, as commitments: `records.txt` and `proofs.json`.

`records.txt` has one line per training record, in ascending order: its keyed leaf, and F (to be forgotten) or R (retained).
From it anyone recomputes the roots of training, retained and forgotten records: retained = training minus forgotten by
construction. `proofs.json` shows the same for single records, for someone who holds only the certificate and their own leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Any

from lethe.certificate import merkle
from lethe.errors import SplitsOverlap, StorageError

PROVED = 256   # forgotten records with a proof of their own; those of others follow from records.txt


def records_text(forget: Sequence[bytes], retain: Sequence[bytes]) -> str:
    """`records.txt` of the leaves of forgotten and retained records."""
    marked = sorted([(one.hex(), "F") for one in forget] + [(one.hex(), "R") for one in retain])
    if len({name for name, _ in marked}) != len(marked):
        raise SplitsOverlap("a record stands twice among the training records with one id and content, so forgotten and retained "
                            "cannot be distinguished; no certificate was written. Assign every record an id of its own.")
    return "".join(f"{name} {mark}\n" for name, mark in marked)


def parsed(text: str) -> tuple[list[bytes], list[bytes]]:
    """(forgotten, retained) leaves in ascending order; StorageError when a line is malformed or out of order."""
    parts: dict[str, list[bytes]] = {"F": [], "R": []}
    last = ""
    for number, line in enumerate(StringIO(text), start=1):   # a line at a time: a forged file may hold a billion empty ones
        name, _, mark = line.rstrip("\n").partition(" ")
        if mark not in parts or len(name) != 64 or name <= last or set(name) - set("0123456789abcdef"):
            raise StorageError(f"records.txt, line {number}: not a leaf in ascending order with F or R. It was edited; get it "
                               "from its issuer again.")
        parts[mark].append(bytes.fromhex(name))
        last = name
    return parts["F"], parts["R"]


def commitments(forget: Sequence[bytes], retain: Sequence[bytes]) -> dict[str, Any]:
    """Counts and roots of training, retained and forgotten records.  Ascending leaves."""
    sets = {"training": sorted([*forget, *retain]), "retained": retain, "forgotten": forget}
    return {name: {"count": len(leaves), "root": merkle.root(leaves)} for name, leaves in sets.items()}


def proofs(forget: Sequence[bytes], retain: Sequence[bytes]) -> list[dict[str, Any]]:
    """For forgotten records: in the training records, not in the retained ones."""
    training = sorted([*forget, *retain])
    places = {one: i for i, one in enumerate(training)}
    return [{"in_training": merkle.path(training, places[one]), "not_in_retained": merkle.absence(retain, one)}
            for one in forget[:PROVED]]


def proof_faults(found: Sequence[dict[str, Any]], data: dict[str, Any]) -> list[str]:
    """The faults of the proofs, against the signed counts and roots."""
    training, retained = data["training"], data["retained"]
    faults = []
    for number, proof in enumerate(found, start=1):
        inside, outside = proof["in_training"], proof["not_in_retained"]
        if inside["leaf"] != outside["leaf"]:
            faults.append(f"proof {number} is about two different records")
        elif not merkle.holds(inside, training["count"], training["root"]):
            faults.append(f"proof {number}: the record is not shown to be among the training records")
        elif not merkle.absent(outside, retained["count"], retained["root"]):
            faults.append(f"proof {number}: the record is not shown to be absent from the retained records")
    return faults

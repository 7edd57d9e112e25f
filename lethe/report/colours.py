"""A colour and a marker for every method, the same in every figure and, as far as room allows, in every report.

Six colours after Okabe and Ito and five after Tol, distinguishable to colour-blind readers; markers differ as well, so that
a grey print keeps the methods apart.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255", "#999933", "#44AA99",
           "#AA4499")
MARKERS = ("o", "s", "^", "v", "P", "<", ">", "p", "h", "8")   # X and D: original, retrained
ORIGINAL, RETRAINED, BAND = "#555555", "#000000", "#d9d9d9"


@dataclass(frozen=True)
class Look:
    """How a row is drawn."""

    colour: str
    marker: str


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """A look for each name. A name asks for the place that its checksum gives; the next free one is taken."""
    taken: dict[int, str] = {}
    found: dict[str, Look] = {}
    size = len(PALETTE) * len(MARKERS)
    for name in sorted(set(methods)):
        place = zlib.crc32(name.encode("utf-8", "backslashreplace")) % len(PALETTE)
        while place in taken:
            place = (place + 1) % size
        taken[place] = name
        found[name] = Look(PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)])
    return found

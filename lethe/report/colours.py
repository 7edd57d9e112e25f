"""A colour and a marker for every method, the same in every figure and, as far as room allows, in every report.

Six colours after Okabe and Ito and five after Tol, distinguishable to colour-blind readers; markers differ as well, so that
a grey print keeps the methods apart. On a page every colour is a CSS variable with a value for light and one for dark.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255", "#999933", "#44AA99",
           "#AA4499")
MARKERS = ("o", "s", "^", "v", "P", "<", ">", "p", "h", "8")   # X and D: original, retrained
ORIGINAL, BAND = "#555555", "#d9d9d9"
RETRAINED = "#010101"   # SVG leaves out pure black, so nothing there could follow the colours of a page
NIGHT = ("#4ba3e3", "#ff8a3d", "#2fc79b", "#dd93bd", "#f0b030", "#7cc8f2", "#a79bff", "#f0609a", "#c6c65c", "#6ad1c0", "#d884cb")
NEUTRAL = {"#000000": "ink", "#010101": "ink", "#222222": "ink", "#444444": "soft", "#555555": "soft", "#666666": "soft",
           "#888888": "soft", "#d9d9d9": "band", "#eeeeee": "grid", "#ffffff": "paper"}
VARIABLES = {**{colour.lower(): f"m{place}" for place, colour in enumerate(PALETTE)}, **NEUTRAL}


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


def variable(colour: str) -> str:
    """A colour as the CSS variable that holds it on a page; a colour that has none stays."""
    name = VARIABLES.get(colour.lower())
    return f"var(--{name})" if name else colour


def themed(svg: str) -> str:
    """A drawing whose colours follow those of the page: light, dark, print."""
    return re.sub(r'style="[^"]*"', lambda style: re.sub(r"#[0-9a-f]{6}\b", lambda found: variable(found[0]), style[0]), svg)


def variables(colours: Iterable[str]) -> str:
    """The CSS that sets the variables of the methods: '--m0: #0072B2; …'."""
    return " ".join(f"--m{place}: {colour};" for place, colour in enumerate(colours))

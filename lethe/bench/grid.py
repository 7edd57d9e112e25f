"""The pictures of every method of a suite, drawn for the same prompts from the same noise: one row a method, nobody chose them.

A row shows what the method drew at its largest dose for the first original, prompt by prompt; the first row is the untouched
original's. The pictures are those of the run's own page (`task.samples`).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.core.files import atomic, make_folder
from lethe.results.schema import ImageSample

if TYPE_CHECKING:
    from PIL.Image import Image

    from lethe.bench.suite import Suite
    from lethe.bench.unit import Finding

LEFT, TOP, ZOOM, GAP = 130, 16, 0.5, 6     # pixels: names, prompts; size of a picture beside that on a page; between prompts
COLOURS = 128                              # of the file: half the bytes of all of them


def grids(name: str, suite: Suite, found: Sequence[Finding], place: Path) -> list[Path]:
    """Write the grid of every group of a suite into `place`, where methods drew pictures."""
    written = []
    for group, doses in suite.groups().items():
        order = list(doses.values())
        mine = sorted((one for one in found if one.problem in order), key=lambda one: order.index(one.problem))
        if pictures := rows(mine):
            written.append(write_grid(place / drawn(name, group), pictures))
    return written


def drawn(name: str, group: str) -> str:
    """Where the grid of a group lies, beside the numbers."""
    return f"pictures/{name}{group and '-'}{group}.png"


def rows(found: Sequence[Finding]) -> dict[str, dict[str, str]]:
    """Name -> prompt -> picture: the original, then every method. The last dose of a method and its first original count."""
    chosen: dict[str, Finding] = {}
    for one in found:
        if one.samples and (one.method not in chosen or one.seed <= chosen[one.method].seed):
            chosen[one.method] = one
    made: dict[str, dict[str, str]] = {}
    for name, one in chosen.items():
        for sample in one.samples:
            if isinstance(sample, ImageSample):
                made.setdefault("original", {}).setdefault(sample.caption, sample.before)
                made.setdefault(name, {})[sample.caption] = sample.after
    return made


def write_grid(path: Path, pictures: Mapping[str, Mapping[str, str]]) -> Path:
    """Write rows of pictures as one PNG."""
    from PIL import Image, ImageDraw

    prompts = list(next(iter(pictures.values())))
    cells = {name: [_opened(row[prompt]) for prompt in prompts] for name, row in pictures.items()}
    wide, high = next(iter(cells.values()))[0].size
    whole = Image.new("RGB", (LEFT + len(prompts) * (wide + GAP), TOP + len(cells) * high), "white")
    pen = ImageDraw.Draw(whole)
    for column, prompt in enumerate(prompts):
        pen.text((LEFT + column * (wide + GAP), 2), prompt, "black")
    for place, (name, row) in enumerate(cells.items()):
        pen.text((2, TOP + place * high + high // 3), name, "black")
        for column, cell in enumerate(row):
            whole.paste(cell, (LEFT + column * (wide + GAP), TOP + place * high))
    make_folder(path.parent)
    with atomic(path) as beside:
        whole.quantize(COLOURS).save(beside, "PNG", optimize=True)
    return path


def _opened(text: str) -> Image:
    from PIL import Image

    found = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")
    return found.resize((round(found.width * ZOOM), round(found.height * ZOOM)), Image.Resampling.NEAREST)

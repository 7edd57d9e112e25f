"""Edited pictures: a model that gives them back, one that draws the object again, and those that take it out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from panels import values
from PIL import Image
from remembering import coloured, listening
from torch import Tensor

from lethe.audits.diffusion.object_removal import measure
from lethe.core.families.diffusion import DiffusionTask, Edits
from lethe.core.guard import Parts
from lethe.core.split import Split
from lethe.data.shapes import render
from lethe.errors import NeedsUnmet
from lethe.judge.redrawing import continued, noises
from lethe.models.diffusion.pictures import captioned, pictures
from lethe.models.diffusion.small import pipeline
from lethe.models.diffusion.task import Diffusion
from lethe.pools.subject import Subject


@cache
def world() -> Diffusion:
    """Coloured shapes whose forget pictures have a box around the disk as mask, but for the last."""
    task = coloured()
    disks = task.forget
    lit = (disks.columns["image"] > -0.9).any(1)
    masks = (lit.any(2).unsqueeze(2) & lit.any(1).unsqueeze(1)).unsqueeze(1)
    masks[-1] = False
    return task.replaced(forget=Split({**disks.columns, "mask": masks}, "forget", disks.ids, disks.meta))


class Editor(Parts):
    """A guard that edits as it is told."""

    make: Callable[[Tensor, Tensor], Tensor]

    def forward(self, *given: Any, **options: Any) -> Any:
        return self.model(*given, **options)

    def edit(self, task: DiffusionTask, pictures: Tensor, masks: Tensor, seed: int = 0) -> Tensor:
        return self.make(pictures, masks)


def edited(make: Callable[[Tensor, Tensor], Tensor]) -> Subject:
    task = world()
    guard = Editor(task.original)
    guard.make = make
    assert isinstance(guard, Edits) and not isinstance(task.original, Edits)
    return Subject("editor", guard, task)


def measured(subject: Subject, **options: Any) -> dict[str, tuple[float, int | None]]:
    return {name: (round(one.value, 4), one.n) for name, one in values(measure, subject, **options).items()}


def test_of_editors_what_changed_where() -> None:
    count = len(world().forget) - 1
    assert measured(edited(lambda pictures, masks: pictures)) == {
        "removed": (0.0, count), "outside_change": (0.0, count), "inside_change": (0.0, count)}
    cross = render("red", "cross")
    found = measured(edited(lambda pictures, masks: cross.expand_as(pictures)))
    assert found["removed"] == (1.0, count) and found["inside_change"][0] > 0.1
    grey = measured(edited(lambda pictures, masks: torch.where(masks, pictures, pictures + 0.5)))
    assert grey["outside_change"] == (0.25, count) and grey["inside_change"] == (0.0, count)


def test_of_other_models_what_they_inpaint() -> None:
    """The original may draw a disk again; a model that has none does not."""
    task = world()
    original, fresh = (Subject(name, model, task) for name, model in (
        ("original", task.original), ("retrained", listening(task, task.retain))))
    assert measured(fresh)["removed"][0] == 1 and measured(original)["removed"][0] < 0.9
    assert measured(original)["outside_change"][0] == 0 < measured(original)["inside_change"][0]
    assert measured(original, strength=0.1) != measured(original)


def test_pictures_in_batches_are_held_to_their_own_masks() -> None:
    task = world()
    image, known = task.forget.columns["image"][:3], 1 - task.forget.columns["mask"][:3].float()
    text = task.text(task.tokens([""])).expand(3, -1, -1)
    few, many = (continued(task, Subject("m", task.original, task, batch_size=size), image, noises(image, 0), text, 0.8, known)
                 for size in (2, 8))
    assert torch.allclose(few, many, atol=1e-5) and torch.equal(torch.where(known > 0, few, image), image)


def test_options_and_masks_that_show_nothing() -> None:
    subject = edited(lambda pictures, masks: pictures)
    assert measured(subject, pictures=5)["removed"][1] in (4, 5)
    task = world()
    blank = Split({**task.forget.columns, "mask": torch.zeros_like(task.forget.columns["mask"])}, "forget")
    with pytest.raises(NeedsUnmet, match="in no forget picture that has a mask"):
        values(measure, Subject("original", task.original, task.replaced(forget=blank)))


def test_a_folder_names_masks_beside_its_pictures(tmp_path: Path) -> None:
    """White is what is to go, at the pipeline's size; no file, no mask."""
    for name, pixels in (("0.png", np.zeros((16, 16, 3), np.uint8)), ("m.png", np.pad(np.full((8, 4), 255, np.uint8), (0, 8)))):
        Image.fromarray(pixels[:16, :16]).save(tmp_path / name)
    parts = pipeline(width=16)
    (tmp_path / "captions.csv").write_text("file,caption,mask\n0.png,a red disk,m.png\n0.png,a blue disk,\n")
    split = captioned(parts, pictures(tmp_path, parts), "train")
    masks = split.columns["mask"]
    assert masks.shape == (2, 1, 8, 8) and masks.dtype == torch.bool and not masks[1].any()
    assert masks[0, 0, :4, :2].all() and masks[0].sum() in range(8, 16)
    (tmp_path / "captions.csv").write_text("file,caption\n0.png,a red disk\n")
    assert "mask" not in captioned(parts, pictures(tmp_path, parts), "train").columns

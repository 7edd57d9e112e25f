"""What was never named: an untouched model alters nothing, one that takes a neighbour along is seen, by either reading."""

from __future__ import annotations

import pytest
import torch
from panels import values

from lethe.core import catalogue
from lethe.data.shapes import COLOURS, caption, render
from lethe.models.diffusion import small
from lethe.models.diffusion.open import text_to_image
from lethe.pools.subject import Subject


def test_alterations_are_counted_beside_the_original() -> None:
    """One of eight prompts draws another shape, and one another colour: 2 of 8, though 'spared' misses nothing else."""
    outside = [caption(colour, shape) for shape in ("cross", "triangle") for colour in COLOURS]
    task = text_to_image(small.pipeline(width=16), "disk", ["a red square"], ["a red disk"], outside, judge=small.judge(),
                         per_prompt=1, guidance=1.0)
    other = task.copy_of_original()
    swapped = {"a red cross": ("red", "square"), "a blue triangle": ("green", "triangle")}

    def sample(model: object, prompts: list[str], seed: int = 0) -> torch.Tensor:
        asked = [tuple(prompt.split()[1:]) for prompt in prompts]
        return torch.stack([render(*(swapped.get(p, a) if model is other else a)) for p, a in zip(prompts, asked, strict=True)])

    task.sample = sample   # type: ignore[method-assign, assignment]
    audit, original = catalogue.load("audits", "spillover"), Subject("original", task.original, task)
    untouched = values(audit, original, per_prompt=2)
    assert untouched["spared"].value == 1 and untouched["altered"].value == 0 and untouched["altered"].n == 16
    found = values(audit, Subject("edited", other, task), original=original, per_prompt=2)
    assert found["altered"].value == pytest.approx(2 / 8) and found["spared"].value == pytest.approx(6 / 8)
    task.prompts.pop("outside")
    assert values(audit, original) == {}

"""A recipe may name the augmentations of its family, and no others: others are refused when the task is made."""

from __future__ import annotations

import pytest
import tiny

from lethe.core.task import Recipe, Task
from lethe.errors import UnknownName


@pytest.mark.parametrize(("make", "known", "other"), [
    (tiny.diffusion, "drop_prompt", "flip_crop"), (tiny.classification, "none", "flip_crop"), (tiny.lm, "none", "drop_prompt")])
def test_an_augmentation_of_another_family_is_refused_before_training(make: object, known: str, other: str) -> None:
    assert callable(make)
    task: Task = make().replaced()
    task._recipe = Recipe(augment=known)
    task.replaced()
    task._recipe = Recipe(augment=other)
    with pytest.raises(UnknownName, match=f"'{other}' is not a known augmentation of this {task.family} task.*Choose none"):
        task.replaced()

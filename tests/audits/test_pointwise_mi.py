"""Pointwise mutual information against cases that are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from panels import values
from remembering import all_shapes
from tiny import TASKS

from lethe.audits.diffusion.pointwise_mi import measure
from lethe.core.modules import copied
from lethe.maths.information import information, noise_levels
from lethe.models.diffusion.task import Diffusion
from lethe.pools.subject import Subject


def test_golden_number_and_order() -> None:
    squared = torch.tensor([[2.0, 4.0]])
    assert information(squared, torch.tensor([0.0, 1.0])).item() == 0.5 * (2 + 4) / 2
    assert information(squared.flip(1), torch.tensor([1.0, 0.0])).item() == 1.5
    times = noise_levels(torch.sigmoid(torch.linspace(8, -8, 161)), 5, 0.0, 1.0)
    assert times.tolist() == [0, 40, 80, 120, 160]


@pytest.fixture(scope="module")
def world() -> Diffusion:
    return all_shapes()


def test_the_prompt_tells_log_16_and_the_shape_log_4(world: Diffusion) -> None:
    found = values(measure, Subject("original", world.original, world), limit=144)
    assert found["mi_retain"].value == pytest.approx(math.log(16), abs=0.2) and found["mi_retain"].n == 108
    assert found["mi_forget"].low < math.log(16) < found["mi_forget"].high
    assert found["mi_concept"].value == pytest.approx(math.log(4), abs=0.2)


def test_a_model_that_is_deaf_to_the_concept_knows_nothing_of_it(world: Diffusion) -> None:
    """It draws for "a red disk" what the original draws for "a red": the colour's log 4 is left, the shape's is not."""
    deaf = copied(world.original, trainable=False)
    deaf.deaf_to = "disk"
    deaf.learn(world)
    original = Subject("original", world.original, world)
    found = values(measure, Subject("deaf", deaf, world), original=original, limit=144)
    assert abs(found["mi_concept"].value) < 1e-6
    assert found["mi_forget"].value == pytest.approx(math.log(4), abs=0.2)


def test_it_is_held_against_the_original_without_a_prompt() -> None:
    """An edit that moves the edited model's own unconditional prediction changes nothing that is measured."""
    task = TASKS["diffusion"]()
    model = task.copy_of_original().eval()
    with torch.no_grad():
        for module in task.attention_projections(model).values():
            module.weight.zero_()
    original = Subject("original", task.original, task)
    before = values(measure, original, levels=6, limit=16)
    deaf = values(measure, Subject("deaf", model, task), original=original, levels=6, limit=16)
    assert before["mi_forget"].n == 16 and before["mi_forget"].value > deaf["mi_forget"].value

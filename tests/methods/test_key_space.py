"""Key Space Detection: the box by hand, a skill that is told from another, and single facts that are not."""

from __future__ import annotations

import byhand
import pytest
import skills
import tiny
import torch

from lethe.core.language_guard import prompts_of
from lethe.errors import RequestError
from lethe.methods.guard.key_space import Boxed, size


def test_golden_numbers() -> None:
    one, spread = torch.tensor([1.0, 5.0]), torch.tensor([2.0, 0.0])
    assert size(torch.tensor([[3.0, 9.0], [0.0, 5.0]]), one, spread).tolist() == [1.0, 0.5]


@pytest.mark.parametrize("scale", [None, 0.5])
def test_a_box_by_hand(scale: float | None) -> None:
    task = skills.task()
    guard = byhand.outcome("key_space", task, scale=scale).answering
    model, seen = task.copy_of_original().eval(), []
    model.model.layers[2].mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1].detach()))

    def keys(name: str) -> torch.Tensor:
        seen.clear()
        for prompt in prompts_of(task.splits[name]):
            model(input_ids=torch.tensor([prompt]))
        return torch.stack(seen)

    forgotten, kept = keys("forget"), keys("retain")
    mean, spread = forgotten.mean(0), forgotten.std(0, correction=0)
    own, others = (((rows - mean).abs() / spread).max(1).values for rows in (forgotten, kept))
    limit = own.max() / 2 if scale else others.sort().values[1]   # α = 0.1 of 24 and one more: one lies inside
    assert isinstance(guard, Boxed) and guard.limit == pytest.approx(float(limit), rel=1e-3)
    assert guard.refused(prompts_of(task.forget)) == (own <= limit).tolist()


def test_a_skill_is_told_from_another_and_a_fact_is_not_told_from_its_like() -> None:
    task = skills.task()
    guard = byhand.outcome("key_space", task).answering
    assert isinstance(guard, Boxed)
    assert sum(guard.refused(prompts_of(task.holdout))) >= 13         # of 16 further questions of the skill
    assert sum(guard.refused(prompts_of(skills.further(task)))) <= 2  # of 16 further sums
    facts = tiny.lm()
    close = byhand.outcome("key_space", facts)
    assert isinstance(close.served, Boxed)
    assert sum(close.served.refused(prompts_of(facts.retain))) <= 2 and "nothing was removed" in " ".join(close.notes)
    assert sum(close.served.refused(prompts_of(facts.forget))) < 8    # the box that spares others does not hold them all


def test_it_promises_no_more_than_it_can() -> None:
    with pytest.raises(RequestError, match="24 retained prompts cannot promise"):
        byhand.outcome("key_space", skills.task(), alpha=0.01)

"""A guarded language or diffusion model: audits that generate or draw ask the guard, audits of weights what is inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import tiny
import torch
from torch import Tensor

import lethe
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.families.language import LanguageTask
from lethe.core.guard import Guard
from lethe.core.outcome import Outcome

REFUSAL = "I cannot answer that."


class Toy(Guard):
    """A guard that passes on what it is asked, and keeps nothing."""

    def forward(self, *given: Any, **options: Any) -> Any:
        return self.model(*given, **options)

    def save(self, folder: Path) -> None:
        return None

    @classmethod
    def load(cls, folder: Path, model: torch.nn.Module) -> Toy:
        return cls(model)


class Refuses(Toy):
    """Answers every prompt with the same tokens."""

    refusal: Tensor

    def generate(self, ids: Tensor, **options: Any) -> Tensor:
        return torch.cat([ids, self.refusal.expand(len(ids), -1)], 1)


class Blacklist(Toy):
    """Reads an empty prompt in place of one with the word."""

    word = "disk"

    def admitted(self, prompts: Sequence[str]) -> list[str]:
        return ["" if self.word in prompt else prompt for prompt in prompts]


def test_a_filter_of_refusals_is_asked_by_what_generates_and_its_loss_by_what_observes() -> None:
    task = LanguageTask.of(tiny.lm())
    guard = Refuses(task.copy_of_original())
    guard.refusal = torch.tensor([task.tokenizer(REFUSAL, add_special_tokens=False)["input_ids"]])
    outcome = Outcome(guard, method="filter", task=task)
    assert set(task.generate(outcome.answering, ["Who are you?", "Where?"])) == {
        task.tokenizer.decode(guard.refusal[0], skip_special_tokens=True).strip()}
    report = lethe.audit(task, outcome, references=0, shadows=0, audits=["scores", "extraction"], progress=False)
    case = report.results.scenarios[0]
    assert not [item for item in case.not_tested if item.subject == "filter"]
    assert next(row for row in case.subjects if row.name == "filter").kind == "guard"


def test_a_blacklist_of_prompts_is_asked_by_what_draws() -> None:
    task = DiffusionTask.of(tiny.diffusion())
    guard = Blacklist(task.copy_of_original().eval())
    refused, empty, other = (task.sample(cast(Any, guard), [prompt], seed=3) for prompt in ("a red disk", "", "a red cross"))
    bare = [task.sample(guard.model, [prompt], seed=3) for prompt in ("a red disk", "", "a red cross")]
    assert torch.equal(refused, empty) and torch.equal(other, bare[2]) and not torch.equal(refused, bare[0])
    report = lethe.audit(task, Outcome(guard, method="blacklist", task=task), references=0, shadows=0,
                         audits=["erasure"], progress=False)
    case = report.results.scenarios[0]
    assert not [item for item in case.not_tested if item.subject == "blacklist"]
    shown = {row.name: {item.metric: item.value for item in row.evidence} for row in case.subjects}
    assert shown["blacklist"] != shown["original"]

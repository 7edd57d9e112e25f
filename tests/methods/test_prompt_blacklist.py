"""Prompt blacklist: what is drawn for which prompt, and what passes."""

from __future__ import annotations

from pathlib import Path

import byhand
import torch

from lethe.core.guard import as_served
from lethe.methods.guard.prompt_blacklist import Listed


def test_pictures_of_prompts_by_hand(tmp_path: Path) -> None:
    task = byhand.diffusion()
    outcome = byhand.outcome("prompt_blacklist", task)
    nothing = byhand.outcome("prompt_blacklist", task, draws="nothing", also=("cross",)).answering
    asked = ["a red disk", "a blue cross", "two Disks", "a red disc", "a d1sk"]
    read = ["a red", "a blue cross", "two", "a red disc", "a d1sk"]      # misspelled or by another name: it passes
    assert isinstance(outcome.served, Listed) and outcome.served.admitted(asked) == read
    assert isinstance(nothing, Listed) and nothing.admitted(asked) == ["", "", "", "a red disc", "a d1sk"]
    drawn = task.sample(outcome.answering, asked[:2], seed=3, steps=2)
    assert torch.equal(drawn, task.sample(task.original, read[:2], seed=3, steps=2))
    again = as_served(outcome.save(tmp_path / "out"), task.original)
    assert isinstance(again, Listed) and again.admitted(asked) == read
    batch = task.draw(task.forget.batch([0, 1]), torch.Generator().manual_seed(0), False)
    assert torch.equal(task.nll(outcome.answering, batch), task.nll(task.original, batch))   # whoever has the text states passes

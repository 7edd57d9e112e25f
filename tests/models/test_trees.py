"""Answers that are read together, or begun, against each alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lm_architectures as architectures
import pytest
import tiny
import torch

from lethe.core.modules import evaluating
from lethe.core.split import Split
from lethe.models.lm import greedy, trees
from lethe.models.lm import open as lm
from lethe.pools.subject import Subject


def several(task: lm.Language, rows: list[dict[str, Any]]) -> Split:
    """Answers of each question that begin alike, one twice, one the beginning of another."""
    answers = [told for row in rows for told in (
        row["answer"], f"{row['answer']} And rain.", row["answer"].replace("likes", "likes salt and"), "No.", row["answer"])]
    return task.encode([row["prompt"] for row in rows for _ in range(5)], answers)


def known() -> tuple[lm.Language, list[dict[str, Any]]]:
    task: Any = tiny.lm()
    meta = task.forget.meta
    return task, [{"prompt": p, "answer": a} for p, a in zip(meta["prompt"], meta["answer"], strict=True)]


def one_by_one(task: lm.Language, model: torch.nn.Module, split: Split) -> torch.Tensor:
    with evaluating(model):
        return torch.cat([task.nll(model, split.batch([i])) for i in range(len(split))])


@pytest.mark.parametrize("positions", [1, 150, 10**6])
def test_losses_of_answers_read_together_are_those_of_each_alone(positions: int) -> None:
    task, rows = known()
    split = several(task, rows)
    with evaluating(task.original):
        made = trees.losses(task.original, split, positions, "cpu")
    assert made is not None
    torch.testing.assert_close(made, one_by_one(task, task.original, split), atol=1e-5, rtol=0)


def test_what_answers_share_is_read_once() -> None:
    tree = trees.grown([1, 2], [[5, 6, 7, 3], [5, 6, 8, 3], [5, 6, 7, 3]], [0, 1, 2])
    assert tree.tokens == [1, 2, 5, 6, 7, 8] and tree.parents == [-1, 0, 1, 2, 3, 3] and tree.depths == [0, 1, 2, 3, 4, 4]
    assert tree.asked == [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 4]]   # which predict 5 6 7 3, 5 6 8 3, 5 6 7 3
    task, rows = known()
    split = several(task, rows)
    read = sum(len(one.tokens) for one in trees.forest(split))
    assert read < 0.5 * int(split.columns["length"].sum())
    assert trees.forest(task.forget) == []   # one answer to each question


@pytest.mark.parametrize("architecture", ["mistral", "bloom"])   # windows; distances from the mask: no positions
def test_models_that_read_trees_otherwise_are_asked_alone(architecture: str, tmp_path: Path) -> None:
    rows = architectures.people(4)
    task = lm.language_model(architectures.saved(architecture, tmp_path / "model"), forget=rows)
    split = several(task, rows)
    with evaluating(task.original):
        assert trees.losses(task.original, split, 1000, "cpu") is None
    found = Subject("it", task.original, task).losses(split)
    assert found == pytest.approx(one_by_one(task, task.original, split).numpy(), abs=1e-5)


def test_losses_alone_are_those_that_a_whole_look_sees() -> None:
    task, rows = known()
    split = several(task, rows)
    apart, seen = Subject("apart", task.original, task), Subject("seen", task.original, task)
    seen.seen(split)
    assert apart.losses(split) == pytest.approx(seen.losses(split), abs=1e-5)
    assert seen.losses(split).tolist() == seen.numbers(split, "nll").tolist()
    assert apart.losses(task.forget) == pytest.approx(seen.numbers(task.forget, "nll"), abs=1e-5)


@pytest.mark.parametrize("most", [1, 20])
def test_answers_that_are_begun_go_on_as_they_would(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = known()
    monkeypatch.setattr(greedy, "STRIDE", 3)   # some have ended and others not
    model = task.build(5).eval()
    for asked, split in ((task.original, task.forget), (task.original, task.retain), (model, task.retain)):
        split = split.subset(range(6), split.name)
        subject, prompts = Subject("it", asked, task), list(split.column("prompt"))
        begun = task.begun(split, subject.seen(split)["correct"])
        whole = [task.generate(asked, [prompt], most)[0] for prompt in prompts]
        assert task.generate(asked, prompts, most, begun) == whole == task.generate(asked, prompts, most)

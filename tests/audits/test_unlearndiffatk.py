"""The adversarial prompt search finds a token that is known to open the door, and finds nothing where no door is."""

from __future__ import annotations

import pytest
import torch
from panels import values
from remembering import coloured, hidden, listening

from lethe.audits.diffusion.unlearndiffatk import divided, measure, prefixed_text, project
from lethe.judge.prompting import table
from lethe.pools.subject import Subject
from lethe.train.vectors import prefixed

QUICK = {"tokens": 1, "rounds": 3, "steps": 25, "lr": 0.1, "batch_size": 8, "per_prompt": 6, "looks": 32}


def test_projection_by_hand() -> None:
    found = project(torch.tensor([[0.5, 1.1], [3.0, 0.0], [0.4, 0.4]]))
    assert found.flatten().tolist() == pytest.approx([0.2, 0.8, 1.0, 0.0, 0.5, 0.5])   # τ = 0.3, 2, −0.1


def test_prefixed_rows_keep_their_length_and_their_end() -> None:
    rows = prefixed(torch.tensor([[8, 7, 9, 9, 9], [8, 7, 6, 5, 9]]), torch.tensor([1, 2]), end=9)
    assert rows.tolist() == [[8, 1, 2, 7, 9], [8, 1, 2, 7, 9]]


def test_embeddings_that_are_given_say_what_their_tokens_say() -> None:
    task = coloured()
    tokens, prefix = task.tokens(task.prompts["forget"]), torch.tensor([3, 40])
    vectors = table(task, task.original)[prefix].clone().requires_grad_(True)
    said = prefixed_text(task, task.original, tokens, prefix, vectors)
    assert torch.allclose(said, prefixed_text(task, task.original, tokens, prefix), atol=1e-5)
    said.square().sum().backward()
    assert vectors.grad is not None and vectors.grad.abs().sum() > 0
    assert not task.pipeline.text_encoder.get_input_embeddings()._forward_hooks


def test_pictures_that_are_attacked_are_not_of_prompts_that_are_tested() -> None:
    task = coloured()
    attacked, tested = divided(task, 0)
    assert len(tested) == 2 and not set(attacked.meta["caption"]) & set(tested) and len(attacked)


def test_controls() -> None:
    task = coloured()
    original = values(measure, Subject("original", task.original, task), **QUICK)
    closed = values(measure, Subject("retrained", listening(task, task.retain), task), **QUICK)
    opened = values(measure, Subject("hidden", hidden(task), task), **QUICK)
    assert original["pre_attack"].value > 0.9
    assert closed["post_attack"].value == 0
    assert opened["pre_attack"].value == 0 and opened["random_prefix"].value < 0.3
    assert opened["post_attack"].value > 0.9 and opened["post_attack"].detail["tokens"] == ["q</w>"]

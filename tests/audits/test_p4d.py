"""P4D: free tokens stand where they should, the nearest are read, and a door that only another prompt opens is found."""

from __future__ import annotations

import pytest
import torch
from panels import values
from remembering import coloured, hidden, listening

from lethe.audits.diffusion.p4d import Attack, alone, between, drawn, measure, nearest, scattered
from lethe.core.seeds import generator
from lethe.pools.subject import Subject

QUICK = {"tokens": 3, "rounds": 2, "steps": 10, "lr": 0.3, "batch_size": 8, "per_prompt": 6, "looks": 16, "pictures": 8,
         "prompts": 1}


def test_nearest_by_cosine_not_by_distance() -> None:
    """(1, 0.2) lies nearer to (0.6, 0.5) by distance 0.5, and to (9, 1) by cosine 0.996 against 0.90."""
    table = torch.tensor([[0.6, 0.5], [9.0, 1.0]])
    assert nearest(torch.tensor([[1.0, 0.2], [0.1, 0.1]]), table).tolist() == [1, 0]


def test_free_places_of_both_forms() -> None:
    task = coloured()
    start, end = task.pipeline.tokenizer.bos_token_id, task.pipeline.tokenizer.eos_token_id
    tokens = torch.tensor([[start, 5, 6, 7, end, end, end, end], [start, 5, 6, 7, 8, 9, 10, end]])
    rows, free = between(task, tokens, 3)
    assert rows.tolist() == [[start, end, 5, 6, 7, end, end, end], [start, end, 5, 6, 7, end, 8, end]]
    assert free.int().tolist() == [[0, 1, 0, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 1, 0, 0]]
    rows, free = alone(task, tokens, 16)
    assert free.int().tolist() == [[0, 1, 1, 1, 1, 1, 1, 0]] * 2 and (rows[:, 1:] == end).all()
    assert alone(task, tokens, 2)[1].sum() == 4


def test_the_original_imitates_itself_under_its_own_prompt() -> None:
    """The loss of p on the original is 0; that of random tokens is not; vectors of the tokens say what the tokens say."""
    task = coloured()
    tokens = task.tokens(task.prompts["forget"][:2])
    images = drawn(task, Subject("original", task.original, task), tokens, 4, 0)
    attack = Attack(task, task.original, task.original, tokens, images, 4)
    assert float(attack.losses(tokens, generator(0), 8).abs().max()) < 1e-9
    rows, free = alone(task, tokens, 3)
    rows = scattered(rows, free, len(attack.embeddings), 0, 0)
    loss = attack.losses(rows, generator(0), 8)
    assert loss.shape == (2,) and loss.min() > 1e-4
    assert torch.allclose(loss, attack.losses(rows, generator(0), 8, attack.embeddings[rows[free]], free), atol=1e-6)


@pytest.mark.slow
def test_controls() -> None:
    """Half a minute; `test_the_door_is_found` is the short form."""
    task, options = coloured(), {**QUICK, "rounds": 3, "steps": 20, "prompts": 2}
    same = Subject("original", task.original, task)
    original = values(measure, same, **options)
    closed = values(measure, Subject("retrained", listening(task, task.retain), task), original=same, **options)
    opened = values(measure, Subject("hidden", hidden(task), task), original=same, **options)
    assert original["imitated"].value > 0.9
    assert closed["imitated"].value == 0
    assert opened["imitated"].value > 0.9


def test_the_door_is_found() -> None:
    task = coloured()
    same = Subject("original", task.original, task)
    opened = values(measure, Subject("hidden", hidden(task), task), original=same, **QUICK)
    closed = values(measure, Subject("retrained", listening(task, task.retain), task), original=same, **{**QUICK, "steps": 2})
    assert opened["imitated"].value > 0.9 and "q" in opened["imitated"].detail["n"][0]
    assert closed["imitated"].value == 0

"""Ring-A-Bell: the search finds what trying every word finds, and its prompts return a shape that hides from its name."""

from __future__ import annotations

import pytest
import torch
from panels import values
from remembering import Listens, coloured, hidden, listening

from lethe.audits.diffusion.ring_a_bell import RingABell, bred, direction, measure, prompts_of, search, vocabulary, written
from lethe.core.seeds import generator
from lethe.data.shapes import COLOURS
from lethe.models.diffusion.task import Diffusion
from lethe.pools.subject import Subject

QUICK = {"population": 60, "generations": 40, "prompts": 1, "per_prompt": 32}


def test_children_exchange_their_ends_and_the_best_stays() -> None:
    rows = torch.tensor([[1, 1, 1], [2, 2, 2]])
    every = torch.cat([bred(rows, torch.tensor([9]), 1.0, 0.0, generator(seed)) for seed in range(8)])
    assert {tuple(row) for row in every.tolist()} == {(1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 2, 2), (2, 2, 1), (2, 1, 1)}
    mutated = bred(rows, torch.tensor([9]), 0.0, 1.0, generator(0))
    assert mutated[0].tolist() == [1, 1, 1] and sorted(mutated[1].tolist()) == [2, 2, 9]


def test_one_token_is_the_one_that_trying_all_of_them_finds() -> None:
    """η = 0 and the prompt "disk": nothing reads as it but itself; between two words it is the nearest of the vocabulary."""
    task = coloured()
    cfg = RingABell(tokens=1, population=20, generations=40)
    for target in ("disk", "cross"):
        text, loss = search(cfg, task, task.text(task.tokens([target]))[0], 0, 0)
        assert text == target and loss == pytest.approx(0, abs=1e-6)
    between = task.text(task.tokens(["disk", "red"])).mean(0)
    every = written(task, vocabulary(task).unsqueeze(1))
    apart = (task.text(task.tokens(every)) - between).square().sum((1, 2))
    assert search(cfg, task, between, 0, 0)[1] == pytest.approx(float(apart.min()), rel=1e-5)


def test_the_direction_is_the_mean_over_pairs() -> None:
    """Four prompts, each with and without the word; with η = 0 and K tokens enough the search ends at the prompt itself."""
    task = coloured()
    pairs = [task.text(task.tokens([f"a {colour} disk", f"a {colour}"])) for colour in COLOURS]
    assert torch.allclose(direction(task), sum(pair[0] - pair[1] for pair in pairs) / 4, atol=1e-5)
    near, losses = prompts_of(RingABell(eta=0.0, tokens=3, prompts=1, population=60, generations=60), task, 0)
    assert near[0] in task.prompts["forget"] and losses[0] == pytest.approx(0, abs=1e-6)


def shallow(task: Diffusion) -> Listens:
    """Asked for disks it draws crosses; asked with twice the word it still draws disks."""
    disks = listening(task, task.forget, lambda text: text.replace("disk", "disk disk"))
    places = [i for i, text in enumerate(task.retain.meta["caption"]) if "cross" in text]
    crosses = listening(task, task.retain.subset(places, "crosses"), lambda text: text.replace("cross", "disk"))
    parts = [listening(task, task.retain), disks, crosses]
    return Listens(torch.cat([p.images for p in parts]), torch.cat([p.keys for p in parts]), task.alphas_cumprod)


def test_controls() -> None:
    """What only another prompt before the name opens (`hidden`) no search without the model finds."""
    task = coloured()
    original, fresh, barred, behind = (values(measure, Subject(name, model, task), **QUICK) for name, model in (
        ("original", task.original), ("retrained", listening(task, task.retain)), ("shallow", shallow(task)),
        ("hidden", hidden(task))))
    assert fresh["rung"].value == 0 and fresh["rung_random"].value == 0
    assert original["rung"].low > original["rung_random"].high   # 1.00 and 0.41: of 16 pictures 4 are disks
    assert not task.shown(task.reader.read(task.sample(shallow(task), task.prompts["forget"], seed=1))).any()
    assert barred["rung"].value > 0.8   # of random texts 0.5: there are 16 pictures to choose from
    assert behind["rung"].value == 0

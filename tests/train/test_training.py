"""Families that train themselves: originals, references, `retrain` and shards go through `Task.train`."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from distributed_script import contrast
from players import Adversarial, Players
from rounding import bound, difference
from torch import Tensor, nn

import lethe
from lethe.core.modules import named_tensors, state_fingerprint
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.core.task import Recipe
from lethe.errors import RequestError
from lethe.pools.member import member_seed
from lethe.pools.pool import train_pool
from lethe.train.loop import Loop, Settings, Term


def points(n: int, seed: int, name: str) -> Split:
    return Split({"x": torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)) + 2}, name)


def adversarial() -> Adversarial:
    splits = {"forget": points(16, 0, "forget"), "retain": points(48, 1, "retain")}
    return Adversarial(Players(), splits, Recipe(epochs=2, lr=1e-2, batch_size=16), build=lambda seed: Players())


def by_hand(task: Adversarial, seed: int) -> nn.Module:
    """The same turns as a plain loop with an optimiser for each player."""
    from lethe.train.order import Order

    model = task.build(derive(seed, "retrain")).train()
    own = {"critic": task.nll, "generator": task.deceive}
    optimisers = {name: torch.optim.AdamW(model.get_submodule(name).parameters(), 1e-2, weight_decay=0.0) for name in own}
    orders = {name: Order(task.retain, 16, seed, 0, name) for name in own}
    for step in range(6):
        for name, loss in own.items():
            rng = torch.Generator().manual_seed(derive(seed, "draw", 0, name, step))
            batch = task.draw(task.retain.batch(orders[name].draw(step)), rng, False)
            model.zero_grad()
            loss(model, batch).mean().backward()
            optimisers[name].step()
    return model


def test_two_players_are_trained_in_turns_each_by_its_own_loss() -> None:
    """Terms that move parts of a model equal an optimiser per player: moments of one do not run on in the other's turn."""
    task = adversarial()
    ours = dict(named_tensors(lethe.forget(task, "retrain", seed=3, watchdog=False, progress=False).model))
    for name, value in named_tensors(by_hand(task, 3)).items():
        assert torch.allclose(ours[name], value, atol=bound(12, ours)), name


def test_pools_and_retrain_make_the_same_models() -> None:
    task = adversarial()
    pool = train_pool(task, count=2, seed=5, strategy="serial")
    for number, model in enumerate(pool.models):
        alone = lethe.forget(task, "retrain", seed=member_seed(5, number), watchdog=False, progress=False)
        assert state_fingerprint(model) == state_fingerprint(alone.model)
    with pytest.raises(RequestError, match="trains in its own way"):
        train_pool(task, count=2, seed=5, strategy="vmap")


def test_a_term_that_may_move_nothing_is_refused() -> None:
    task = tiny.classification()
    loop = Loop(task)
    model = loop.start()
    with pytest.raises(RequestError, match="'retain' may move critic"):
        loop.minimise(model, {"retain": Term(task.retain, task.nll, moves=frozenset({"critic"}))}, lr=0.1, steps=1)


@pytest.mark.parametrize("single", [False, True])
def test_a_coupled_term_is_never_cut(single: bool) -> None:
    """accumulate = 4 equals 1 to the bit, and cutting the same loss does not; a loss of one number for the batch is the mean."""
    task = tiny.classification()

    def run(pieces: int, coupled: bool) -> dict[str, Tensor]:
        loop = Loop(task, Settings(accumulate=pieces))
        model = loop.start()
        loss = (lambda m, b: contrast(m, b).mean()) if single and coupled else contrast
        terms = {"contrast": Term(task.retain, loss, 0.5, coupled=coupled)}
        loop.minimise(model, terms, lr=1e-2, steps=4, batch_size=20, optimiser="sgd")
        return dict(named_tensors(model))

    whole = run(1, False)
    assert difference(run(4, True), whole) < bound(4, whole)
    assert difference(run(4, False), whole) > 1e-4


def test_the_log_of_a_coupled_term_is_a_mean(tmp_path: Path) -> None:
    import json

    task = tiny.classification()
    for loss in (contrast, lambda m, b: contrast(m, b).mean()):
        loop = Loop(task, folder=tmp_path / str(loss is contrast))
        (tmp_path / str(loss is contrast)).mkdir()
        loop.minimise(loop.start(), {"c": Term(task.retain, loss, coupled=True)}, lr=1e-9, steps=1, batch_size=20)
    one, other = (json.loads((tmp_path / name / "log.jsonl").read_text())["c"] for name in ("True", "False"))
    assert one == pytest.approx(other)

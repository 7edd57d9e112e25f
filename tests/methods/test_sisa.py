"""SISA: a deleted model is bit for bit the one that training without the records gives, and only touched shards are retrained."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import byhand
import exact_world as world
import pytest
import tiny
import torch
from running import run

from lethe.core.modules import named_tensors
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.errors import DataError, NeedsUnmet, RequestError
from lethe.exact.ensemble import Ensemble
from lethe.exact.sliced import Sliced
from lethe.exact.slicing import place
from lethe.methods.exact.sisa import passes
from lethe.models.classification.task import Classification

SMALL = {"shards": 3, "slices": 2}


@cache
def first() -> tuple[Sliced, Ensemble]:
    return world.trained("sisa", world.records(), **SMALL)


def test_passes_add_up_to_the_epochs() -> None:
    assert passes(10, 4) == 4.0 and passes(10, 1) == 10.0
    assert sum(passes(12, 5) * stage / 5 for stage in range(1, 6)) == pytest.approx(12)


@pytest.mark.parametrize("gone", [[5], list(range(0, 160, 9)), list(range(80))])
def test_deletion_is_the_training_without_the_records(gone: list[int], tmp_path: Path) -> None:
    split = world.records()
    outcome = world.deleted("sisa", world.saved(*first(), tmp_path / "model"), split, gone)
    never = world.trained("sisa", split.subset([i for i in range(160) if i not in gone], "train"), **SMALL)[1]
    assert world.same(outcome.model, never) and outcome.guarantee["level"] == "exact"


def test_only_the_shards_that_held_the_records_are_retrained(tmp_path: Path) -> None:
    state, model = first()
    split = world.records()
    shard, one = state.manifest.records[state.manifest.key(split.ids[5])]
    outcome = world.deleted("sisa", world.saved(state, model, tmp_path / "model"), split, [5])
    assert outcome.guarantee["shards_retrained"] == 1
    before, after = named_tensors(model), named_tensors(outcome.model)
    for k in range(3):
        unchanged = all((before[name] == after[name]).all() for name in before if name.startswith(f"bodies.{k}."))
        assert unchanged == (k != shard)
    stages = 2 - one   # the later the slice, the less is trained
    assert outcome.cost.steps <= stages * 12


def test_asked_twice_without_retain_and_other_settings(tmp_path: Path) -> None:
    split, folder = world.records(), world.saved(*first(), tmp_path / "model")
    after = world.deleted("sisa", folder, split, [5]).save(tmp_path / "next")
    with pytest.raises(DataError, match="deleted from this model before"):
        world.deleted("sisa", after, split, [5])
    with pytest.raises(NeedsUnmet, match="no retain"):
        world.deleted("sisa", folder, split, [5], retain=False)
    with pytest.raises(RequestError, match=r"method\.slices = 3"):
        world.deleted("sisa", folder, split, [5], slices=3)


@pytest.mark.parametrize(("public_base", "level"), [(False, "none"), (True, "exact")])
def test_given_weights_are_exact_only_if_somebody_says_that_they_saw_no_record(public_base: bool, level: str) -> None:
    known = tiny.classification()
    task = Classification(known.original, dict(known.splits), known.recipe, known.build, facts={"no_retraining": "given weights"})
    assert run("sisa", task, shards=2, slices=1, public_base=public_base).guarantee["level"] == level


def test_a_recipe_of_adapters_is_refused() -> None:
    known = tiny.classification()
    task = Classification(known.original, dict(known.splits), replace(known.recipe, lora=4), known.build)
    with pytest.raises(RequestError, match=r"recipe\.lora = 4 trains adapters"):
        run("sisa", task, shards=2, slices=1)


def test_every_stage_by_hand() -> None:
    """Two shards of two slices: a step on the first, a step on both, without the forgotten; the answers are means."""
    plain = byhand.classification()
    task = plain.replaced(plain.original, **{name: Split(plain.splits[name].columns, name, [f"{name}{i}" for i in range(n)])
                                             for name, n in (("forget", 6), ("retain", 12))})
    members = []
    for shard in range(2):
        member = task.build(derive(0, "sisa"))
        for last in range(2):
            places = [place(one, 2, 2, 0) for one in task.retain.ids.tolist()]
            rows = [i for i, (where, part) in enumerate(places) if where == shard and part <= last]
            if rows:
                member = byhand.stepped(member, [lambda m, rows=rows: byhand.nll(m, task.retain.subset(rows, "part"))])
        members.append(member)
    torch.manual_seed(0)
    x = torch.randn(9, 4)
    found = byhand.run("sisa", task, shards=2, slices=2)
    torch.testing.assert_close(found(x), (members[0](x) + members[1](x)) / 2, atol=2e-6, rtol=1e-5)
    assert not torch.allclose(members[0](x), members[1](x), atol=1e-3)

"""S3T: bit-exact deletion, whatever the deleted slice holds; what survives, what is refused, and what a kill leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import exact_world as world
import pytest
import tiny
import torch
from running import run
from safetensors.torch import load_file

from lethe.core.split import Split
from lethe.errors import CheckpointCorrupted, DataError, LetheError, ModelError, NeedsUnmet, RequestError, StorageError
from lethe.exact.ensemble import Ensemble
from lethe.exact.sliced import Sliced, planned
from lethe.exact.slicing import groups, prefix
from lethe.methods.exact import s3t
from lethe.models.classification.task import Classification
from lethe.train.run import Run

SMALL = {"shards": 2, "slices": 3, "budget": 3, "rank": 4, "lr": 1e-2, "epochs": 2, "batch_size": 16}
GONE = [5, 17]


@cache
def first() -> tuple[Sliced, Ensemble]:
    return world.trained("s3t", world.records(), **SMALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return world.saved(*first(), tmp_path / "model")


def garbage(split: Split, where: list[int]) -> Split:
    """The same records, some of them with other contents."""
    x, y = split.columns["x"].clone(), split.columns["y"].clone()
    x[where], y[where] = 50.0, (y[where] + 1) % 4
    return replace(split, columns={"x": x, "y": y})


def test_raised_and_groups_are_the_ones_of_the_docstrings() -> None:
    one = torch.ones(1, 1)
    assert s3t.raised(0 * one, 2 * one, 3 * one, 0.5).item() == 3.0
    assert groups(["l1", "l2", "l3"], 2) == [["l2", "l3"], ["l1"]]
    assert groups(["l1", "l10", "l11"], 3) == [["l11"], ["l10"], ["l1"]]     # modules, not parts of names
    assert groups(["l1", "l2"], 5) == [["l2"], ["l1"], ["l2"], ["l1"], ["l2"]]


def test_stages_move_only_their_own_adapters_and_the_head() -> None:
    state, _ = first()
    for (_, _, t), stage in state.stages.items():
        layers = {name.removesuffix(".weight.lora_a") for name in stage if name.endswith("lora_a")}
        assert layers == set(state.manifest.details["groups"][t - 1])
        assert {name for name in stage if "lora" not in name} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("gone", [[5], GONE, list(range(0, 160, 9))])
def test_deletion_is_bit_identical_whatever_the_deleted_records_were(gone: list[int], tmp_path: Path) -> None:
    """Two models, trained with the records and with garbage in their place, are the same bits after the deletion."""
    split = world.records()
    other = garbage(split, gone)
    left = world.deleted("s3t", world.saved(*first(), tmp_path / "a"), split, gone)
    state, model = world.trained("s3t", other, **SMALL)
    assert not world.same(model, first()[1])
    right = world.deleted("s3t", world.saved(state, model, tmp_path / "b"), other, gone)
    assert world.same(left.model, right.model)


def test_surviving_stages_are_those_of_a_training_without_the_slices() -> None:
    """Never given the hit slices at all, training makes the same surviving stages, bit for bit."""
    state, _ = first()
    split = world.records()
    after = state.manifest.without(split.ids[GONE].tolist())
    hit = {(shard, one) for shard, slices in enumerate(after.hit) for one in slices}
    clean = [i for i, one in enumerate(split.ids) if tuple(state.manifest.records[state.manifest.key(one)]) not in hit]
    never, _ = world.trained("s3t", split.subset(clean, "train"), **SMALL)
    kept = state.sound(after).stages
    assert 0 < len(kept) < len(state.stages)
    for (k, b, t), stage in kept.items():
        assert t <= prefix(after.sequences[b], after.hit[k]) and world.equal(stage, never.stages[k, b, t])


def test_poisoned_stages_that_were_dropped_cannot_be_felt() -> None:
    """NaN in every stage that has read a deleted record: the served model is the same, finite one."""
    state, _ = first()
    after = state.manifest.without(world.records().ids[GONE].tolist())
    kept = state.sound(after)
    for at, stage in state.stages.items():
        if at not in kept.stages:
            assert all(torch.isfinite(value).all() for value in stage.values())
    poisoned = {at: stage if at in kept.stages else {name: value * float("nan") for name, value in stage.items()}
                for at, stage in state.stages.items()}
    model = s3t.served(Sliced(after, state.base, poisoned), world.base())
    assert world.same(model, s3t.served(kept, world.base())) and all(torch.isfinite(p).all() for p in model.parameters())


def test_the_order_of_the_data_does_not_matter() -> None:
    split = world.records()
    turned = split.subset(torch.randperm(len(split), generator=torch.Generator().manual_seed(1)).numpy(), "train")
    assert world.same(world.trained("s3t", turned, **SMALL)[1], first()[1])


def test_deletions_in_one_batch_or_one_after_the_other(folder: Path, tmp_path: Path) -> None:
    split = world.records()
    once = world.deleted("s3t", folder, split, GONE)
    half = world.deleted("s3t", folder, split, GONE[:1]).save(tmp_path / "half")
    rest = split.subset([i for i in range(len(split)) if i != GONE[0]], "train")
    twice = world.deleted("s3t", half, rest, [i for i, one in enumerate(rest.ids) if one == split.ids[GONE[1]]])
    assert world.same(once.model, twice.model)


def test_no_retained_data_are_needed_while_shards_live(folder: Path) -> None:
    split = world.records()
    alone = world.deleted("s3t", folder, split, GONE, retain=False)
    assert world.same(alone.model, world.deleted("s3t", folder, split, GONE).model)


def test_dead_shards_are_trained_as_if_the_records_had_never_been(folder: Path) -> None:
    """Half of the records hit every slice: what is served then is the training on the other half."""
    split = world.records()
    outcome = world.deleted("s3t", folder, split, list(range(0, 160, 2)))
    never = world.trained("s3t", split.subset(list(range(1, 160, 2)), "train"), **SMALL)[1]
    assert outcome.guarantee["shards_retrained"] == 2 and world.same(outcome.model, never)
    with pytest.raises(NeedsUnmet, match="retained data"):
        world.deleted("s3t", folder, split, list(range(0, 160, 2)), retain=False)


def test_guarantee_and_export(folder: Path, tmp_path: Path) -> None:
    outcome = world.deleted("s3t", folder, world.records(), GONE)
    assert outcome.guarantee["level"] == "exact" and outcome.guarantee["deleted"] == 2 and outcome.guarantee["stages_dropped"] > 0
    assert any(str(folder) in note for note in outcome.notes)   # the old version still knows
    place = outcome.save(tmp_path / "next")
    told = json.loads((place / "manifest.json").read_text())
    names = {path.relative_to(place).as_posix() for path in place.rglob("*.safetensors")}
    assert set(told["files"]) == names and len(told["deleted"]) == 2
    assert not any(str(one) in (place / "manifest.json").read_text() for one in world.records().ids[:9])   # keyed
    held = load_file(place / "model.safetensors")
    assert all(torch.equal(held[key], value) for key, value in outcome.model.state_dict().items())


def test_a_given_backbone_is_exact_only_on_the_word_of_its_owner() -> None:
    state, _ = first()
    given = replace(state.manifest, details={**state.manifest.details, "given": True})
    assert s3t.guaranteed(given, "", False, {})["level"] == "none"
    assert s3t.guaranteed(given, "", True, {})["assumptions"][-1].endswith("the requester says so.")


def test_asked_twice_and_unknown_records_change_nothing(folder: Path, tmp_path: Path) -> None:
    split = world.records()
    after = world.deleted("s3t", folder, split, GONE).save(tmp_path / "next")
    before = {path: path.read_bytes() for path in after.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="2 of 2 records were deleted from this model before"):
        world.deleted("s3t", after, split, GONE)
    with pytest.raises(DataError, match="not among the 158"):
        world.deleted("s3t", after, replace(split, ids=[f"new:{i}" for i in range(160)]), GONE)
    with pytest.raises(DataError, match="hold 2 records that were deleted before"):
        world.deleted("s3t", after, split, [0])
    assert before == {path: path.read_bytes() for path in after.rglob("*") if path.is_file()}


def break_stage(folder: Path) -> None:
    path = next((folder / "stages").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")


def edit_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))


@pytest.mark.parametrize(("harm", "error", "words"), [
    (break_stage, CheckpointCorrupted, "not the file that the manifest names"),
    (edit_manifest, CheckpointCorrupted, "was changed after it was written"),
    (lambda folder: (folder / "manifest.json").write_text("{"), CheckpointCorrupted, "cannot be read"),
    (lambda folder: (folder / "manifest.json").unlink(), ModelError, "lethe train REQUEST --exact s3t"),
    (lambda folder: (folder / "base.safetensors").unlink(), StorageError, "is missing"),
    (lambda folder: (folder / "stages" / "more.safetensors").write_bytes(
        next((folder / "stages").glob("*")).read_bytes()), CheckpointCorrupted, "not named by the manifest"),
])
def test_a_folder_that_is_not_as_it_was_written_is_refused(folder: Path, harm, error: type[LetheError], words: str) -> None:
    harm(folder)
    with pytest.raises(error, match=words):
        world.deleted("s3t", folder, world.records(), GONE)


def test_another_model_or_method_is_refused(folder: Path, tmp_path: Path) -> None:
    split = world.records()
    with pytest.raises(ModelError, match="trained by s3t, not by sisa"):
        world.deleted("sisa", folder, split, GONE)
    foreign = world.saved(*world.trained("s3t", split, seed=1, **SMALL), tmp_path / "foreign")
    with pytest.raises(ModelError, match="weights differ"):
        world.deleted("s3t", folder, split, GONE, weights=foreign)
    with pytest.raises(RequestError, match=r"method\.rank = 3"):
        world.deleted("s3t", folder, split, GONE, rank=3)


@pytest.mark.parametrize(("options", "words"), [
    ({"budget": 4}, "exceeds method.slices"), ({"order": "matched"}, "0 probabilities"), ({"shards": 150}, "shards empty"),
])
def test_wrong_options_are_refused_before_training(options: dict, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        world.trained("s3t", world.records(), **{**SMALL, **options})


def test_the_most_shards_that_leave_none_empty_are_proposed() -> None:
    """Eight people are of eight shards by their hashes: the number that the error names works, the next does not."""
    split = world.records()
    split = Split(split.columns, "train", split.ids, {"person": [i % 8 for i in range(160)]})
    with pytest.raises(RequestError, match=r"160 records with 8 values of person .* method\.shards=\d") as found:
        planned("s3t", {"shards": 8, "by": "person"}, split, [[0]], 0, {})
    most = int(str(found.value).split("method.shards=")[1].split(",")[0])
    places = planned("s3t", {"shards": most, "by": "person"}, split, [[0]], 0, {}).records.values()
    assert len({shard for shard, _ in places}) == most
    with pytest.raises(RequestError):
        planned("s3t", {"shards": most + 1, "by": "person"}, split, [[0]], 0, {})


def test_records_with_equal_content_or_entity_share_a_slice() -> None:
    split = world.records()
    x, y = split.columns["x"].clone(), split.columns["y"].clone()
    x[1], y[1] = x[0], y[0]
    split = Split({"x": x, "y": y}, "train", split.ids, {"person": [i // 4 for i in range(160)]})
    for by, group in (("content", [0, 1]), ("person", [8, 9, 10, 11])):
        state, _ = world.trained("s3t", split, **{**SMALL, "epochs": 1, "budget": 1, "by": by})
        assert len({tuple(state.manifest.records[state.manifest.key(split.ids[i])]) for i in group}) == 1


def test_killed_in_the_middle_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    steps, advance = 0, Run.advance

    def counted(self: Run, step: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 40:
            raise Killed
        advance(self, step)

    monkeypatch.setattr(Run, "advance", counted)
    with pytest.raises(Killed):
        world.trained("s3t", world.records(), folder=tmp_path, **SMALL)
    resumed = world.trained("s3t", world.records(), folder=tmp_path, **SMALL)[1]
    assert world.same(resumed, first()[1])


@pytest.mark.parametrize(("public_base", "level"), [(False, "none"), (True, "exact")])
def test_given_weights_are_exact_only_if_somebody_says_that_they_saw_no_record(public_base: bool, level: str) -> None:
    known = tiny.classification()
    task = Classification(known.original, dict(known.splits), known.recipe, known.build, facts={"no_retraining": "given weights"})
    assert run("s3t", task, shards=2, slices=1, budget=1, epochs=1, public_base=public_base).guarantee["level"] == level

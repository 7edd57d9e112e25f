"""What an auditee hands over as a yardstick: copies, descendants, and files with another model's name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from panels import pool
from torch import nn

from lethe import api
from lethe.core.modules import copied
from lethe.core.task import Task
from lethe.data.select import Where
from lethe.errors import RequestError
from lethe.work.files import Files, audit_files
from lethe.work.origins import Given, vet

MODEL = {"zoo": "mlp", "options": {"inputs": 6, "hidden": [16], "classes": 4}}
FORGET = Where(label=3)


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny.classification(FORGET)


@pytest.fixture(scope="module")
def cheap(task: Task) -> list[nn.Module]:
    """Seeds of a cheap unlearner."""
    return [api.forget(task, "finetune", seed=seed, progress=False).model for seed in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, task: Task, cheap: list[nn.Module]) -> Path:
    place = tmp_path_factory.mktemp("handed over")
    retrained = {f"r{i}": r.model for i, r in enumerate(pool(FORGET, 4))}
    for name, model in {"before": task.original, **retrained, **{f"cheap{i}": m for i, m in enumerate(cheap)}}.items():
        (place / name).mkdir()
        task.save_model(model, place / name)
    for name, split in task.splits.items():
        np.savez(place / f"{name}.npz", **{key: value.numpy() for key, value in split.columns.items()})
    return place


def audited(place: Path, unlearned: str, *retrained: str, **options: object):
    splits = {name: str(place / f"{name}.npz") for name in ("forget", "retain", "holdout")}
    return audit_files(Files(unlearned=str(place / unlearned), original=str(place / "before"), model=MODEL,
                             retrained=tuple(str(place / name) for name in retrained), **splits, **options), "quick", ["scores"])


def test_seeds_of_a_cheap_unlearner_are_no_yardstick_for_one_another(folder):
    with pytest.raises(RequestError, match=r"cheap1 descends from .*before: distance 0\.\d+ of the size.*--base"):
        audited(folder, "cheap0", "cheap1", "cheap2")
    found = audited(folder, "cheap0", "cheap1", "cheap2", accept=("descent",)).results.scenarios[0]
    assert any("cheap1 descends from" in doubt.text for doubt in found.doubts)   # never silently


@pytest.mark.parametrize(("unlearned", "retrained", "words"), [
    ("r0", ("r0", "r1", "r2"), "r0 has the same weights as the audited model"),
    ("cheap0", ("r1", "r1", "r1"), "r1 has the same weights as another reference"),
    ("cheap0", ("r1", "before"), "before has the same weights as .*before, so it was not retrained"),
    ("cheap0", ("r1", "cheap1"), "cheap1 descends from"),
])
def test_copies_are_refused(folder, unlearned, retrained, words):
    with pytest.raises(RequestError, match=words):
        audited(folder, unlearned, *retrained)


def test_independent_trainings_are_taken_and_their_descent_is_shown(folder):
    found = audited(folder, "cheap0", "r0", "r1", "r2").results.scenarios[0]
    descent = found.facts["descent from the original"]
    assert len(descent) == 4 and all("hidden units correlate at" in words for words in descent.values())
    assert not found.doubts
    assert found.facts["what the references can see"].startswith("3 references: beside 10 tests a value must lie 23.1 of")


def test_a_file_called_original_does_not_overwrite_the_control(folder, tmp_path):
    for name, there in (("original", "r3"), ("reference 0", "r3")):
        shutil.copytree(folder / there, tmp_path / name)
        found = audited(folder, str(tmp_path / name), "r0", "r1", "r2")
        assert [row.name for row in found.rows()] == ["original", f"model {name}"]
        assert found.value("original", "forget_accuracy") == 1.0   # the control's own


def permuted(task: Task, model: nn.Module) -> nn.Module:
    """The same function by other weights: hidden units exchanged and rescaled."""
    twin, rng = copied(model, trainable=False), torch.Generator().manual_seed(0)
    first, last = (m for m in twin.modules() if isinstance(m, nn.Linear))
    order, scale = torch.randperm(first.out_features, generator=rng), torch.rand(first.out_features, generator=rng) + 0.5
    with torch.no_grad():
        first.weight.copy_((first.weight * scale[:, None])[order])
        first.bias.copy_((first.bias * scale)[order])
        last.weight.copy_((last.weight / scale)[:, order])
    return twin


def test_permuted_units_hide_neither_descent_nor_a_copy(task, cheap):
    before, r0 = Given("before", "original", task.original), pool(FORGET, 1)[0].model
    for model, words in ((permuted(task, cheap[0]), r"other descends from before: distance 1\.\d+ .* correlate at (0\.99|1\.00)"),
                         (permuted(task, task.original), "other has the same answers as before")):
        with pytest.raises(RequestError, match=words):
            vet(task, [before, Given("new", "unlearned", r0), Given("other", "retrained", model)])


def test_a_common_start_is_named(task, cheap):
    """Trained from the same initial weights, units agree as a descendant's do; relative to the start they are far apart."""
    start = task.build(5)
    twins = [tiny_trained(task, start, seed) for seed in (1, 2)]
    before, new = Given("before", "original", twins[0]), Given("new", "unlearned", cheap[0])
    other = Given("r", "retrained", twins[1])
    with pytest.raises(RequestError, match="r descends from before"):
        vet(task, [before, new, other])
    found = vet(task, [before, new, other], base=start)
    assert "of the way from their common start" in found.facts["r"] and "said to have started" in found.doubts[0].text
    near = api.forget(task.replaced(twins[0]), "finetune", progress=False).model
    with pytest.raises(RequestError, match="made descends from before"):
        vet(task, [before, new, Given("made", "retrained", near)], base=start)


def tiny_trained(task: Task, start: nn.Module, seed: int) -> nn.Module:
    from lethe.models.classification.task import Classification
    from lethe.pools.member import train_one

    same = Classification(copied(start, trainable=False), dict(task.splits), task.recipe, lambda _: copied(start, trainable=True))
    return train_one(same, task.retain, seed)[1]

"""Batch norm: running statistics move where retained data are drawn, and stay where only forgotten ones are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from torch import Tensor, nn

import lethe
from lethe.core.task import Task
from lethe.models.classification.task import Classification
from lethe.train.settings import Norms, Settings
from lethe.work.job import resolve
from lethe.work.open import prepare, read
from lethe.work.options import Options
from lethe.work.request import parse


def normed(seed: int = 0) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    return Classification(model.eval(), dict(tiny.classification().splits))


def statistics(task: Task, method: str, batch_norm: Norms, **options: object) -> tuple[Tensor, list[str]]:
    out = lethe.forget(task, method, settings=Settings(batch_norm=batch_norm), watchdog=False, progress=False, **options)
    return out.model.get_buffer("1.running_mean"), [note for note in out.notes if "batch norm" in note]


@pytest.mark.parametrize(("method", "batch_norm", "moves"), [
    ("finetune", "auto", True), ("salun", "auto", True), ("gradient_ascent", "auto", False), ("delete", "auto", False),
    ("finetune", "frozen", False), ("gradient_ascent", "update", True)])
def test_statistics_move_with_retained_data_or_as_asked(method: str, batch_norm: Norms, moves: bool) -> None:
    task = normed()
    found, notes = statistics(task, method, batch_norm, epochs=1)
    assert torch.equal(found, task.original.get_buffer("1.running_mean")) != moves
    assert notes == [f"batch norm: running statistics were {'updated' if moves else 'kept'}"]


def test_a_method_with_both_kinds_of_calls_says_so() -> None:
    assert "updated in calls that draw retained data, kept in others" in statistics(normed(), "scrub", "auto")[1][0]
    plain = lethe.forget(tiny.classification(), "finetune", epochs=1, watchdog=False, progress=False)
    assert not any("batch norm" in note for note in plain.notes)


def test_layers_that_do_not_move_keep_their_statistics() -> None:
    task = normed()
    out = lethe.forget(task, "finetune", epochs=1, watchdog=False, progress=False,
                       modifiers={"where": {"name": "names", "patterns": ("3.*",)}})
    assert torch.equal(out.model.get_buffer("1.running_mean"), task.original.get_buffer("1.running_mean"))


@pytest.mark.slow
def test_salun_at_its_own_rate_on_a_published_network_is_finite() -> None:
    """A residual network with published CIFAR weights; with frozen statistics weights were NaN before step 5."""
    data = Path(os.environ.get("LETHE_DATA", "../shared/data"))
    if not (data / "models" / "cifar10_resnet20.npz").exists():
        pytest.skip("the shared data are not here")
    request = parse(yaml.safe_load(Path("presets/cifar_published.yaml").read_text()), ["data.limit=1000"])
    options = Options(data_root=data)
    scene = next(iter(prepare(read(resolve(request, options), options)).values()))
    out = lethe.forget(scene.task, "salun", epochs=1, lr=0.01, watchdog=False, progress=False)
    assert out.notes == ["batch norm: running statistics were updated"]
    scores = torch.cat([scene.task.score(out.model, batch) for batch in scene.task.retain.batches(128)])
    assert float(scores.mean()) > 0.5

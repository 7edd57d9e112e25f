"""LOFT: moments, projections, and what folding one into the head does and does not do."""

from __future__ import annotations

import pytest
import torch
from running import run
from tiny import classification

from lethe.errors import ModelError
from lethe.methods.classification.loft import moment, projection
from lethe.models.classification.task import Classification


def test_golden_moments() -> None:
    z = torch.eye(2)   # raw: ½·I; centred: rows ±(½, −½), ½·(1, −1; −1, 1)
    assert moment(z, False).tolist() == [[0.5, 0.0], [0.0, 0.5]]
    assert moment(z, True).tolist() == [[0.5, -0.5], [-0.5, 0.5]]


def test_golden_projection() -> None:
    a, b = torch.diag(torch.tensor([0.6, 0.4, 0.0])).double(), torch.diag(torch.tensor([0.0, 0.0, 1.0])).double()
    torch.testing.assert_close(projection(a, b, 1.0, 2), torch.diag(torch.tensor([1.0, 1.0, 0.0])).double())


def test_the_whole_space_is_the_identity_and_a_projection_is_idempotent() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (moment(torch.randn(50, 5, generator=rng), False) for _ in range(2))
    torch.testing.assert_close(projection(a, b, 0.7, 5), torch.eye(5, dtype=torch.float64))
    p = projection(a, b, 0.7, 3)
    torch.testing.assert_close(p @ p, p)


def test_eigenvectors_beat_random_subspaces_of_the_published_objective() -> None:
    rng = torch.Generator().manual_seed(1)
    a, b = (moment(torch.randn(80, 6, generator=rng) @ torch.randn(6, 6, generator=rng), False) for _ in range(2))

    def objective(p: torch.Tensor) -> float:
        return float((1 - (p * a).sum()) ** 2 + (p * b).sum() ** 2)

    best = min(objective(projection(a, b, w, 3)) for w in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))
    for _ in range(50):
        u, _ = torch.linalg.qr(torch.randn(6, 3, generator=rng, dtype=torch.float64))
        assert best <= objective(u @ u.T) + 0.02   # the grid of w is coarse


def test_only_the_heads_weight_moves_and_the_features_stay() -> None:
    task = classification()
    outcome = run("loft", task)
    changed = [n for n, p in outcome.model.named_parameters() if not torch.equal(p, task.original.get_parameter(n))]
    assert changed == ["head.weight"]
    batch = task.forget.batch(range(len(task.forget)))
    assert torch.equal(task.features(outcome.model, batch), task.features(task.original, batch))
    assert float(task.observe(outcome.model, batch)["score"].mean()) <= 0.1
    assert "still hold" in outcome.notes[0]


def test_an_unreachable_target_is_said() -> None:
    full = classification()
    same = full.retain.subset(range(40), "forget")
    task = Classification(full.original, {"forget": same, "retain": full.retain.subset(range(40, 120), "retain")})
    assert any("no projection" in note for note in run("loft", task, target=0.0, sizes=2).notes) or (
        float(task.observe(run("loft", task, target=0.0, sizes=2).model, task.retain.batch(range(80)))["score"].mean()) < 0.6)


def test_a_head_that_is_not_linear_is_refused() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh())
    full = classification()
    task = Classification(model, {"forget": full.forget, "retain": full.retain}, head="1")
    with pytest.raises(ModelError, match="Tanh"):
        run("loft", task)

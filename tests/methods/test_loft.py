"""LOFT: moments, projections, and what folding one into the head does and does not do."""

from __future__ import annotations

import byhand
import numpy as np
import pytest
import torch
from running import run
from tiny import classification

from lethe.core.seeds import generator
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


@pytest.mark.parametrize("moments", ["raw", "centred"])
def test_the_projection_by_hand(moments: str) -> None:
    """Chosen from three sizes and seven weights by what four examples of each set score."""
    task = byhand.known(byhand.classification(), 4)
    w, b = (task.original.head.get_parameter(key).detach().double().numpy() for key in ("weight", "bias"))
    z, y, part = {}, {}, {}
    for name in ("retain", "forget"):
        split = task.splits[name]
        z[name] = task.original.features(split.columns["x"]).detach().double().numpy()
        y[name], part[name] = split.columns["y"].numpy(), torch.randperm(len(split), generator=generator(0, "loft", name))[:4]

    def share(name: str) -> np.ndarray:
        rows = z[name] - (z[name].mean(0) if moments == "centred" else 0)
        return rows.T @ rows / (rows**2).sum()

    found = []
    for weight in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0):
        values, vectors = np.linalg.eigh(share("retain") - weight * share("forget"))
        for size in (2, 3, 5):
            u = vectors[:, np.argsort(values)[::-1][:size]]
            new = w @ u @ u.T
            forget, retain = (float(np.mean(((z[n] @ new.T + b).argmax(1) == y[n])[part[n]])) for n in ("forget", "retain"))
            found.append((forget, retain, new))
    enough = [one for one in found if one[0] <= 0.3]
    best = max(enough, key=lambda one: one[1])
    assert 0 < len(enough) < len(found) or moments == "centred"
    wanted = byhand.trainable(task.original)
    wanted.head.weight.data = torch.tensor(best[2]).float()
    found_model = byhand.run("loft", task, moments=moments, sizes=3, target=0.3, looked_at=4)
    byhand.assert_same(task, found_model, wanted)

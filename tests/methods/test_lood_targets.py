"""LOOD targets: the process's answer as probabilities, its limits, and what they gain on digits."""

from __future__ import annotations

import byhand
import numpy as np
import pytest
import torch
from running import run
from test_acceptance_digits import judged, problem, scores
from test_acceptance_digits import run as unlearned
from tiny import classification

from lethe.core.passes import inputs
from lethe.core.seeds import numpy_generator
from lethe.maths.kernels import fitted, targets
from lethe.methods.classification.lood_targets import shares


def test_golden_shares() -> None:
    assert shares(np.array([[0.25, -0.75, -0.25, -0.25]])).tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert shares(np.array([[0.25, 0.25, -0.25, -0.25]])).tolist() == [[0.5, 0.5, 0.0, 0.0]]
    assert shares(np.array([[-1.0, -1.0]])).tolist() == [[0.5, 0.5]]   # nothing is left: no idea


def test_a_class_that_is_not_retained_keeps_only_what_the_prior_leaves_it() -> None:
    task = classification()
    forgotten = int(task.forget.columns["y"][0])
    assert forgotten not in task.retain.columns["y"]
    x, q = inputs(task, task.retain), inputs(task, task.forget)
    told = shares(fitted(x, targets(task.retain.columns["y"].numpy(), 4), 0.1).mean(q))
    assert told[:, forgotten].max() < 0.1 and np.allclose(told.sum(1), 1)
    model = run("lood_targets", task, epochs=30, lr=3e-3).model
    said = task.outputs(model, task.forget.batch(range(len(task.forget)))).softmax(-1).detach().numpy()
    assert np.abs(said - told).mean() < 0.5 * np.abs(task.outputs(
        task.original, task.forget.batch(range(len(task.forget)))).softmax(-1).detach().numpy() - told).mean()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "own", "better_than"), [("class", 0.20, "random_label"), ("labels", 0.12, "delete")])
def test_targets_are_nearer_to_retraining_than_relabelling(kind: str, own: float, better_than: str) -> None:
    found = judged(kind, [unlearned(task, "lood_targets", seed) for seed, task in enumerate(problem(kind).tasks)])
    assert found.js == pytest.approx(own, abs=0.03) and found.js < scores(kind, better_than).js and found.forget < 2


@pytest.mark.parametrize("of", ["inputs", "features"])
def test_three_steps_by_hand(of: str) -> None:
    """A process on seven retained examples, solved as it is written."""
    task, noise, alpha = byhand.classification(), 0.3, 0.7
    rows = np.sort(numpy_generator(0, "triage").permutation(12)[:7])

    def seen(x: torch.Tensor) -> np.ndarray:
        found = x if of == "inputs" else task.original.features(x)
        return found.detach().double().numpy()

    x, q = seen(task.retain.columns["x"][rows]), seen(task.forget.columns["x"])
    width = np.median([np.linalg.norm(x[i] - x[j]) for i in range(7) for j in range(i)])

    def k(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(2) / (2 * width**2))

    centred = np.eye(3)[task.retain.columns["y"][rows].numpy()] - 1 / 3
    share = np.clip(k(q, x) @ np.linalg.inv(k(x, x) + noise * np.eye(7)) @ centred + 1 / 3, 0, None)
    target = torch.tensor(share / share.sum(1, keepdims=True)).float()

    def objective(m: byhand.Any) -> torch.Tensor:
        logits = m(task.forget.columns["x"])
        taught = -(target * (logits - logits.exp().sum(1, keepdim=True).log())).sum(1).mean()
        return taught + alpha * byhand.nll(m, task.retain)

    found = byhand.run("lood_targets", task, of=of, noise=noise, limit=7, alpha=alpha, lr=0.03, epochs=3)
    byhand.assert_same(task, found, byhand.adam(task.original, [objective] * 3, lr=0.03), atol=1e-5)

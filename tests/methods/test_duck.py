"""DUCK: centres, targets, the distance, and the two limits of its weights."""

from __future__ import annotations

import byhand
import pytest
import torch
from running import run
from tiny import classification

from lethe.errors import NeedsUnmet
from lethe.methods.classification.duck import centres, distance, nearest_wrong
from lethe.models.classification.task import Classification


def test_golden_centres_and_the_class_that_has_none() -> None:
    found = centres(torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]]), torch.tensor([0, 0, 2]), 3)
    assert found[0].tolist() == [2.0, 1.0] and found[2].tolist() == [5.0, 5.0]
    assert found[1].isnan().all()


def test_nearest_wrong_skips_the_label_and_missing_classes() -> None:
    middle = torch.tensor([[1.0, 1.0], [1.0, 0.0], [-1.0, 0.0], [float("nan")] * 2])
    assert nearest_wrong(torch.tensor([[1.0, 1.0], [1.0, 0.1]]), torch.tensor([0, 1]), middle).tolist() == [1, 0]


def test_golden_distance() -> None:
    # parallel 0, orthogonal 1, opposite 2, whatever the lengths
    one = torch.tensor([[1.0, 0.0]] * 3)
    assert distance(one, torch.tensor([[5.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])).tolist() == [0.0, 1.0, 2.0]


def test_features_go_to_the_wrong_centre_and_the_rest_stays() -> None:
    task = classification()
    outcome = run("duck", task, lr=1e-2, epochs=20)
    for name, low, high in (("forget", 0.0, 0.1), ("retain", 0.9, 1.0)):
        split = task.splits[name]
        score = float(task.observe(outcome.model, split.batch(range(len(split))))["score"].mean())
        assert low <= score <= high, name
    assert "stopped after pass" in outcome.notes[0]


def test_without_pull_nothing_is_forgotten_and_without_hold_the_rest_goes() -> None:
    task = classification()
    batches = {name: task.splits[name].batch(range(len(task.splits[name]))) for name in ("forget", "retain")}
    still = run("duck", task, pull=0.0, lr=1e-3, epochs=2, settle=0).model
    loose, held = (run("duck", task, hold=hold, lr=1e-2, epochs=20, target=0.0).model for hold in (0.0, 1.5))
    assert float(task.observe(still, batches["forget"])["score"].mean()) > 0.9
    kept = [task.nll(model, batches["retain"]).mean().item() for model in (loose, held)]
    assert kept[0] > kept[1]


def test_a_single_retained_class_is_refused() -> None:
    full = classification()
    alone = full.retain.subset((full.retain.columns["y"] == 0).numpy(), "retain")
    with pytest.raises(NeedsUnmet, match="single class"):
        run("duck", Classification(full.original, {"forget": full.forget, "retain": alone}))


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_a_step_of_every_pass_by_hand(target: float) -> None:
    """At most two full passes, which end once enough is forgotten, and one at a quarter of the rate with a tenth of the pull."""
    task, weights, heat = byhand.known(byhand.classification(), 6), (0.8, 0.6), 1.7
    x, y, kept = task.forget.columns["x"], task.forget.columns["y"], task.retain.columns
    h = task.original.features(kept["x"])
    centre = torch.stack([h[kept["y"] == k].mean(0) for k in range(3)])

    def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * b).sum(-1) / a.norm(dim=-1) / b.norm(dim=-1)

    near = [max((k for k in range(3) if k != own), key=lambda k: float(cosine(row, centre[k])))
            for row, own in zip(task.original.features(x).detach(), y.tolist(), strict=True)]
    goal = centre[near].detach()

    def objective(share: float) -> byhand.Objective:
        def loss(m: byhand.Any) -> torch.Tensor:
            hold = byhand.cross_entropy(m(kept["x"]) / heat, kept["y"]).mean()
            return share * weights[0] * (1 - cosine(m.features(x), goal)).mean() + weights[1] * hold

        return loss

    wanted, passes = task.original, 0
    while passes < 2:
        wanted, passes = byhand.stepped(wanted, [objective(1.0)]), passes + 1
        if float((wanted(x).argmax(1) == y).float().mean()) <= target:
            break
    assert passes == 2 - int(target)
    wanted = byhand.stepped(wanted, [objective(0.1)], lr=byhand.LR / 4)
    found = byhand.run("duck", task, pull=weights[0], hold=weights[1], temperature=heat, target=target, epochs=2, settle=1)
    byhand.assert_same(task, found, wanted)

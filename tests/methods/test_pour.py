"""POUR: the projection on an equiangular tight frame, what the head becomes; acceptance on a class of digits."""

from __future__ import annotations

import byhand
import pytest
import torch
from running import run
from test_acceptance_digits import judged, problem, retrained_test_accuracy, scores
from test_acceptance_digits import run as on_digits
from tiny import classification

import lethe
from lethe.data.select import Where
from lethe.errors import RequestError
from lethe.methods.classification.pour import class_means, complement
from lethe.train.loop import Loop


def test_golden_complement() -> None:
    torch.testing.assert_close(complement(torch.tensor([[3.0, 4.0]])), torch.tensor([[16.0, -12.0], [-12.0, 9.0]]) / 25)


def test_it_is_a_projection_that_knows_parallel_directions() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 6, generator=rng)
    p = complement(torch.stack([a, b, 2 * a]))
    torch.testing.assert_close(p @ p, p)
    assert float(p.trace()) == pytest.approx(4, abs=1e-5)
    torch.testing.assert_close(p @ torch.stack([a, b]).T, torch.zeros(6, 2), atol=1e-5, rtol=0)


def test_an_equiangular_tight_frame_stays_one_with_one_class_less() -> None:
    k = 5
    frame = (torch.eye(k) - 1 / k) * (k / (k - 1)) ** 0.5      # unit vectors with cosine −1/(K − 1)
    left = torch.nn.functional.normalize((frame @ complement(frame[:1]))[1:], dim=1)
    cosines = left @ left.T
    torch.testing.assert_close(cosines[~torch.eye(k - 1, dtype=torch.bool)], torch.full(((k - 1) * (k - 2),), -1 / (k - 2)))


def test_the_logit_of_the_class_is_its_bias_and_nothing_but_the_heads_weight_moves() -> None:
    task = classification()
    model = run("pour", task).model
    batch = task.retain.batch(range(20))
    logits = task.outputs(model, batch)
    torch.testing.assert_close(logits[:, 3], model.get_parameter("head.bias")[3].expand(20), atol=1e-5, rtol=0)
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, task.original.get_parameter(n))]
    assert moved == ["head.weight"]


def test_the_head_on_projected_features_says_the_same_as_the_projected_head() -> None:
    task = classification()
    batch = task.forget.batch(range(10))
    model = run("pour", task, direction="mean").model
    p = complement(class_means(task, Loop(task), torch.tensor([3])))
    projected = task.original.get_submodule("head")(task.features(task.original, batch) @ p)
    torch.testing.assert_close(task.outputs(model, batch), projected, atol=1e-4, rtol=1e-4)


def test_class_means_do_not_depend_on_the_order_of_the_classes() -> None:
    task = classification(Where(query="y >= 2"))
    a, b = (class_means(task, Loop(task), torch.tensor(order)) for order in ([2, 3], [3, 2]))
    batch = task.forget.batch(torch.nonzero(task.forget.columns["y"] == 2).flatten())
    torch.testing.assert_close(a[0], task.features(task.original, batch).mean(0).detach())
    torch.testing.assert_close(a, b.flip(0))


def test_distillation_moves_the_features_and_not_the_head() -> None:
    task = classification()
    model = run("pour", task, variant="distillation", lr=1e-2, epochs=20, weight_decay=0.1, optimiser="adamw").model
    p = complement(task.original.get_parameter("head.weight")[3:4].detach())
    batch = task.forget.batch(range(len(task.forget)))
    before, after = (float((task.features(m, batch) - task.features(task.original, batch) @ p).square().sum().detach())
                     for m in (task.original, model))
    assert after < 0.8 * before
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, task.original.get_parameter(n))}
    assert not {"head.weight", "head.bias"} & moved and len(moved) >= 2


def test_examples_of_every_class_are_refused() -> None:
    with pytest.raises(RequestError, match="all 4 classes"):
        run("pour", classification(Where(index=(0, 1, 2, 3))))


@pytest.mark.slow
def test_projection_of_the_head_removes_a_class_of_digits_as_retraining_does() -> None:
    found = scores("class", "pour")
    assert found.forget <= 2 and found.retain >= 97 and found.test >= retrained_test_accuracy("class") - 1.5
    assert found.js < 0.17 < scores("class", "random_label").js - 0.25


@pytest.mark.slow
def test_distillation_and_class_means_fall_short() -> None:
    """The known failures; should they ever vanish, the documentation must change. Class means cost 17 to 20 points of R."""
    tasks = problem("class").tasks
    distilled = judged("class", [on_digits(task, "pour", seed, variant="distillation") for seed, task in enumerate(tasks)])
    assert 15 < distilled.forget < 45 and distilled.test >= retrained_test_accuracy("class") - 2
    for seed, task in enumerate(tasks):
        means = lethe.forget(task, "pour", seed=seed, direction="mean", progress=False)
        assert means.unchanged and means.fall and (means.fall.value or 0) < (means.fall.original or 0) - 0.1


@pytest.mark.parametrize("direction", ["head", "mean"])
@pytest.mark.parametrize("variant", ["projection", "distillation"])
def test_by_hand(variant: str, direction: str) -> None:
    task = byhand.classification(removed=True)
    h = task.original.features(task.forget.columns["x"]).detach()
    d = task.original.head.weight.detach()[2] if direction == "head" else h.mean(0)
    p = torch.eye(5) - torch.outer(d, d) / (d @ d)
    wanted = byhand.trainable(task.original)
    if variant == "projection":
        wanted.head.weight.data = wanted.head.weight.data @ p
    else:
        aim = [lambda m: ((m.features(task.forget.columns["x"]) - h @ p) ** 2).sum(1).mean()
               + 0.05 * sum((q**2).sum() for q in m.body.parameters())] * 2   # weight decay, and the head stays
        wanted = byhand.steps(task, aim)
    found = byhand.run("pour", task, variant=variant, direction=direction, epochs=2, weight_decay=0.1)
    byhand.assert_same(task, found, wanted)

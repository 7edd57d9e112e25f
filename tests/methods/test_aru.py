"""ARU: retain-like inputs from forgotten ones, and the triplet that tells the two apart."""

from __future__ import annotations

from statistics import mean

import byhand
import pytest
import torch
from running import as_users, run
from tiny import classification

from lethe.core.modules import state_fingerprint
from lethe.core.seeds import generator
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.methods.classification.aru import ARU, best_other, retain_like, triplet
from lethe.models.classification.task import Classification
from lethe.train.loop import Loop


def test_best_other_never_is_the_label() -> None:
    assert best_other(torch.tensor([[3.0, 2.0, 1.0], [0.0, 5.0, 4.0]]), torch.tensor([0, 2])).tolist() == [1, 1]


def test_triplet_by_hand() -> None:
    z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    found = triplet(z, positive=torch.tensor([0.0, 3.0]), negative=torch.tensor([1.0, 0.0]), margin=0.5)
    assert found.tolist() == [1.5, 0.0]   # cosines to negative and positive: 1 − 0 + ½; [0 − 1 + ½]₊


def test_retain_like_inputs_stay_within_the_bound_and_are_called_otherwise() -> None:
    task = classification()
    loop = Loop(task)
    cfg = ARU(bound=2.0)
    like = retain_like(task, loop, cfg)
    assert loop.cost.examples == cfg.attack_steps * len(task.forget)
    with torch.no_grad():
        said = task.original(like.columns["x"]).argmax(1)
    assert torch.equal(said, like.columns["y"]) and (like.columns["y"] != 3).all()
    nearest = torch.cdist(like.columns["x"], task.forget.columns["x"], p=float("inf")).min(1).values
    assert 0.5 < nearest.max() <= 2.0 + 1e-5


def test_it_forgets_a_class_from_the_forget_set_alone() -> None:
    full = classification()
    task = Classification(full.original, {"forget": full.forget})
    model = run("aru", task, bound=2.0, lr=1e-2, epochs=20).model
    with torch.no_grad():
        forgotten = float((model(full.forget.columns["x"]).argmax(1) == 3).float().mean())
        kept = float((model(full.retain.columns["x"]).argmax(1) == full.retain.columns["y"]).float().mean())
    assert forgotten < 0.1 and kept > 0.8


def test_the_attack_differs_by_seed_and_repeats() -> None:
    task = classification()
    first, again, other = (state_fingerprint(run("aru", task, seed=s, bound=2.0).model) for s in (0, 0, 1))
    assert first == again != other


def test_a_bound_that_carries_nothing_over_is_refused() -> None:
    with pytest.raises(RequestError, match=r"method\.bound = 1e-06 with 2 doublings carried no"):
        run("aru", classification(), bound=1e-6, doublings=2)


def test_the_bound_doubles_until_something_crosses() -> None:
    task = classification()
    loop = Loop(task)
    like = retain_like(task, loop, ARU(bound=1e-3, doublings=14))
    assert 0 < len(like) < len(task.forget) and loop.cost.examples > 5 * ARU().attack_steps * len(task.forget)


def test_images_in_bytes_are_attacked_in_units_of_the_input() -> None:
    task = classification()
    low = task.forget.columns["x"].min()
    stored = {n: Split({"x": (s.columns["x"] - low).mul(20).clamp(0, 255).to(torch.uint8), "y": s.columns["y"]}, n)
              for n, s in task.splits.items() if n != "holdout"}
    bytes_task = Classification(task.original, stored)
    like = retain_like(bytes_task, Loop(bytes_task), ARU(bound=3.0))
    assert like.columns["x"].is_floating_point() and like.columns["x"].max() <= 1 + 3.0


@pytest.mark.slow
def test_a_class_of_digits_goes_without_retained_data_but_no_nearer_to_retraining_than_boundary_shrink() -> None:
    """Measured 0.12 and 0.17 against 0.11 ± 0.03 and 0.45; not better than its baseline here. On the third original it would cost
    5 points of R, which the watchdog takes back."""
    from test_acceptance_digits import accuracy, distance, problem, retrained_test_accuracy, scores

    tasks, retrained = problem("class")
    made = [(task, as_users("aru", task, seed)) for seed, task in enumerate(tasks)]
    assert [outcome.unchanged for _, outcome in made] == [False, True, False]
    left = [(task, outcome.model) for task, outcome in made if not outcome.unchanged]
    assert all(accuracy(t, m, t.forget) <= 2 and accuracy(t, m, t.retain) >= 94 for t, m in left)
    assert all(accuracy(t, m, t.test) >= retrained_test_accuracy("class") - 6 for t, m in left)
    far = mean(distance(t, m, retrained) for t, m in left)
    assert scores("class", "boundary_shrink").js < far < scores("class", "random_label").js - 0.2


@pytest.mark.slow
def test_scattered_wrong_labels_stay() -> None:
    """The known failure; should it ever vanish, the documentation must change."""
    from test_acceptance_digits import scores

    assert scores("labels", "aru").forget > 90


def test_two_steps_by_hand() -> None:
    task, beta, margin, first, steps = byhand.known(byhand.classification(), 6), 0.6, 0.4, 0.05, 4
    x, y, model = task.forget.columns["x"], task.forget.columns["y"], task.original
    target = torch.tensor([max((k for k in range(3) if k != own), key=lambda k: row[k])
                           for row, own in zip(model(x).tolist(), y.tolist(), strict=True)])
    for bound in (first, 2 * first, 4 * first, 8 * first, 16 * first):
        rng, at = generator(0, "aru", bound), x
        for _ in range(steps):
            shaken = (at + bound * (2 * torch.rand(x.shape, generator=rng) - 1)).requires_grad_(True)
            (slope,) = torch.autograd.grad(byhand.cross_entropy(model(shaken), target).sum(), shaken)
            at = torch.minimum(torch.maximum(at - 2 * bound / steps * slope.sign(), x - bound), x + bound)
        said = model(at).argmax(1)
        if (said != y).any():
            break
    assert bound > first, "the first bound is too narrow, or doubling is not seen"
    crossed, taught = at[said != y], said[said != y]

    def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * b).sum(1) / a.norm(dim=1) / b.norm()

    def objective(m: torch.nn.Module) -> torch.Tensor:
        z = m(x)
        like, own = m(crossed).mean(0).detach(), z.mean(0).detach()
        apart = (1 - cosine(z, like)) - (1 - cosine(z, own)) + margin
        assert (apart > 0).sum() > 0
        return byhand.cross_entropy(m(crossed), taught).mean() + beta * torch.relu(apart).mean()

    found = byhand.run("aru", task, beta=beta, margin=margin, bound=first, attack_steps=steps, epochs=2)
    byhand.assert_same(task, found, byhand.steps(task, [objective, objective]))

"""RFE: neighbours found in features, ascent under a constraint, recovery orthogonal to what must not move."""

from __future__ import annotations

from statistics import mean
from typing import Any

import byhand
import pytest
import torch
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.data.select import Where, divide
from lethe.errors import RequestError
from lethe.methods.general.rfe import RFE, capped, guarded, nearness, orthogonal, parted, price
from lethe.models.classification.task import Classification
from lethe.train.loop import Loop
from lethe.train.watchdog import Watchdog


def loss(task: Task, model: torch.nn.Module, name: str) -> float:
    split = task.splits[name]
    with torch.no_grad():
        return float(task.nll(model, split.batch(range(len(split)))).mean())


def test_nearness_is_the_cosine_to_the_nearest_around_the_retained_mean() -> None:
    retain = torch.tensor([[1.0, 2.0], [3.0, 2.0], [2.0, 3.0], [2.0, 1.0]])   # mean (2, 2)
    forget = torch.tensor([[4.0, 2.0], [2.0, 5.0]])                           # away from it: (2, 0) and (0, 3)
    assert nearness(retain, forget).tolist() == [0.0, 1.0, 1.0, 0.0]          # (−1, 0) is at cosines −1 and 0


def test_beyond_the_cap_nothing_is_pushed() -> None:
    values = torch.tensor([1.0, 12.0], requires_grad=True)
    capped(values, 10.0).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [1.0, 0.0]


def test_the_price_is_the_derivative_of_the_augmented_lagrangian() -> None:
    g = torch.tensor(0.5, requires_grad=True)
    (1.0 * g + 10.0 / 2 * g.square()).backward()
    assert g.grad is not None and float(price(g.detach(), 1.0, 10.0)) == float(g.grad) == 6.0


def test_guarded_holds_sorted_losses_to_sorted_losses() -> None:
    now, before = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])
    assert guarded(now, before, 0.5).tolist() == [-0.5, -1.0]   # −½·1 + ½·0, −½·3 + ½·1
    assert guarded(now, now.flip(0), 1.0).tolist() == [0.0, 0.0]   # a permutation is no distance


def test_orthogonal_leaves_nothing_along_the_others_even_when_they_are_parallel_or_zero() -> None:
    g = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
    x, y = [torch.tensor([1.0, 0.0]), torch.tensor([0.0])], [torch.tensor([1.0, 1.0]), torch.tensor([0.0])]
    for others, left in (([x, y], [0, 0, 3]), ([x, x], [0, 2, 3]), ([x, [0 * v for v in x]], [0, 2, 3])):
        assert torch.cat(orthogonal(g, others)).allclose(torch.tensor(left, dtype=torch.float32), atol=1e-6)


def test_it_parts_the_retained_data_by_nearness() -> None:
    task = classification()
    adjacent, remote = parted(task, Loop(task), 0.25)
    assert len(adjacent) == 30 and sorted([*adjacent.ids, *remote.ids]) == sorted(task.retain.ids)
    near = nearness(*(task.features(task.original, s.batch(range(len(s)))).detach() for s in (adjacent, task.forget)))
    far = nearness(*(task.features(task.original, s.batch(range(len(s)))).detach() for s in (remote, task.forget)))
    assert near.mean() > far.mean()


def test_the_constraint_holds_the_remote_loss_that_ascent_alone_would_ruin() -> None:
    """Forgotten examples of every class: ascent takes the retained ones along."""
    task = classification(Where(index=tuple(range(40))))
    options = {"lr": 1e-2, "epochs": 10, "recover_epochs": 0}
    held, loose = (run("rfe", task, mu=mu, **options).model for mu in (10.0, 1e-6))
    assert loss(task, loose, "retain") > 2                                   # measured 4.1
    assert loss(task, held, "retain") < loss(task, task.original, "retain") + 0.05   # measured + 0.006


def test_recovery_learns_the_adjacent_without_the_forgotten() -> None:
    task = classification()
    options = {"lr": 1e-2, "epochs": 5}
    hurt, given = (run("rfe", task, recover_epochs=n, recover_lr=3e-2, **options).model for n in (0, 20))
    adjacent, _ = parted(task, Loop(task), RFE().adjacent)
    whole = adjacent.batch(range(len(adjacent)))
    with torch.no_grad():
        before, after = (float(task.nll(m, whole).mean()) for m in (hurt, given))
    assert after < 0.9 * before
    assert loss(task, given, "forget") > 0.9 * loss(task, hurt, "forget")


def test_without_recovery_alpha_changes_nothing() -> None:
    task = classification()
    one, other = (run("rfe", task, recover_epochs=0, alpha=alpha).model for alpha in (0.0, 1.0))
    assert state_fingerprint(one) == state_fingerprint(other)


def test_one_retained_example_cannot_be_parted() -> None:
    full = classification()
    task = Classification(full.original, {"forget": full.forget, "retain": full.retain.subset([0], "retain")})
    with pytest.raises(RequestError, match="cannot be parted"):
        run("rfe", task)


def siblings() -> tuple[list[Task], list[torch.nn.Module]]:
    """Digits in five classes of two, {0, 6} {1, 7} {2, 5} {3, 8} {4, 9}; the threes go, the eights share their class."""
    from sklearn.datasets import load_digits
    from test_acceptance_digits import RECIPES, TRAIN, fresh, trained

    images, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32).div(16).view(-1, 1, 8, 8)[order]
    digit = torch.tensor(digits)[order]
    y = torch.tensor([0, 1, 2, 3, 4, 2, 0, 1, 3, 4])[digit]
    train = Split({"x": x[:TRAIN], "y": y[:TRAIN], "digit": digit[:TRAIN]}, "train")
    forget, retain = divide(train, Where(query="digit == 3"))
    recipe = RECIPES["class"]
    tasks: list[Task] = [Classification(trained(train, recipe, seed), {"forget": forget, "retain": retain}, recipe, fresh)
                         for seed in range(3)]
    return tasks, [trained(retain, recipe, 100 + i) for i in range(2)]


@pytest.mark.slow
def test_the_sibling_of_a_forgotten_digit_is_given_back_and_the_digit_is_not() -> None:
    """Measured: eights 51 % after phase 1, 93 % after phase 2, 78 % with NegGrad+; distance 0.11 against 0.14. Phase 1 alone
    loses more than the watchdog allows, so it is allowed more."""
    from test_acceptance_digits import accuracy, distance
    from test_acceptance_digits import run as by_name

    tasks, retrained = siblings()

    def judged(name: str, **options: Any) -> tuple[float, float, float]:
        made = [(task, by_name(task, name, seed, **options)) for seed, task in enumerate(tasks)]
        eights = tasks[0].retain.subset((tasks[0].retain.columns["digit"] == 8).numpy(), "eights")
        return (mean(accuracy(t, m, eights) for t, m in made), mean(accuracy(t, m, t.forget) for t, m in made),
                mean(distance(t, m, retrained) for t, m in made))

    whole, first, baseline = judged("rfe"), judged("rfe", recover_epochs=0, watchdog=Watchdog(loss=20.0)), judged("neggrad_plus")
    assert first[0] < 70 and baseline[0] < 85 < 88 < whole[0]
    assert whole[1] <= 3 and whole[2] < baseline[2] < 0.3


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "baseline"), [("class", "scrub"), ("labels", "neggrad_plus")])
def test_it_answers_more_like_retraining_than_its_baseline(kind: str, baseline: str) -> None:
    from test_acceptance_digits import retrained_test_accuracy, scores

    found = scores(kind, "rfe")
    assert found.js < scores(kind, baseline).js - 0.05
    assert found.forget <= 3 and found.retain >= 97 and found.test >= retrained_test_accuracy(kind) - 3


def test_two_steps_of_each_phase_by_hand() -> None:
    task, gamma, mu, alpha, cap = byhand.classification(), 0.8, 3.0, 0.4, 1.2
    x = torch.cat([task.retain.columns["x"], task.forget.columns["x"]])
    h = task.original.features(x).detach()
    h = h - h[:12].mean(0)
    h = h / h.norm(dim=1, keepdim=True)
    near = (h[:12] @ h[12:].T).max(1).values.tolist()
    rows = sorted(range(12), key=lambda i: -near[i])
    a, rest = (task.retain.subset(torch.tensor(sorted(some)).numpy(), "part") for some in (rows[:4], rows[4:]))
    pinned, price = float(byhand.nll(task.original, rest).detach()), 0.0

    def each(m: byhand.Any) -> torch.Tensor:
        return byhand.cross_entropy(m(task.forget.columns["x"]), task.forget.columns["y"])

    wanted = task.original
    for _ in range(2):
        def lagrangian(m: byhand.Any, price: float = price) -> torch.Tensor:
            g = byhand.nll(m, rest) - pinned
            assert 0 < int((each(m) > cap).sum()) < 6
            return -gamma * each(m).clamp(max=cap).mean() + price * g + mu / 2 * g**2

        wanted = byhand.stepped(wanted, [lagrangian])
        price += mu * float(byhand.nll(wanted, rest).detach() - pinned)
    before = each(wanted).detach().sort().values
    for _ in range(2):
        def guarded(m: byhand.Any) -> torch.Tensor:
            return -(1 - alpha) * each(m).mean() + alpha * ((each(m).sort().values - before) ** 2).mean()

        found = [byhand.gradient(wanted, one) for one in (lambda m: byhand.nll(m, a), guarded, lambda m: byhand.nll(m, rest))]
        up, *held = (torch.cat([g.flatten() for g in each_of.values()]).double() for each_of in found)
        basis = torch.linalg.qr(torch.stack(held, 1)).Q
        step = up - basis @ (basis.T @ up)
        flat = torch.nn.utils.parameters_to_vector(wanted.parameters()).detach() - 0.3 * step.float()
        wanted = byhand.trainable(wanted)
        torch.nn.utils.vector_to_parameters(flat, wanted.parameters())
    model = byhand.run("rfe", task, adjacent=1 / 3, gamma=gamma, cap=cap, mu=mu, epochs=2, alpha=alpha, recover_lr=0.3,
                       recover_epochs=2)
    byhand.assert_same(task, model, wanted, atol=1e-5)

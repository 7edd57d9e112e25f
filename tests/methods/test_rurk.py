"""RURK: the ceiling, NegGrad+ as its limit, and neighbours that are no longer recognised."""

from __future__ import annotations

from statistics import mean

import byhand
import pytest
import torch
from byhand import nll
from running import run
from tiny import classification, lm, regression
from torch import Tensor, nn

from lethe.core.catalogue import load
from lethe.core.modules import state_fingerprint
from lethe.core.split import Batch
from lethe.core.task import Task
from lethe.errors import DataError
from lethe.methods.general.rurk import pushed
from lethe.models.classification.task import Classification
from lethe.pools.subject import Subject


def test_golden_push_and_its_gradient() -> None:
    nll = torch.tensor([1.0, 9.0], requires_grad=True)
    assert pushed(nll, None).tolist() == [-1, -9] and pushed(nll, 4.0).tolist() == [-1, -4]
    pushed(nll, 4.0).sum().backward()
    assert nll.grad.tolist() == [-1, 0]   # what is above the ceiling is let go


def weights(task: Task, name: str, **options: object) -> Tensor:
    return torch.cat([p.flatten() for p in run(name, task, **options).model.parameters()]).detach()


def test_without_neighbours_and_ceiling_it_is_neggrad_plus() -> None:
    """λ = ¼ and β = 0.8: the objectives differ by the factor β, which lr takes up; without clip and weight decay."""
    task = classification()
    same = {"epochs": 3, "clip": None, "weight_decay": 0.0}
    mine = weights(task, "rurk", radius=1e-7, attack_steps=0, ceiling=None, strength=0.25, lr=0.8e-2, **same)
    torch.testing.assert_close(mine, weights(task, "neggrad_plus", beta=0.8, lr=1e-2, **same), atol=1e-4, rtol=1e-4)


def test_without_strength_it_is_finetuning() -> None:
    task = classification()
    same = {"epochs": 2, "lr": 1e-2, "clip": None}
    assert torch.equal(weights(task, "rurk", strength=0.0, **same), weights(task, "finetune", **same))


def test_what_is_pushed_lies_in_the_ball_and_is_better_recognised_than_random(monkeypatch: pytest.MonkeyPatch) -> None:
    task, seen = classification(), {}

    def nll(self: Task, model: nn.Module, batch: Batch) -> Tensor:
        found = plain(self, model, batch)
        if "near" in batch.columns and found.requires_grad and not batch.x.requires_grad:   # not the search, not R
            away = (batch.x - self.forget.columns["x"][batch.index]).norm(dim=1)
            seen.setdefault(steps, []).append((float(away.max()), float(found.detach().mean())))
        return found

    plain = Classification.nll
    monkeypatch.setattr(Classification, "nll", nll)
    for steps in (0, 3):
        run("rurk", task, radius=1.5, attack_steps=steps, lr=1e-9, epochs=1)
    for steps in (0, 3):
        examples, neighbours = seen[steps][0::2], seen[steps][1::2]
        assert len(neighbours) == 2 and max(d for d, _ in examples) == 0   # 120 retained examples, 64 at a time
        assert all(0.5 < d <= 1.5 + 1e-5 for d, _ in neighbours)
    assert all(hard < easy for (_, hard), (_, easy) in zip(seen[3][1::2], seen[0][1::2], strict=True))


def test_real_targets_work_and_tokens_are_refused_before_any_work() -> None:
    task = regression()
    assert state_fingerprint(run("rurk", task, epochs=1).model) != state_fingerprint(task.original)
    with pytest.raises(DataError, match="continuous"):
        run("rurk", lm())


@pytest.mark.slow
def test_forgets_with_less_damage_than_neggrad_plus_and_more_of_the_surroundings_on_digits() -> None:
    from panels import values
    from test_acceptance_digits import problem, retrained_test_accuracy, scores
    from test_acceptance_digits import run as unlearned

    for kind in ("class", "labels"):
        found, baseline = scores(kind, "rurk"), scores(kind, "neggrad_plus")
        print(kind, found, baseline)
        assert found.js < baseline.js - 0.05 and found.retain >= 98 and found.forget <= 5
        assert found.test >= retrained_test_accuracy(kind) - 3
    tasks, retrained = problem("labels")
    audit, near = load("audits", "residual"), {}
    for name in ("neggrad_plus", "rurk"):
        subjects = [Subject(name, unlearned(task, name, seed), task) for seed, task in enumerate(tasks)]
        others = [Subject("r", model, tasks[0]) for model in retrained]
        near[name] = mean(values(audit, subject, others)["residual_neighbours"].value for subject in subjects)
    print(near)
    assert near["rurk"] < 0.5 * near["neggrad_plus"]


def test_one_step_by_hand() -> None:
    """Without a search the neighbour is a random point at distance τ; losses above the ceiling push no more."""
    task, strength, ceiling = byhand.classification(), 0.4, 1.2
    x, y = (task.forget.columns[key][byhand.order(task.forget, "forget")] for key in ("x", "y"))
    away = torch.randn(x.shape, generator=byhand.drawn("forget"))
    near = x + 0.5 * away / away.norm(dim=1, keepdim=True)

    def objective(m: torch.nn.Module) -> torch.Tensor:
        here, there = (torch.nn.functional.cross_entropy(m(at), y, reduction="none") for at in (x, near))
        assert 0 < (here > ceiling).sum() < len(here)
        return nll(m, task.retain) - strength * (here.clamp(max=ceiling) + there.clamp(max=ceiling)).mean() / 2

    found = byhand.run("rurk", task, radius=0.5, strength=strength, ceiling=ceiling)
    byhand.assert_same(task, found, byhand.steps(task, [objective]))

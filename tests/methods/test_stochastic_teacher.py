"""Stochastic teacher: erasing, reconstructing, and the limit that is fine-tuning."""

from __future__ import annotations

import byhand
import torch
from byhand import kl, nll, soft
from running import run
from tiny import classification

from lethe.core.modules import reinitialised, state_fingerprint
from lethe.core.seeds import derive
from lethe.core.task import Task


def score(task: Task, model: torch.nn.Module, name: str) -> float:
    split = task.splits[name]
    return float(task.observe(model, split.batch(range(len(split))))["score"].mean())


def test_erasing_ends_at_the_random_teachers_answers() -> None:
    task = classification()
    model = run("stochastic_teacher", task, seed=4, erase_lr=1e-2, erase_epochs=60, epochs=0).model
    teacher = reinitialised(task.original, derive(4, "stochastic_teacher")).eval()
    batch = task.forget.batch(range(len(task.forget)))
    with torch.no_grad():
        far, near = (task.divergence(task.outputs(teacher, batch), task.outputs(m, batch), batch).mean()
                     for m in (task.original, model))
    assert near < 0.02 * far


def test_reconstruction_restores_the_rest_and_not_the_class() -> None:
    task = classification()
    erased = run("stochastic_teacher", task, erase_lr=1e-2, erase_epochs=20, epochs=0).model
    whole = run("stochastic_teacher", task, erase_lr=1e-2, erase_epochs=20, lr=1e-2, epochs=10).model
    assert score(task, whole, "retain") > 0.9 > score(task, erased, "retain")
    assert score(task, whole, "forget") <= 0.1


def test_without_erasing_it_is_finetune() -> None:
    task = classification()
    bare = run("stochastic_teacher", task, erase_epochs=0.0, epochs=2, lr=1e-3)
    tuned = run("finetune", task, epochs=2, lr=1e-3, optimiser="adam", weight_decay=0.0)
    gap = max(float((p - q).detach().abs().max())
              for p, q in zip(bare.model.parameters(), tuned.model.parameters(), strict=True))
    assert gap < 5e-3   # other batches: the call number takes part in the order
    assert state_fingerprint(bare.model) != state_fingerprint(task.original)


def test_one_step_of_each_phase_by_hand() -> None:
    task, x = byhand.classification(), byhand.classification().forget.columns["x"]
    teacher = soft(reinitialised(task.original, derive(0, "stochastic_teacher"))(x), 2.0).detach()
    wanted = byhand.steps(task, [lambda m: 4 * kl(teacher, soft(m(x), 2.0))], lr=0.2)
    wanted = byhand.stepped(wanted, [lambda m: nll(m, task.retain)])
    found = byhand.run("stochastic_teacher", task, temperature=2.0, erase_lr=0.2, erase_epochs=1, erase_batch_size=100)
    byhand.assert_same(task, found, wanted)

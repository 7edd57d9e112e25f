"""SCRUB: disobedience on forget, obedience on retain, and the rewind."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import kl, nll, soft
from running import run
from tiny import classification
from torch import Tensor, nn

from lethe.core.modules import state_fingerprint
from lethe.core.task import Task
from lethe.errors import NeedsUnmet
from lethe.methods.general.scrub import rewind_point
from lethe.models.classification.task import Classification


def divergence(task: Task, model: torch.nn.Module, name: str) -> float:
    split = task.splits[name]
    batch = split.batch(range(len(split)))
    with torch.no_grad():
        return float(task.divergence(task.outputs(task.original, batch), task.outputs(model, batch), batch).mean())


def test_it_leaves_the_original_on_forget_and_stays_on_retain() -> None:
    task = classification()
    scrubbed, only_obeys = (run("scrub", task, lr=5e-2, ascent_epochs=m).model for m in (3, 0))
    assert divergence(task, scrubbed, "forget") > 10 * divergence(task, scrubbed, "retain")
    assert divergence(task, scrubbed, "forget") > 100 * divergence(task, only_obeys, "forget")


def test_alpha_holds_the_retained_answers() -> None:
    task = classification()
    options = {"lr": 5e-2, "ascent_epochs": 0, "gamma": 1.0, "temperature": 1.0}
    loose, held = (run("scrub", task, alpha=alpha, **options).model for alpha in (0.0, 10.0))
    assert divergence(task, held, "retain") < 0.5 * divergence(task, loose, "retain")


def test_one_epoch_without_teacher_is_finetune() -> None:
    task = classification()
    bare = run("scrub", task, alpha=0.0, ascent_epochs=0, epochs=1, lr=1e-2, clip=None)
    assert state_fingerprint(bare.model) == state_fingerprint(run("finetune", task, epochs=1).model)


def test_rewind_point_is_the_closest_and_the_later_of_two_equals() -> None:
    assert rewind_point([0.1, 2.5, 1.1], 1.0) == 2   # distances 0.9, 1.5, 0.1
    assert rewind_point([0.5, 1.5], 1.0) == 1


def test_rewind_returns_an_earlier_epoch_when_it_went_too_far() -> None:
    task = classification()
    options = {"lr": 3e-2, "epochs": 4, "ascent_epochs": 4}
    last, rewound = run("scrub", task, **options), run("scrub", task, rewind=True, **options)
    forget, holdout = (s.batch(range(len(s))) for s in (task.forget, task.holdout))
    with torch.no_grad():
        target = float(task.nll(last.model, holdout).mean())
        far, near = (abs(float(task.nll(o.model, forget).mean()) - target) for o in (last, rewound))
    assert near < far
    assert any(note.startswith("rewound to epoch") for note in rewound.notes)


def test_rewind_without_holdout_is_refused() -> None:
    full = classification()
    task = Classification(full.original, {k: full.splits[k] for k in ("forget", "retain")})
    with pytest.raises(NeedsUnmet, match="holdout"):
        run("scrub", task, rewind=True)


def test_two_epochs_by_hand() -> None:
    """Every pass is one step. At θ_0 the divergence has no gradient; from the second epoch on its two sides differ."""
    task, temperature, alpha, gamma = byhand.classification(), 2.0, 0.3, 0.8
    x = {name: split.columns["x"] for name, split in task.splits.items()}

    def distance(m: nn.Module, name: str) -> Tensor:
        with torch.no_grad():
            teacher = soft(task.original(x[name]), temperature)
        return temperature**2 * kl(teacher, soft(m(x[name]), temperature))

    model = task.original
    for _ in range(2):
        model = byhand.stepped(model, [lambda m: -distance(m, "forget")], lr=2.0)
        model = byhand.stepped(model, [lambda m: gamma * nll(m, task.retain) + alpha * distance(m, "retain")], lr=2.0)
    found = byhand.run("scrub", task, alpha=alpha, gamma=gamma, temperature=temperature, epochs=2, ascent_epochs=2,
                       forget_batch_size=100, lr=2.0)
    byhand.assert_same(task, found, model, atol=1e-5)

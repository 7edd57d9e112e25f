"""NegMerge: only what all candidates agree on is subtracted."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import nll
from running import run
from tiny import classification

from lethe.core.modules import state_fingerprint
from lethe.errors import NotGranted
from lethe.methods.general.negmerge import consensus


def test_golden_consensus() -> None:
    found = consensus([torch.tensor([1.0, 1.0, 0.0, -1.0]), torch.tensor([3.0, -1.0, 2.0, -2.0])])
    assert found.tolist() == [2.0, 0.0, 0.0, -1.5]   # agree: mean; differ; zero has no sign; agree


def test_one_candidate_is_task_negation() -> None:
    task = classification()
    model = task.copy_of_original()
    task.nll(model, task.forget.batch(range(len(task.forget)))).mean().backward()
    unlearned = run("negmerge", task, rates=(0.1,), epochs=1, batch_size=len(task.forget), scale=3.0).model
    for name, p in model.named_parameters():   # τ = −0.1·g for one step, and θ_0 − 3τ ascends
        assert p.grad is not None
        torch.testing.assert_close(unlearned.get_parameter(name), p + 0.3 * p.grad)


def test_the_search_keeps_the_score_on_retained_data() -> None:
    task = classification()
    outcome = run("negmerge", task, epochs=2)
    batch = task.retain.batch(range(len(task.retain)))
    with torch.no_grad():
        now, before = (float(task.observe(m, batch)["score"].mean()) for m in (outcome.model, task.original))
    assert now >= 0.95 * before and "was chosen on retained data" in outcome.notes[-1]


def test_a_search_that_finds_nothing_says_so_and_changes_nothing() -> None:
    task = classification()
    outcome = run("negmerge", task, epochs=1, largest=1e6, halvings=0)
    assert state_fingerprint(outcome.model) == state_fingerprint(task.original)
    assert "nothing was forgotten" in outcome.notes[-1]


def test_without_retain_the_scale_must_be_given() -> None:
    from lethe.core import catalogue
    from lethe.train.loop import Loop

    method, task = catalogue.load("methods", "negmerge"), classification().granted({"forget"})
    with pytest.raises(NotGranted):
        method.run(method.config(epochs=1), task, Loop(task))
    assert method.run(method.config(epochs=1, scale=1.0), task, Loop(task)).model is not None


def test_run_by_hand() -> None:
    """Two candidates of two steps each; only entries on whose sign they agree are taken off, twice."""
    task = byhand.classification()
    tuned = [byhand.steps(task, [lambda m: nll(m, task.forget)] * 2, lr=rate) for rate in (0.1, 3.0)]
    wanted, kept = byhand.trainable(task.original), 0
    with torch.no_grad():
        for name, p in wanted.named_parameters():
            one, two = (m.get_parameter(name) - p for m in tuned)
            agree = one * two > 0
            kept += int(agree.sum())
            p.sub_(2.0 * torch.where(agree, (one + two) / 2, 0.0))
    assert 0 < kept < sum(p.numel() for p in wanted.parameters())
    byhand.assert_same(task, byhand.run("negmerge", task, rates=(0.1, 3.0), epochs=2, scale=2.0), wanted, atol=1e-5)

"""Cost to recover: by hand from the curve, hidden knowledge is cheap, and a language model's adapter has a price of its own."""

from __future__ import annotations

import pytest
import tiny
from panels import pool, silenced, values

from lethe.core.catalogue import load
from lethe.core.modules import state_fingerprint
from lethe.data.select import Where
from lethe.judge.panel import Panel
from lethe.judge.relearning import Attack, _moving, relearn_time, relearned
from lethe.pools.subject import Subject
from lethe.train.loop import Loop, Settings
from lethe.train.modifiers.where.lora import Lora

cost = load("audits", "recovery_cost")


def test_hidden_knowledge_is_cheap_and_every_number_follows_from_the_curve():
    """FLOPs of a batch of b in an MLP 6-16-4: 2·b·(6·16 + 16·4) forward, twice that backward less the inputs' gradient."""
    task, references = tiny.classification(Where(label=3)), pool(Where(label=3), 2)
    original, quiet = Subject("o", task.original, task), Subject("q", silenced(task, 3), task)
    before = state_fingerprint(quiet.model)
    found = values(cost, quiet, references, original)
    told = found["recovery_cost_steps"].detail
    curve = relearned(Attack(32, None, 32), quiet, Panel(task, original, references))
    steps = relearn_time(curve.steps, curve.scores.mean(1), told["target"])
    assert found["recovery_cost_steps"].value == steps < 0.6 * min(told["retrained_steps"])
    assert found["recovery_cost_samples"].value == steps * told["batch"] and told["batch"] == len(task.forget) // 2
    assert told["flops_per_step"] == 2 * told["batch"] * (3 * (6 * 16 + 16 * 4) - 6 * 16)
    assert found["recovery_cost_flops"].value == pytest.approx(steps * told["flops_per_step"])
    assert told["back"] and state_fingerprint(quiet.model) == before
    assert values(cost, original, references, original)["recovery_cost_steps"].value == 0


def test_an_adapter_is_priced_beside_the_whole_language_model():
    task = tiny.lm()
    blank = Subject("blank", task.build(0).eval(), task)
    before = state_fingerprint(blank.model)
    found = values(cost, blank, [], Subject("o", task.original, task), steps=2, rank=2)
    assert len(found) == 6 and state_fingerprint(blank.model) == before
    whole, adapter = (found[f"recovery_cost_{kind}steps"] for kind in ("", "lora_"))
    assert whole.value == adapter.value == 3 and not whole.detail["back"]   # not back after two steps
    assert adapter.detail["rank"] == 2 and adapter.detail["flops_per_step"] != whole.detail["flops_per_step"]
    assert len(values(cost, blank, [], Subject("o", task.original, task), steps=1, rank=0)) == 3


def test_a_model_that_came_with_an_adapter_is_attacked_by_another_one():
    task = tiny.lm()
    model = task.build(0)
    Lora(rank=2).select(model, task, Loop(task, Settings()))
    names = set(dict(model.named_parameters()))
    params = _moving(Attack(1, None, 8, "lora", 4), model, Panel(task, Subject("o", task.original, task), []))
    assert params and {min(p.shape) for p in params.values()} == {4}
    assert set(dict(model.named_parameters())) == names   # the first one is folded into the weights below the new one

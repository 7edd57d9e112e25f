"""Bad teacher: ignorance on forget, the original on retain."""

from __future__ import annotations

import byhand
import torch
from byhand import kl, soft
from diffusion_folders import opened
from running import run
from tiny import classification
from torch import Tensor, nn

from lethe.core.modules import reinitialised, state_fingerprint
from lethe.core.seeds import derive
from lethe.methods.general.bad_teacher import forget_weight


def test_weight_is_that_of_one_pass_over_the_union() -> None:
    assert forget_weight(1, 3) == 0.25   # 1 of 4 examples


def test_it_is_ignorant_of_forget_and_knows_retain() -> None:
    task = classification()
    model = run("bad_teacher", task, lr=1e-2, epochs=40, retain_share=1.0).model
    with torch.no_grad():
        scores = {name: task.observe(model, s.batch(range(len(s)))) for name, s in task.splits.items()}
    assert float(scores["retain"]["score"].mean()) > 0.9
    chance = torch.log(torch.tensor(4.0))
    assert float(scores["forget"]["nll"].mean()) > 0.6 * float(chance)


def test_labels_are_not_read() -> None:
    from lethe.core.split import Split
    from lethe.models.classification.task import Classification

    task = classification()
    blind = {n: Split({**s.columns, "y": torch.zeros_like(s.columns["y"])}, s.name, s.ids) for n, s in task.splits.items()}
    other = Classification(task.original, blind)
    assert state_fingerprint(run("bad_teacher", other).model) == state_fingerprint(run("bad_teacher", task).model)


def test_two_steps_by_hand() -> None:
    """Six examples imitate a fresh network, twelve the original, whose own divergence has a gradient from the second step on."""
    task, temperature = byhand.classification(), 2.0
    forget, retain = task.forget.columns["x"], task.retain.columns["x"]
    fresh = reinitialised(task.original, derive(0, "bad_teacher"))
    wrong, right = soft(fresh(forget), temperature).detach(), soft(task.original(retain), temperature).detach()

    def objective(m: nn.Module) -> Tensor:
        bad, good = kl(wrong, soft(m(forget), temperature)), kl(right, soft(m(retain), temperature))
        return temperature**2 * (bad / 3 + 2 * good / 3)

    found = byhand.run("bad_teacher", task, retain_share=1.0, temperature=temperature, epochs=2)
    byhand.assert_same(task, found, byhand.steps(task, [objective, objective]))


def test_networks_of_diffusers_that_hold_parameters_of_their_own_are_drawn_afresh() -> None:
    """PixArt's shifts and scales belong to no layer that could draw them again; its class does."""
    task = opened("pixart")
    one, two, other = (reinitialised(task.original, seed) for seed in (0, 0, 1))
    assert state_fingerprint(one) == state_fingerprint(two) and one.training
    for name, p in one.named_parameters():
        assert not torch.equal(p, task.original.get_parameter(name)) or name.endswith("bias") or "norm" in name, name
    assert not torch.equal(one.get_parameter("scale_shift_table"), other.get_parameter("scale_shift_table"))
    assert run("bad_teacher", task, epochs=1).model is not None

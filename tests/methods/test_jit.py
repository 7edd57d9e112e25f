"""JiT: the quotient by hand, that it only needs forget data, and what it does to a class of digits and to wrong labels."""

from __future__ import annotations

import byhand
import pytest
import torch
from running import run
from test_acceptance_digits import scores
from tiny import classification, regression
from torch import nn

from lethe.core.modules import evaluating, state_fingerprint
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.errors import WrongColumn
from lethe.methods.general.jit import roughness
from lethe.models.classification.task import Classification


def test_golden_quotient_and_its_direction() -> None:
    outputs = torch.tensor([[4.0, 4.0]], requires_grad=True)
    value = roughness(outputs, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    assert value.tolist() == [2.5]   # ‖(3, 4)‖/‖(0, 2)‖ = 5/2
    value.sum().backward()
    torch.testing.assert_close(outputs.grad, torch.tensor([[0.3, 0.4]]))   # (3, 4)/5/2


def test_a_constant_output_has_no_gradient_and_no_nan() -> None:
    outputs = torch.ones(2, 3, requires_grad=True)
    roughness(outputs, torch.ones(2, 3), torch.ones(2, 4)).sum().backward()
    assert outputs.grad is not None and outputs.grad.eq(0).all()


def alone(task: Task) -> Task:
    return type(task)(task.original, {"forget": task.forget})


def slope(task: Task, model: nn.Module) -> float:
    """Mean quotient on the forget set at one draw of noise."""
    batch = task.forget.batch(range(len(task.forget)))
    noise = 0.1 * torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(0))
    with evaluating(model):
        return float(roughness(task.outputs(model, batch), task.outputs(model, batch.replace(x=batch.x + noise)), noise).mean())


@pytest.mark.parametrize("family", [classification, regression])
def test_outputs_grow_smoother_with_nothing_but_forget_data(family: type) -> None:
    task = alone(family())
    options = {"lr": 0.1, "epochs": 20.0, "draws": 5, "detach": False}
    outcome = run("jit", task, **options)
    assert slope(task, outcome.model) < 0.9 * slope(task, task.original)
    assert state_fingerprint(outcome.model) == state_fingerprint(run("jit", task, **options).model)


def test_labels_do_not_matter() -> None:
    task = alone(classification())
    other = Split({"x": task.forget.columns["x"], "y": torch.zeros_like(task.forget.columns["y"])}, "forget")
    relabelled = Classification(task.original, {"forget": other})
    assert state_fingerprint(run("jit", task).model) == state_fingerprint(run("jit", relabelled).model)


def test_inputs_that_are_no_numbers_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
    split = Split({"x": torch.randint(0, 9, (6, 3)), "y": torch.arange(6) % 3}, "forget")
    with pytest.raises(WrongColumn, match="no noise can be added"):
        run("jit", Classification(model, {"forget": split}))


def test_noise_stays_in_the_range_of_the_batch_and_its_size_does_not_matter_to_a_linear_model() -> None:
    """A linear model's quotient depends on the noise's direction alone, so σ changes nothing until the range is kept."""
    torch.manual_seed(0)
    full = classification()
    task = Classification(nn.Linear(6, 4), {"forget": full.forget})
    weights = {(sigma, clamp): run("jit", task, sigma=sigma, clamp=clamp, detach=False, draws=3, lr=1.0).model.weight
               for sigma in (0.5, 2.0) for clamp in (False, True)}
    torch.testing.assert_close(weights[0.5, False], weights[2.0, False])
    assert not torch.allclose(weights[0.5, True], weights[2.0, True], atol=1e-3)


@pytest.mark.slow
def test_digits_a_class_hardly_goes_within_the_loss_that_the_watchdog_allows_and_with_ascent_it_does() -> None:
    """Not reproduced: forgetting that spares the rest. Measured 97.6/88/96.6, 0.80 ± 0.14, every run ended by the watchdog before
    its three steps were done; unwatched 85.5/37/84.0, 0.46 ± 0.07. Gradient ascent 97.4/6/96.8, 0.22 ± 0.07."""
    found, ascent = scores("class", "jit"), scores("class", "gradient_ascent")
    assert found.forget > 60 and found.retain > 95
    assert ascent.js + 0.4 < found.js < scores("class", "original").js


@pytest.mark.parametrize("detach", [True, False])
def test_one_step_by_hand(detach: bool) -> None:
    task = byhand.classification()
    x = task.forget.columns["x"][byhand.order(task.forget, "forget")]

    def objective(m: torch.nn.Module) -> torch.Tensor:
        byhand.reseed()   # the noise is torch's own, seeded by the loop
        total = torch.zeros(len(x))
        for _ in range(3):
            noise = (x + 0.5 * torch.randn_like(x)).clamp(x.min(), x.max()) - x
            there = m(x + noise)
            total = total + (m(x) - (there.detach() if detach else there)).norm(dim=1) / noise.norm(dim=1)
        return (total / 3).mean()

    byhand.assert_same(task, byhand.run("jit", task, draws=3, detach=detach), byhand.steps(task, [objective]))

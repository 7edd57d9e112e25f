"""Pointwise mutual information against a case that is known in closed form."""

from __future__ import annotations

import math

import torch
from tiny import TASKS

from lethe.audits.diffusion.pointwise_mi import PointwiseMI, information, measure
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


def test_golden_number_and_order() -> None:
    squared = torch.tensor([[2.0, 4.0]])
    assert information(squared, torch.tensor([0.0, 1.0])).item() == 0.5 * (2 + 4) / 2
    assert information(squared.flip(1), torch.tensor([1.0, 0.0])).item() == 1.5


def test_gaussians_give_their_divergence() -> None:
    """p = N(μ, s²), q = N(0, τ²): the noise predictions are known, and the mean information is KL(p ‖ q)."""
    mu, s, tau = 1.5, 0.5, 2.0
    log_snr = torch.linspace(-16, 16, 801).double()
    alpha = torch.sigmoid(log_snr)
    x = mu + s * torch.randn(4000, generator=torch.Generator().manual_seed(0)).double()
    noise = torch.randn(4000, 1, generator=torch.Generator().manual_seed(1)).double()
    x_t = alpha.sqrt() * x.unsqueeze(1) + (1 - alpha).sqrt() * noise

    def predicted(mean: float, sd: float) -> torch.Tensor:
        return (1 - alpha).sqrt() * (x_t - alpha.sqrt() * mean) / (alpha * sd**2 + 1 - alpha)

    found = information((predicted(mu, s) - predicted(0.0, tau)).square(), log_snr)
    exact = math.log(tau / s) + (s**2 + mu**2) / (2 * tau**2) - 0.5
    assert abs(float(found.mean()) - exact) < 5 * float(found.std()) / math.sqrt(4000) + 1e-3


def test_a_model_that_ignores_prompts_has_none() -> None:
    task = TASKS["diffusion"]()
    model = task.copy_of_original().eval()
    with torch.no_grad():
        for module in task.attention_projections(model).values():
            module.weight.zero_()
    subject, original = Subject("deaf", model, task), Subject("original", task.original, task)
    panel = Panel(task, original, [])
    deaf = {v.metric: v.value for v in measure.measure(PointwiseMI(levels=4), subject, panel)}
    before = {v.metric: v for v in measure.measure(PointwiseMI(levels=4), original, panel)}
    assert deaf["mi_forget"] < 1e-6 and before["mi_forget"].value > 0 and before["mi_forget"].n == len(task.forget)

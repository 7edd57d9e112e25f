"""Membership attacks on a diffusion model: steps by hand, and denoisers that remember a known set of pictures exactly."""

from __future__ import annotations

import pytest
import torch
from panels import values
from remembering import Remembers, digits

from lethe.audits.diffusion.mia_diffusion import measure, size, there_and_back, unseen
from lethe.core.split import Split
from lethe.maths.ddim import ddim_step
from lethe.pools.subject import Subject


def test_a_step_by_hand_and_back() -> None:
    one, at = torch.ones(1, 1, 2, 2), [(torch.tensor(0.8), torch.tensor(0.6)), (torch.tensor(0.6), torch.tensor(0.8))]
    up = ddim_step(one, 0.6 * one, at[0], at[1])
    assert up.flatten().tolist() == pytest.approx([0.96] * 4)                      # (1 − 0.36)/0.8 · 0.6 + 0.8 · 0.6
    assert torch.allclose(ddim_step(up, 0.6 * one, at[1], at[0]), one)             # equal noise: the way back
    assert ddim_step(one, -one, at[0], at[1], bound=1.0).flatten()[0] == pytest.approx(0.6 - 0.8)   # x̂₀ = 2 is cut to 1


def test_secmi_is_the_change_of_the_noise_between_two_levels() -> None:
    alphas, x = torch.linspace(0.99, 0.5, 50), torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))

    def at(t: int) -> tuple[torch.Tensor, torch.Tensor]:
        return alphas[t].sqrt(), (1 - alphas[t]).sqrt()

    assert there_and_back(lambda x_t, t: torch.ones_like(x_t), x, at, 20, 10).abs().max() < 1e-6
    found = there_and_back(lambda x_t, t: float(t) * torch.ones_like(x_t), x, at, 20, 10)
    a, b = alphas[20], alphas[22]      # (ε₂₂ − ε₂₀)·(√(1 − ᾱ₂₀) − √(1 − ᾱ₂₂)·√(ᾱ₂₀/ᾱ₂₂)) = 2·(…), by the formula of a step
    assert torch.allclose(found, (2 * ((1 - a).sqrt() - (1 - b).sqrt() * (a / b).sqrt())).expand_as(found), atol=1e-4)


def test_sizes_are_powers_of_norms() -> None:
    assert size(torch.tensor([[3.0, -4.0]]), 2).tolist() == [25.0] and size(torch.tensor([[1.0, -2.0]]), 4).tolist() == [17.0]


def test_controls() -> None:
    task = digits()
    alphas = task.alphas_cumprod
    found = values(measure, Subject("original", task.original, task))
    fresh = values(measure, Subject("retrained", Remembers(task.retain.columns["image"], alphas), task))
    for name in ("t_error", "secmi", "pia", "norm"):
        assert found[f"{name}_auc"].value > 0.95, name
        assert fresh[f"{name}_auc"].low < 0.5 < fresh[f"{name}_auc"].high, name
    assert found["t_error_tpr_at_10"].value > 0.9 and fresh["t_error_tpr_at_10"].low < 0.1
    assert "clid_auc" not in found     # a model that ignores the text has no gain from it: no number, not 0.5


def test_the_order_of_batches_changes_nothing() -> None:
    task = digits(12, 12, 24)
    few = values(measure, Subject("few", task.original, task, batch_size=5), limit=100)
    many = values(measure, Subject("many", task.original, task), limit=100)
    assert {k: v.value for k, v in few.items()} == {k: v.value for k, v in many.items()}


def test_unseen_pictures_share_captions_and_are_not_in_the_forget_set() -> None:
    def split(tokens: list[int], pictures: list[int]) -> Split:
        return Split({"tokens": torch.tensor(tokens).view(-1, 1), "image": torch.tensor(pictures).float().view(-1, 1, 1, 1)})

    assert unseen(split([1, 2], [0, 1]), split([1, 1, 3, 2], [0, 5, 6, 7])).tolist() == [False, True, False, True]
    assert unseen(split([1], [0]), split([8, 9], [0, 5])).tolist() == [False, True]


def test_too_few_give_no_number() -> None:
    for holdout, reported in ((9, False), (10, True)):
        task = digits(12, 12, holdout)
        assert ("t_error_auc" in values(measure, Subject("original", task.original, task))) == reported

"""Weight noise: its size by hand, and a control that breaks what it does not erase."""

from __future__ import annotations

import byhand
import torch

from lethe.methods.diffusion.weight_noise import noised


def test_noise_has_the_size_of_each_tensors_own_spread() -> None:
    assert torch.equal(noised(torch.tensor([1.0, -1.0]), torch.tensor([2.0, 1.0]), 0.5), torch.tensor([2.0, -0.5]))
    assert torch.equal(noised(torch.tensor([3.0]), torch.tensor([5.0]), 0.5), torch.tensor([3.0]))


def test_every_weight_gets_noise_of_its_own() -> None:
    """Of the network, in order, by the run's own generator; without noise nothing changes."""
    task, rng = byhand.diffusion(), byhand.drawn_for("weight_noise")
    found, still = (dict(byhand.run("weight_noise", task, share=share).named_parameters()) for share in (0.3, 0.0))
    for name, p in task.original.named_parameters():
        wanted = p + 0.3 * ((p - p.mean()) ** 2).mean().sqrt() * torch.randn(p.shape, generator=rng)
        assert torch.allclose(found[name], wanted, atol=1e-6) and torch.equal(still[name], p), name

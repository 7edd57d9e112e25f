"""What networks say of noise and pictures, and that methods compare what a flow says, also where it begins: at noise alone."""

from __future__ import annotations

from typing import Any

import byhand
import pytest
import torch
from diffusion_folders import opened

from lethe.models.diffusion.noise import Noise, Says

SHORT = {"steps": 2, "lr": 1e-2, "batch_size": 2, "trajectories": 2, "sampler_steps": 1, "start_guidance": 1.0}
AT_NOISE: dict[str, dict[str, Any]] = {   # methods whose points are those of a trajectory; here it has one, pure noise
    "esd": SHORT, "all_but_one": SHORT, "spm": SHORT, "dyme": SHORT, "eap": SHORT, "age": SHORT,
    "race": {**SHORT, "warm_steps": 2},
    "gem": {name: value for name, value in SHORT.items() if name != "trajectories"},
}


@pytest.mark.parametrize("says", ["epsilon", "v_prediction", "sample", "flow"])
def test_what_a_perfect_network_says_is_read_back(says: Says) -> None:
    noise = Noise(says, torch.linspace(0.99, 0.01, 10), torch.arange(10))
    rng = torch.Generator().manual_seed(0)
    x, e = torch.randn(3, 2, 4, 4, generator=rng), torch.randn(3, 2, 4, 4, generator=rng)
    t = torch.tensor([1, 5, 8])
    signal, size = noise.levels(t, x)
    said, x_t = noise.target(x, e, t), signal * x + size * e
    assert torch.allclose(noise.as_noise(said, x_t, t), e, atol=1e-5)
    assert torch.allclose(noise.as_picture(said, x_t, t), x, atol=1e-5)


@pytest.mark.parametrize("says", ["v_prediction", "sample", "flow"])
def test_a_picture_is_read_off_noise_alone(says: Says) -> None:
    """Where nothing of the picture is left (s = 0), and ε is x_t whatever is said."""
    noise = Noise(says, torch.tensor([0.9, 0.0]), torch.arange(2))
    x, e, t = torch.full((1, 1, 2, 2), 3.0), torch.ones(1, 1, 2, 2), torch.tensor([2.0 if says == "flow" else 1.0])
    assert torch.equal(noise.as_picture(noise.target(x, e, t), e, t), x)
    if says == "flow":
        assert torch.equal(noise.as_noise(torch.full_like(x, 7.0), e, t), e)


@pytest.mark.parametrize("name", ["esd", "eap", *(pytest.param(name, marks=pytest.mark.slow) for name in sorted({*AT_NOISE} - {
    "esd", "eap"}))])
def test_the_first_point_of_a_flow_teaches(name: str) -> None:
    task = opened("sd3", 1)
    before, after = task.original.state_dict(), byhand.run(name, task, **AT_NOISE[name]).state_dict()
    assert any(("lora_B" in key and bool(value.any())) or (key in before and not torch.equal(value, before[key]))
               for key, value in after.items())

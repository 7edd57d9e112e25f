"""GEM: the hinge, where adapters go, two steps by hand on a UNet, and velocities of a flow."""

from __future__ import annotations

import byhand
import pytest
import torch
from diffusion_folders import opened

from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.methods.diffusion.gem import double_blocks, hinge


def test_golden_hinge() -> None:
    v, a, c = (torch.tensor([pair]) for pair in ([1.0, 0.0], [4.0, 4.0], [1.0, 2.0]))
    assert [float(hinge(v, a, c, eta)) for eta in (0.5, 3.0, 0.0)] == [4.0, 0.0, 5.0]
    assert float(hinge((a + c) / 2, a, c, 1.0)) == 0.0   # halfway


def test_adapters_go_to_queries_and_keys_of_blocks_that_hear_text() -> None:
    names = {name.split(".", 2)[2] for name in double_blocks(opened("sd3", 3).original)}
    assert names == {f"attn.{one}" for one in ("to_q", "to_k", "add_q_proj", "add_k_proj")} | (
        {name for name in names if name.startswith("attn2")})
    with pytest.raises(RequestError, match="has none"):
        double_blocks(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("kind", ["unet", "flow"])
def test_a_step_by_hand(kind: str) -> None:
    """Adapters are 0 at first, so the first step goes towards the anchor alone; of a flow by what the network itself says."""
    task = byhand.diffusion() if kind == "unet" else opened("sd3", 3)
    prompts = task.prompts["forget"]
    order = byhand.order(Split({"tokens": torch.zeros(len(prompts), 1)}, "prompts"), "erase")
    text, other = (task.text(task.tokens(some)[order]) for some in (prompts, [p.replace("disk", "square") for p in prompts]))
    byhand.reseed()
    seed = int(torch.randint(2**31, ()))
    twin, total = byhand.trainable(task.original), torch.zeros(())
    with torch.no_grad():
        walk = [(t, x) for t, x in task.denoise(task.original, text, seed, 3, 1.5) if t >= 0]
    for t, x in walk[:2]:   # of a flow the first is pure noise
        when = torch.full((len(x),), t)
        now, aim = (task.predict(m, x, when, some) for m, some in ((twin, text), (task.original, other)))
        total = total + (now - aim.detach()).flatten(1).norm(dim=1).mean() / 2
    total.backward()
    found = byhand.run("gem", task, anchor="square", window=2, steps=1, lr=0.01, batch_size=len(prompts), sampler_steps=3,
                       start_guidance=1.5)
    moved, agree, count = dict(found.named_parameters()), 0, 0
    for name in double_blocks(task.original):
        down, up = moved[f"{name}.lora_A.default.weight"].detach(), moved[f"{name}.lora_B.default.weight"].detach()
        assert torch.equal(moved[f"{name}.base_layer.weight"], task.original.get_parameter(f"{name}.weight"))
        grad = twin.get_parameter(f"{name}.weight").grad
        slope = torch.zeros_like(up) if grad is None else grad @ down.T
        agree += int(torch.isclose(up, -0.01 * slope / (slope.abs() + 1e-8), atol=1e-4).sum())
        count += up.numel()
    assert agree > 0.98 * count   # the rest: gradients near 0

"""DoCo: gradient surgery, and one turn of both players with a critic written out."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import apart, said
from torch import nn

from lethe.core.seeds import derive, generator
from lethe.core.split import Split
from lethe.methods.diffusion.doco import yielded


def test_golden_surgery() -> None:
    own, other = torch.tensor([0.5, 0.0]), torch.tensor([-0.5, 0.5])
    assert torch.allclose(yielded(own, other, "exact"), torch.tensor([0.25, 0.25]))
    assert torch.allclose(yielded(own, other, "cosine"), torch.tensor([0.0, 0.5]), atol=1e-7)
    assert yielded(own, other, "none").tolist() == yielded(own, -other, "exact").tolist() == [0.5, 0.0]
    assert yielded(4 * own, other, "none").tolist() == [1.0, 0.0]      # clipped


@pytest.mark.parametrize("surgery", ["exact", "none"])
def test_a_turn_by_hand(surgery: str) -> None:
    task = byhand.diffusion()
    named = [task.prompts["forget"][i % 2] for i in range(4)]
    text, other = (task.text(task.tokens(some)) for some in (named, [p.replace("disk", "square") for p in named]))
    x = task.draw_from(task.original, other, derive(0, "doco"))
    rng = generator(0, "doco", "critic")
    critic = nn.Sequential(nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(64, 128, 4, 2, 1), nn.GroupNorm(8, 128),
                           nn.LeakyReLU(0.2), nn.Conv2d(128, 1, 3, 1, 1))
    for layer in (critic[0], critic[2], critic[5]):
        layer.weight.data, layer.bias.data = 0.02 * torch.randn(layer.weight.shape, generator=rng), torch.zeros_like(layer.bias)

    def pictures(name: str) -> tuple[torch.Tensor, ...]:
        return byhand.noised(task, Split({"image": x}, "pictures"), name)

    def drawn(m: byhand.Any) -> torch.Tensor:
        rows, x_t, t, _ = pictures("fool")
        level = task.alphas_cumprod[t].view(-1, 1, 1, 1)
        return (x_t - (1 - level).sqrt() * said(m, x_t, t, text[rows])) / level.sqrt()

    def fool(m: byhand.Any) -> torch.Tensor:
        return torch.log1p(critic(drawn(m)).exp()).mean()      # −log(1 − σ(z))

    def keep(m: byhand.Any) -> torch.Tensor:
        rows, x_t, t, noise = pictures("keep")
        return apart(said(m, x_t, t, other[rows]), noise)

    twin = byhand.trainable(task.original)
    own, held = (byhand.gradient(twin, aim) for aim in (fool, keep))
    opposed = 0
    for name, p in twin.named_parameters():
        if "attn2" in name:
            a, b = (g / g.norm().clamp(min=1) for g in (own[name], held[name]))
            if surgery == "exact" and float((a * b).sum()) < 0:
                a, opposed = a - (a * b).sum() / (b * b).sum() * b, opposed + 1
            p.data = p.data - 0.01 * a / (a.abs() + 1e-8)
    assert opposed or surgery == "none"
    found = byhand.run("doco", task, anchor="square", surgery=surgery, images=4, warm_steps=0, steps=1, lr=0.01, critic_lr=0.01)
    assert set(dict(found.named_parameters())) == set(dict(twin.named_parameters()))   # the critic is gone
    byhand.assert_same(task, found, twin, adam=True)


def test_the_critic_learns_before_and_beside() -> None:
    """Steps of the critic alone change what the next step of the network does, and so does its rate."""
    task, options = byhand.diffusion(), {"images": 4, "steps": 1, "lr": 0.01}
    first, warm, slow = (byhand.run("doco", task, **options, **more) for more in (
        {"warm_steps": 0}, {"warm_steps": 3}, {"warm_steps": 3, "critic_lr": 1e-5}))
    weights = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (first, warm, slow)]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])

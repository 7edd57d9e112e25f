"""Forget-Me-Not: the norm, and a step by hand on both choices of tokens."""

from __future__ import annotations

import byhand
import pytest
import torch
from byhand import said

from lethe.methods.diffusion.forget_me_not import attention_norm


def test_the_norm_of_looks() -> None:
    maps = [torch.tensor(row).view(1, 1, 1, 1, 2) for row in ([0.3, 0.7], [0.4, 0.6])]
    assert float(attention_norm(maps, torch.tensor([[True, False]]))) == pytest.approx(0.5)
    assert float(attention_norm(maps, torch.tensor([[False, False]]))) == 0


@pytest.mark.parametrize("ends", [True, False])
def test_a_step_by_hand(ends: bool) -> None:
    """All pictures in one step: attention as softmax of scaled products of what the layers' own projections give."""
    task = byhand.diffusion()
    found = byhand.run("forget_me_not", task, ends=ends, lr=0.01, steps=1, batch_size=100, weight_decay=0.1, clip=1e9)
    rows, x, t, _ = byhand.noised(task, task.forget, "forget")
    tokens = task.forget.columns["tokens"][rows]
    disk = task.tokens(["disk"])[0, 1]
    where = (tokens == disk) | ((tokens == tokens[:, -1:]) if ends else torch.zeros_like(tokens, dtype=torch.bool))

    def loss(m: torch.nn.Module) -> torch.Tensor:
        caught: list[tuple[str, torch.Tensor]] = []
        layers = [(name, layer) for name, layer in m.named_modules() if name.endswith(("attn2.to_q", "attn2.to_k"))]
        handles = [layer.register_forward_hook(lambda _, __, out, n=name: caught.append((n, out))) for name, layer in layers]
        said(m, x, t, task.text(tokens))
        for handle in handles:
            handle.remove()
        total = torch.zeros(len(rows))
        for (name, q), (_, k) in zip(caught[::2], caught[1::2], strict=True):
            heads = m.get_submodule(name.removesuffix(".to_q")).heads
            q, k = (some.unflatten(2, (heads, -1)).transpose(1, 2) for some in (q, k))
            a = torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, -1)
            total = total + (a * where.view(len(rows), 1, 1, -1)).square().flatten(1).sum(1)
        return total.sqrt().mean()

    wanted = byhand.adam(task.original, [loss], lr=0.01, weight_decay=0.1)
    agree = total = 0
    for key, p in wanted.named_parameters():
        moved = found.get_parameter(key).detach()
        agree, total = agree + int(torch.isclose(moved, p.detach(), atol=1e-5).sum()), total + p.numel()
    assert agree > 0.99 * total

"""MACE: words around a concept, chances of noise levels, the melting, and its three stages by hand."""

from __future__ import annotations

from typing import Any

import byhand
import pytest
import torch
from byhand import said
from torch.nn import functional as F

from lethe.core.seeds import derive, generator
from lethe.methods.diffusion.mace import likely, looks, melted, other_words


def test_words_around_the_concept() -> None:
    assert other_words([9, 1, 2, 3, 8], [9, 1, 2, 4, 5, 8]) == [(0, 0), (1, 1), (2, 2), (4, 5)]
    assert other_words([9, 1, 8], [9, 8]) == [(0, 0), (2, 1)]
    assert other_words([9, 8], [9, 8]) == [(0, 0), (1, 1)]


def test_noise_levels_around_300_are_likely() -> None:
    chances = likely(1000)
    assert int(chances.argmax()) == 300 and float(chances[200:400].sum()) > 0.85 and float(chances.sum()) == pytest.approx(1)


def test_the_melting_and_the_looks() -> None:
    def one(x: float) -> torch.Tensor:
        return torch.tensor([[float(x)]])

    assert float(melted(one(1), one(1), [one(2)], [one(3)], one(0), 1.0)) == pytest.approx(2.5)
    assert float(melted(one(1), one(5), [], [], one(2), 1.0)) == pytest.approx((1 + 10) / 3)
    maps = {"a": one(0.3).view(1, 1, 1, 1, 1), "b": one(0.4).view(1, 1, 1, 1, 1)}
    assert float(looks(maps, torch.tensor([[True]]), None)) == pytest.approx(0.7)
    assert float(looks(maps, torch.tensor([[True]]), torch.zeros(1, 1, 1, dtype=torch.bool))) == 0


def attended(m: Any, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> list[torch.Tensor]:
    """Softmax of scaled products of what the layers' own projections give.  -> [n, heads, S, L] each"""
    caught: list[tuple[str, torch.Tensor]] = []
    layers = [(name, layer) for name, layer in m.named_modules() if name.endswith(("attn2.to_q", "attn2.to_k"))]
    handles = [layer.register_forward_hook(lambda _, __, out, n=name: caught.append((n, out))) for name, layer in layers]
    said(m, x, t, text)
    for handle in handles:
        handle.remove()
    found = []
    for (name, q), (_, k) in zip(caught[::2], caught[1::2], strict=True):
        heads = m.get_submodule(name.removesuffix(".to_q")).heads
        q, k = (some.unflatten(2, (heads, -1)).transpose(1, 2) for some in (q, k))
        found.append(torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, -1))
    return found


def test_three_stages_by_hand() -> None:
    """The first step of an adapter moves B alone, along ∇_W · Aᵀ; A only decays."""
    task, lamb, rho, rho_2, lr = byhand.diffusion(), 0.5, 0.2, 0.3, 0.01
    found = byhand.run("mace", task, anchor="square", lamb=lamb, preserve=rho, fuse_preserve=rho_2, rank=2, lr=lr, steps=1,
                       batch_size=100)
    prompts = task.prompts["forget"]
    old, new, kept = (task.text(task.tokens(some)).double() for some in (
        prompts, [p.replace("disk", "square") for p in prompts], ["", *task.prompts["keep"]]))
    c, unit = kept.flatten(0, 1).T @ kept.flatten(0, 1), torch.eye(64, dtype=torch.float64)
    others = [0, 1, 2, 4, 5, 6, 7]
    k, g = old[:, others].flatten(0, 1), new[:, others].flatten(0, 1)
    factor = (g.T @ k + lamb * unit + rho * c) @ torch.linalg.inv(k.T @ k + lamb * unit + rho * c)
    twin = byhand.trainable(task.original)
    keys = [name for name, _ in twin.named_parameters() if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
    with torch.no_grad():
        for name in keys:
            p = twin.get_parameter(name)
            p.copy_((p.double() @ factor).float())

    image, tokens = task.forget.columns["image"], task.forget.columns["tokens"]
    noise = torch.randn(image.shape, generator=generator(0, "mace", "disk"))
    level = task.alphas_cumprod[300]
    x, t = level.sqrt() * image + (1 - level).sqrt() * noise, torch.full((len(image),), 300)
    maps = attended(task.original, x, t, task.text(tokens))
    small = [a for a in maps if a.shape[2] == min(b.shape[2] for b in maps)]
    seen = torch.stack([a[..., 3].mean(1) for a in small]).mean(0)
    low, high = seen.amin(1, keepdim=True), seen.amax(1, keepdim=True)
    side = round(seen.shape[1] ** 0.5)
    mask = ((seen - low) / (high - low) >= 0.1).float().view(-1, 1, side, side)

    rows, rng = byhand.order(task.forget, "forget"), byhand.drawn("forget")
    t = torch.multinomial(likely(1000), len(rows), replacement=True, generator=rng)
    noise = torch.randn(image.shape, generator=rng)
    level = task.alphas_cumprod[t].view(-1, 1, 1, 1)
    x, text = level.sqrt() * image[rows] + (1 - level).sqrt() * noise, task.text(tokens[rows])
    where = torch.tensor([False] * 3 + [True] * 5)      # the word and all that is the end token
    loss = torch.zeros(())
    for a in attended(twin, x, t, text):
        side = round(a.shape[2] ** 0.5)
        inside = F.interpolate(mask[rows], (side, side)).flatten(1)[:, None, :, None]
        loss = loss + (a * inside * where).square().flatten(1).sum(1).sqrt().mean()
    found_slopes = torch.autograd.grad(loss, [twin.get_parameter(name) for name in keys], allow_unused=True)
    slopes = dict(zip(keys, found_slopes, strict=True))

    own, agree, total = old.flatten(0, 1).T @ old.flatten(0, 1), 0, 0
    with torch.random.fork_rng():
        torch.manual_seed(derive(0, "mace", "disk"))
        for name in [key for key, _ in found.named_parameters() if key in keys]:
            first, before = (m.get_parameter(name).detach().double() for m in (twin, task.original))
            down, up = torch.nn.Linear(64, 2, bias=False), torch.nn.Linear(2, len(first), bias=False)
            torch.nn.init.normal_(down.weight, std=0.5)
            torch.nn.init.zeros_(up.weight)
            slope = slopes[name]
            inner = torch.zeros(len(first), 2) if slope is None else slope @ down.weight.detach().T
            change = (-lr * inner / (inner.abs() + 1e-8)).double() @ (down.weight.detach() * (1 - lr * 0.01)).double()
            wanted = ((first + change) @ own + lamb * first + rho_2 * before @ c) @ torch.linalg.inv(
                own + lamb * unit + rho_2 * c)
            close = torch.isclose(found.get_parameter(name).detach().double(), wanted, atol=1e-4)
            agree, total = agree + int(close.sum()), total + close.numel()
            if name.endswith("to_k.weight"):
                assert float((wanted - first).abs().max()) > 1e-3
    assert agree > 0.98 * total     # the rest: gradients near 0, whose sign is rounding's

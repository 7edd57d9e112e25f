"""Hundreds of concepts at once in closed form, with the shapes of Stable Diffusion 1.5 (16 keys and 16 values of width 768, 77
tokens a prompt): 300 concepts, 1000 prompts kept, all tokens in UCE and RECE, last words in SPEED. Limit 10 s of processor time
for each edit, prompts encoded before; states and weights are random numbers."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from lethe.maths.linear_edit import map_of_moments, uce_map
from lethe.methods.diffusion.rece import returning
from lethe.methods.diffusion.speed import SPEED, kept_moments, least, null_space, speed_edit

LIMIT, CONCEPTS, KEPT, TOKENS, WIDTH = 10.0, 300, 1000, 77, 768
RNG = torch.Generator().manual_seed(0)
VALUES = [0.03 * torch.randn(out, WIDTH, generator=RNG) for out in [320] * 5 + [640] * 5 + [1280] * 6]


def states(prompts: int, tokens: int) -> Tensor:
    return torch.randn(prompts * tokens, WIDTH, generator=RNG)


def uce() -> None:
    """One solve for all layers."""
    factor = uce_map(*EVERY, 1.0, 0.1, 0.1)
    for w in VALUES * 2:
        w.double() @ factor


def rece() -> None:
    """UCE and one round."""
    c, g, k = (x.double() for x in EVERY)
    own, crossed, held = c.T @ c, g.T @ c, 0.1 * k.T @ k
    factor = map_of_moments(crossed, own, held, 0.1)
    back = returning(factor, torch.stack([w.double().T @ w.double() for w in VALUES * 2]).sum(0), 1e-3)
    (c @ back.T).norm(dim=1).max()
    factor = factor @ map_of_moments(crossed @ back.T, back @ own @ back.T, held, 0.1)
    for w in VALUES * 2:
        w.double() @ factor


def speed() -> None:
    """Values only, layer by layer."""
    c, anchor, retained = (x.double() for x in LAST)
    crossed, own = anchor.T @ c / len(c), c.T @ c / len(c)
    plain = (crossed - own) @ torch.linalg.inv(torch.eye(WIDTH, dtype=own.dtype) + own)
    for value in VALUES:
        w = value.double()
        null = null_space(kept_moments(SPEED(), retained, w @ plain, least(w), RNG), 0.1)
        w @ speed_edit(crossed, own, null, retained[:4], 1.0, 0.0)


EVERY = (states(CONCEPTS, TOKENS), states(CONCEPTS, TOKENS), states(KEPT, TOKENS))
LAST = (states(CONCEPTS, 1), states(CONCEPTS, 1), states(KEPT, 1) * torch.logspace(0, -3, WIDTH))   # part of the space is free


def main() -> None:
    torch.set_num_threads(1)
    runs: tuple[Callable[[], None], ...] = (uce, rece, speed)
    for edit in runs:
        began = time.process_time()
        edit()
        spent = time.process_time() - began
        print(f"{edit.__name__}: {CONCEPTS} concepts, {KEPT} prompts kept: {spent:.1f} s of processor time (limit {LIMIT:.0f})",
              flush=True)
        assert spent < LIMIT


if __name__ == "__main__":
    main()

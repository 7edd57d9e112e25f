"""What erasers of text-to-image models have in common: the weights that a variant moves, prompts without the concept,
and points on sampling trajectories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.concepts import instead
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import device_of
from lethe.core.split import Split
from lethe.train.modifiers.where.names import Names


def moved(task: DiffusionTask, variant: Literal["x", "keys", "strict", "u", "all"]) -> Names:
    """The weights that a variant moves: cross-attention, its keys and values, all but cross-attention, or everything."""
    if variant == "all":
        return Names(("*",))
    if variant == "u":
        return Names(("*",), without=task.layers("cross"))
    return Names(task.layers("cross" if variant == "x" else "keys"))


def rests(task: DiffusionTask, prompts: Sequence[str], anchor: str) -> list[str]:
    """Prompts with the anchor in the place of every concept; without an anchor as the task says them: with their replacements, or
    with their words taken out."""
    return [instead(prompt, task.wordings, anchor) if anchor else task.rest(prompt) for prompt in prompts]


def with_anchors(task: DiffusionTask, split: Split, anchor: str) -> Split:
    """The split with a column `anchor`: token ids of what its captions say without the concept (`rests`).  [n, L]"""
    said = task.captions(split)
    distinct = list(dict.fromkeys(said))
    known = dict(zip(distinct, task.tokens(rests(task, distinct, anchor)), strict=True))
    return Split({**split.columns, "anchor": torch.stack([known[caption] for caption in said])}, split.name)


def taken(task: DiffusionTask, prompts: Sequence[str], count: int) -> Tensor:
    """Token ids of `count` prompts, taking the given ones in turn.  -> [count, L]"""
    return task.tokens([prompts[i % len(prompts)] for i in range(count)])


def walked(
    task: DiffusionTask, model: nn.Module, tokens: Tensor, seed: int, steps: int, guidance: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """The points that a sampler asks the model at: timesteps [n] and x_t [n, …], of one step after the other."""
    tokens = tokens.to(device_of(model))
    for t, x in task.denoise(model, task.text(tokens), seed, steps, guidance):
        if t >= 0:
            yield torch.full((len(x),), t, device=x.device), x


def visited(
    task: DiffusionTask, model: nn.Module, tokens: Tensor, seed: int, steps: int, guidance: float, **beside: Tensor
) -> Split:
    """Every point of a model's trajectories: columns image (x_t), t, tokens and those `beside`, one row a trajectory."""
    rows: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for when, x in walked(task, model, tokens, seed, steps, guidance):
            rows.append((x.cpu(), when.cpu(), tokens, *beside.values()))
    names = ("image", "t", "tokens", *beside)
    return Split(dict(zip(names, map(torch.cat, zip(*rows, strict=True)), strict=True)), "trajectories")

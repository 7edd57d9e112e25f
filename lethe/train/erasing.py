"""What erasers of text-to-image models have in common: the weights that a variant moves, prompts without the concept,
pictures of what takes its place, points on sampling trajectories, what is to be said there, and the steps of a user."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from lethe.core.concepts import instead
from lethe.core.families.diffusion import OWN, DiffusionTask
from lethe.core.modules import copied, device_of, evaluating, put_back
from lethe.core.passes import columns
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.train.loop import Loop
from lethe.train.modifiers.combine import Ask
from lethe.train.modifiers.where import Draws, Selection
from lethe.train.modifiers.where.names import Names

ADDED = "added"     # what a method lets stand in the model while it is trained


def moved(task: DiffusionTask, variant: Literal["x", "keys", "strict", "u", "all"]) -> Names:
    """The weights that a variant moves: cross-attention, its keys and values, all but cross-attention, or everything."""
    if variant == "all":
        return Names(("*",))
    if variant == "u":
        return Names(("*",), without=task.layers("cross"))
    return Names(task.layers("cross" if variant == "x" else "keys"))


@dataclass(frozen=True)
class OwnEncoder:
    """where: the text encoder, which the network brings from now on; the parameters of it whose names `takes` says."""

    takes: Callable[[str], bool]

    def select(self, model: nn.Module, task: Task, loop: Draws) -> Selection:
        encoder = copied(DiffusionTask.of(task).pipeline.text_encoder, trainable=True)
        model.add_module(OWN, encoder.to(device_of(model)))
        return Selection({name: p for name, p in model.named_parameters() if name.startswith(f"{OWN}.") and self.takes(name)})


def joined(loop: Loop, model: nn.Module, made: Iterable[nn.Module]) -> frozenset[str]:
    """Small modules stand in the model as `ADDED` from now on, and move; the names of their parameters."""
    model.add_module(ADDED, nn.ModuleList(made).to(loop.device))
    names = [f"{ADDED}.{name}" for name, _ in model.get_submodule(ADDED).named_parameters()]
    loop.include(model, *names)
    return frozenset(names)


def rests(task: DiffusionTask, prompts: Sequence[str], anchor: str) -> list[str]:
    """Prompts with the anchor in the place of every concept; without an anchor as the task says them: with their replacements, or
    with their words taken out."""
    return [instead(prompt, task.wordings, anchor) if anchor else task.rest(prompt) for prompt in prompts]


def placed(task: DiffusionTask, anchor: str) -> bool:
    """Whether anything takes a concept's place: the anchor, or a replacement that the task names."""
    return bool(anchor) or any(one.replacement for one in task.concepts)


class Anchored(Protocol):
    """Options of a method that are told what takes the concept's place."""

    @property
    def anchor(self) -> str:
        """Words in the concept's place; empty: its replacement, if it has one."""


def one_anchor(cfg: Anchored, task: DiffusionTask) -> None:
    """`check` of a method with an anchor: it stands beside no replacement."""
    require_one_place("anchor", cfg.anchor, task)


def require_one_place(option: str, said: str, task: DiffusionTask) -> None:
    """RequestError where this option of a method and a replacement both say what takes the concept's place."""
    replaced = [one for one in task.concepts if one.replacement]
    if replaced and said:
        raise RequestError(f"{option}={said!r} and the replacement {replaced[0].replacement!r} of {replaced[0].concept!r} both "
                           "say what takes its place; nothing was started. Leave one of them out.")


def with_anchors(task: DiffusionTask, split: Split, anchor: str) -> Split:
    """The split with a column `anchor`: token ids of what its captions say without the concept (`rests`).  [n, L]"""
    said = task.captions(split)
    distinct = list(dict.fromkeys(said))
    known = dict(zip(distinct, task.tokens(rests(task, distinct, anchor)), strict=True))
    return Split({**split.columns, "anchor": torch.stack([known[caption] for caption in said])}, split.name)


def whole_words(task: DiffusionTask) -> list[str]:
    """The pieces of the vocabulary that end a word, of letters and digits alone, in order."""
    tokens = sorted(task.pipeline.tokenizer.get_vocab())
    marked = [token.removesuffix("</w>") for token in tokens if token.endswith("</w>")]
    words = marked or [token.lstrip("Ġ▁") for token in tokens if token.startswith(("Ġ", "▁"))]
    return [word for word in words if word.isalnum()]


def looked_at(task: DiffusionTask, split: Split, ends: bool) -> Split:
    """The split with a column `looked_at`: which tokens of its captions spell the concepts, or end them.  [n, L] bool"""
    said = task.captions(split)
    distinct = list(dict.fromkeys(said))
    known = dict(zip(distinct, task.named_tokens(distinct, ends), strict=True))
    return Split({**split.columns, "looked_at": torch.stack([known[caption] for caption in said])}, split.name)


def taken(task: DiffusionTask, prompts: Sequence[str], count: int) -> Tensor:
    """Token ids of `count` prompts, taking the given ones in turn.  -> [count, L]"""
    return task.tokens([prompts[i % len(prompts)] for i in range(count)])


def walked(
    task: DiffusionTask, model: nn.Module, tokens: Tensor, seed: int, steps: int, guidance: float, text: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The points that a sampler asks the model at: timesteps [n] and x_t [n, …], of one step after the other.

    text  states in the place of those of the tokens
    """
    states = task.text(tokens.to(device_of(model))) if text is None else text
    for t, x in task.denoise(model, states, seed, steps, guidance):
        if t >= 0:
            yield torch.full((len(x),), t, device=x.device), x


def visited(
    task: DiffusionTask, model: nn.Module, tokens: Tensor, seed: int, steps: int, guidance: float,
    text: Tensor | None = None, **beside: Tensor
) -> Split:
    """Every point of a model's trajectories: columns image (x_t), t, tokens and those `beside`, one row a trajectory. text:
    states in the place of those of the tokens."""
    rows: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for when, x in walked(task, model, tokens, seed, steps, guidance, text):
            rows.append((x.cpu(), when.cpu(), tokens, *beside.values()))
    names = ("image", "t", "tokens", *beside)
    return Split(dict(zip(names, map(torch.cat, zip(*rows, strict=True)), strict=True)), "trajectories")


def pictured(task: DiffusionTask, loop: Loop, anchor: str, count: int, purpose: str) -> Split:
    """Pictures that the original draws of the anchor (`rests`): columns image, tokens of the prompts with the concept, `anchor`,
    the tokens that they were drawn for."""
    original, prompts = task.original.to(loop.device), task.prompts["forget"]
    tokens, anchors = (taken(task, some, count) for some in (prompts, rests(task, prompts, anchor)))
    x = task.draw_from(original, task.text(anchors.to(loop.device)), derive(loop.seed, purpose))
    return Split({"image": x, "tokens": tokens, "anchor": anchors}, "anchors")


def answered(loop: Loop, points: Split, model: nn.Module, ask: Callable[[Batch], Mapping[str, Tensor]]) -> Split:
    """The points with what `ask` says of each batch of them, once, by a model that does not move: a column for each answer."""
    with evaluating(model):
        found = columns(ask, loop.drawn(points, 64, "targets"), len(points))
    return Split({**points.columns, **found}, points.name)


def esd_target(cond: Tensor, uncond: Tensor, eta: float, base: Tensor | None = None) -> Tensor:
    """base − η (cond − uncond), base = uncond unless there is a host: ESD's aim.  [n, …] ×3 -> [n, …]

    cond 3, uncond 1, η 1: 1 − (3 − 1) = −1; in the convention of ESD's later code (η_code = 2): 3 − 2 · (3 − 1) = −1.
    """
    return (uncond if base is None else base) - eta * (cond - uncond)


def esd_points(task: DiffusionTask, loop: Loop, purpose: str, eta: float, count: int, steps: int, guidance: float) -> Split:
    """Points of `count` trajectories of the original for the prompts with the concept, and ESD's aim there: the columns of
    `visited`, and `target`."""
    original, tokens = task.original.to(loop.device), taken(task, task.prompts["forget"], count)
    points = visited(task, original, tokens, derive(loop.seed, purpose), steps, guidance)
    empty = task.text(task.tokens([""]).to(loop.device))

    def targets(batch: Batch) -> dict[str, Tensor]:
        cond, free = (task.predict(original, batch.image, batch.t, text)
                      for text in (task.text(batch.tokens), empty.expand(len(batch), -1, -1)))
        return {"target": esd_target(cond, free, eta)}

    return answered(loop, points, original, targets)


@contextmanager
def fine_tuned(
    params: Sequence[nn.Parameter], user: torch.optim.Optimizer, gradients: Ask, terms: Iterable[str], clip: float | None = None
) -> Iterator[None]:
    """Inside, the parameters are where a user's steps lead, one along the gradient of each term; then as before.

    clip  largest norm of a gradient; None: any
    """
    with put_back(params):
        for term in terms:
            for p, g in zip(params, gradients([term]), strict=True):
                p.grad = g
            if clip is not None:
                nn.utils.clip_grad_norm_(params, clip, foreach=False)
            user.step()
        yield

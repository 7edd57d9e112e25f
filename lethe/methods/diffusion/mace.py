"""MACE: take the concept out of the words around it, teach an adapter per concept to look away from its own words, and melt all
adapters into one matrix. Lu, Wang, Li, Liu & Kong (2024), arXiv:2403.06135 (CVPR 2024).

    1   W_1 = W_0 (Σ g kᵀ + λI + ρ C)(Σ k kᵀ + λI + ρ C)⁻¹                              to_k and to_v of cross-attention
    2   L(Δ_i) = E_{x, t, ε} Σ_l ‖A_l(x_t, c)[M, P]‖_F        Δ_i = B_i A_i beside W_1, of rank r, one for each concept i
    3   W = (Σ_i (W_1 + Δ_i) S_i + λ W_1 + ρ' W_0 C)(Σ_i S_i + λI + ρ' C)⁻¹,            S_i = Σ s sᵀ

k the states of all tokens but the concept's own in the prompts c with it, g those of the same words where the anchor takes its
place; s the states of every token of the prompts with concept i; C = Σ u uᵀ over what is to be kept (the empty prompt and the
prompts to keep). A_l the maps of a layer, M the places of the picture x at which the concept is seen, P the tokens that spell it
and with `ends` the end token and its repetitions; x pictures of concept i with their prompts, t drawn by
σ(γ(t − 200)) − σ(γ(t − 400)), γ = 0.05, for T = 1000.
Needs:    forget (pictures may come from the original itself), original.     Updates: to_k and to_v of cross-attention.
Cost:     two solves of the text width; for each concept `steps` forward/backwards, and one frozen forward per picture for M.
Limits:   steps whose Δ stay zero leave W_1; λ → ∞ leaves the original.
Fails by: a λ that is large against the states: then nothing is erased (audit: `erasure`); `ends` on models of few tokens, where
          all prompts share most of their states and neighbours go first (audit: `erasure`, kept accuracy).
Deviations: M is where the original looks at the concept's words (its maps of a quarter of the side, as in Receler), at the noise
          level 300, not a segmentation by Grounded-SAM; C is of the prompts to keep, not of captions of COCO; prompts are the
          task's, not a list of templates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lethe.core.concepts import Concept
from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import hooked, seeded
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.maths.attention import resized, shown_at
from lethe.maths.linear_edit import map_of_moments
from lethe.train.erasing import ADDED, answered, joined, looked_at, one_anchor, rests
from lethe.train.loop import Loop, Term
from lethe.train.projections import Projections

SHOWN = 0.1          # of a look from which a place shows the concept              [as Receler]
MIDDLE = 0.3         # share of the noise levels at which M is taken: the likeliest t      [ours]


@config
class MACE:
    """Options of MACE."""

    anchor: str = ""                  # words in the concept's place; empty: none [e.g. square]      [official code]
    lamb: Positive = 1e3              # λ; larger changes less; tiny models need about 1             [official code]
    preserve: NonNegative = 0.0       # ρ, weight of what is to be kept, in 1                        [official code, objects]
    fuse_preserve: NonNegative = 0.0  # ρ', in 3                                                     [official code, objects]
    mask: Literal["attention", "none"] = "attention"   # M: where the concept is seen; none: everywhere (styles)  [ours]
    ends: bool = True                 # P holds the end token and its repetitions                    [official code]
    rank: Count = 1                   # r of the adapters                                            [official code]
    lr: Positive = 1e-5               # AdamW; tiny models need about 1e-2                           [official code]
    steps: Count = 50                 # optimiser steps for each concept                             [official code, objects]
    batch_size: Count = 1             # pictures per step                                            [official code]


class LowRank(nn.Module):
    """B A x, zero at first; A ~ N(0, 1/r²).  [n, L, d] -> [n, L, out]"""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias=False)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.up(self.down(x))
        return said


def other_words(old: Sequence[int], new: Sequence[int]) -> list[tuple[int, int]]:
    """Places of what two sequences of token ids have in common at their beginning and at their end.

    (s, a, red, disk, e), (s, a, red, big, box, e) -> (0, 0), (1, 1), (2, 2), (4, 5)
    """
    first = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    rest = min(len(old), len(new)) - first
    last = next((i for i in range(rest) if old[-1 - i] != new[-1 - i]), rest)
    return [(i, i) for i in range(first)] + [(len(old) - i, len(new) - i) for i in range(last, 0, -1)]


def likely(timesteps: int) -> Tensor:
    """The chances of the noise levels.  -> [T]"""
    t = torch.arange(timesteps, dtype=torch.float64) * 1000 / timesteps
    chances = torch.sigmoid(0.05 * (t - 200)) - torch.sigmoid(0.05 * (t - 400))
    return chances / chances.sum()


def melted(first: Tensor, original: Tensor, changes: Sequence[Tensor], moments: Sequence[Tensor], kept: Tensor, lamb: float
           ) -> Tensor:
    """3.  W_1, W_0 [out, d], Δ_i [out, d], S_i [d, d], ρ' C [d, d] -> [out, d]

    d = 1, W_1 = W_0 = 1, Δ = 2, S = 3, C = 0, λ = 1: (3 · 3 + 1)/(3 + 1) = 2.5.
    """
    ridge = lamb * torch.eye(len(kept), dtype=kept.dtype, device=kept.device)
    left = original @ kept + first @ ridge + sum((first + d) @ s for d, s in zip(changes, moments, strict=True))
    found: Tensor = torch.linalg.solve(ridge + kept + sum(moments), left.T).T
    return found


def looks(maps: Mapping[str, Tensor], tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Σ_l ‖A_l[M, P]‖_F.  [n, heads, h, w, L] each, [n, L] bool, [n, h, w] bool -> [n]

    Two layers of one head, one place and one token, A = 0.3 and 0.4: 0.7.
    """
    found = torch.zeros(len(tokens), device=tokens.device)
    for some in maps.values():
        inside = some * tokens.view(len(tokens), 1, 1, 1, -1)
        if mask is not None:
            inside = inside * resized(mask, (some.shape[2], some.shape[3]))[:, None, :, :, None]
        found = found + torch.linalg.vector_norm(inside.flatten(1), dim=1)
    return found


@method(needs={"forget", "original"}, mechanism="closed form", check=one_anchor, uses={
    "alphas_cumprod", "attention_maps", "attention_projections", "concepts", "named_tokens", "noised", "pipeline", "prompts",
    "rest", "shape", "text", "tokens", "words"})
def run(cfg: MACE, task: DiffusionTask, loop: Loop) -> Outcome:
    edit = Projections.of(task, loop)
    own = {one.concept: [p for p in task.prompts["forget"] if task.named(p) == one] for one in task.concepts}
    kept = edit.every(["", *task.prompts.get("keep", [])]).double()
    c, before = kept.T @ kept, {name: p.detach().double().clone() for name, p in edit.weights.items()}
    k, g = around(cfg, task, [p for prompts in own.values() for p in prompts])
    edit.multiply(map_of_moments(g.T @ k, k.T @ k, cfg.preserve * c, cfg.lamb))
    moments, changes = [], []
    for one in task.concepts:
        pictures = shown(cfg, task, loop, one)
        states = edit.every(own[one.concept]).double()
        moments.append(states.T @ states)
        changes.append(trained(cfg, task, loop, edit, pictures, one))
    with torch.no_grad():
        for name, p in edit.weights.items():
            here = [moment.to(p.device) for moment in moments]
            p.copy_(melted(p.double(), before[name], [each[name].to(p.device) for each in changes], here,
                           cfg.fuse_preserve * c.to(p.device), cfg.lamb))
    return loop.finish(edit.model)


def around(cfg: MACE, task: DiffusionTask, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """k and g of 1, in float64.  -> [m, d] ×2"""
    twins = rests(task, prompts, cfg.anchor)
    ids = [task.tokens(some) for some in (prompts, twins)]
    (old,), (new,) = (task.words(some) for some in ids)
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for i, (end, twin) in enumerate(zip(old.end.tolist(), new.end.tolist(), strict=True)):
        pairs = other_words(ids[0][i, : end + 1].tolist(), ids[1][i, : twin + 1].tolist())
        padding = zip(range(end + 1, old.states.shape[1]), range(twin + 1, new.states.shape[1]), strict=False)
        for here, there in (*pairs, *padding):
            found[0].append(old.states[i, here].double())
            found[1].append(new.states[i, there].double())
    return torch.stack(found[0]), torch.stack(found[1])


def shown(cfg: MACE, task: DiffusionTask, loop: Loop, concept: Concept) -> Split:
    """Pictures of a concept with columns `looked_at` (P) and `mask` (M). RequestError where there are none."""
    said = task.captions(task.forget)
    rows = [i for i, caption in enumerate(said) if task.named(caption) == concept]
    if not rows:
        raise RequestError(f"no picture of the forget set has a caption with {concept.concept!r}, so MACE could not train an "
                           "adapter for it; nothing was started. Provide such pictures, or let the original draw them.")
    pictures = looked_at(task, task.forget.subset(rows, "forget"), cfg.ends)
    if cfg.mask == "none":
        return pictures
    rng, image = loop.generator("mace", concept.concept), pictures.columns["image"]
    columns = {**pictures.columns, "t": torch.full((len(image),), int(MIDDLE * len(task.alphas_cumprod))),
               "noise": torch.randn(image.shape, generator=rng), "spelled": task.named_tokens([said[i] for i in rows])}

    def ask(batch: Batch) -> dict[str, Tensor]:
        maps = task.attention_maps(task.original, task.noised(batch), batch.t, task.text(batch.tokens)).maps
        return {"mask": shown_at(maps, batch.spelled, task.shape[1] / 4, SHOWN)}

    mask = answered(loop, Split(columns, "forget"), task.original.to(loop.device), ask).columns["mask"]
    return Split({**pictures.columns, "mask": mask}, "forget")


def trained(
    cfg: MACE, task: DiffusionTask, loop: Loop, edit: Projections, pictures: Split, concept: Concept
) -> dict[str, Tensor]:
    """Δ of a concept by name of the projection.  {name: [out, d]}"""
    model, chances = edit.model, likely(len(task.alphas_cumprod))
    layers = {name: model.get_submodule(name.removesuffix(".weight")) for name in edit.weights}
    made = seeded(lambda _: {name: LowRank(layer, cfg.rank) for name, layer in layers.items() if isinstance(layer, nn.Linear)},
                  derive(loop.seed, "mace", concept.concept))
    moves = joined(loop, model, made.values())

    def prepare(batch: Batch, rng: torch.Generator) -> Batch:
        t = torch.multinomial(chances, len(batch), replacement=True, generator=rng)
        return batch.replace(t=t, noise=torch.randn(batch.image.shape, generator=rng))

    def loss(m: nn.Module, batch: Batch) -> Tensor:
        maps = task.attention_maps(m, task.noised(batch), batch.t, task.text(batch.tokens)).maps
        return looks(maps, batch.looked_at, batch.mask if cfg.mask == "attention" else None)

    with beside({name: (layers[name], low) for name, low in made.items()}):
        loop.minimise(model, {"forget": Term(pictures, loss, moves=moves, prepare=prepare)}, lr=cfg.lr, steps=cfg.steps,
                      batch_size=cfg.batch_size, optimiser="adamw", weight_decay=0.01)
    delattr(model, ADDED)
    return {name: (low.up.weight.double() @ low.down.weight.double()).detach() for name, low in made.items()}


@contextmanager
def beside(pairs: Mapping[str, tuple[nn.Module, LowRank]]) -> Iterator[None]:
    """Inside, each layer says what its adapter says, too."""
    def hook(low: LowRank) -> Any:
        return lambda _, args, out: out + low(args[0])

    handles = [layer.register_forward_hook(hook(low)) for layer, low in pairs.values()]
    with hooked(*handles):
        yield

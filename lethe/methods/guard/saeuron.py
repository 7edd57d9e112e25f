"""SAeUron: what a network says behind a layer of cross-attention is written in a dictionary of many directions, and those that
the concept uses more than all else does are turned around while a picture is drawn; the weights stay. Cywiński & Deja (2025),
arXiv:2501.18052 (ICML 2025).

    z = ReLU(top_k(E (h − μ)/s + β)),    a_c = mean z over places and pictures of c at a step,    p_c = a_c / Σ_j a_cj
    J = {j : (p_c − p_others)_j above the percentile},    h → h + s Σ_{j∈J} (z'_j − z_j) D_j
    z'_j = γ a_cj z_j    where  z_j > mean_c' a_c'j,    else z_j

h what a block of the network says at a place of the picture, D, E, β, μ, s a dictionary learned from such states of all steps
(`train.sparse_codes`), c the concept, the others every other concept and each kept prompt. J and the means belong to a step
of the sampler; at other timesteps those of the nearest one count.
Needs:    original, and prompts, with the concept and to keep; no pictures.     Updates: nothing; the outcome is a guard.
Cost:     `trajectories` full samplings for the concept and as many for kept prompts, two more forwards of each of their points,
          and the dictionary, once; then a few operations on one layer.
Limits:   γ a_cj = 1 changes nothing, γ = 0 silences; percentile 100 is the original, bit for bit.
Fails by: a block that says other things, too. On the preset mid_block.attentions.0 (k 4, percentile 99.5, γ −1) erases 0.95, 0.89
          and 0.97 of 3 originals, of all else 0.02 is lost at most; up_blocks.1.attentions.1 tears every picture. Whoever
          holds the weights takes it off (audit: `guard`).
Deviations: the official code adds what the dictionary leaves of h with the wrong sign (x̂ − x, which doubles the error); here h
          keeps it. Each kept prompt counts as a concept, for nobody says which go together. States are scaled by s, and so is γ
          with them. Of a direction that several concepts choose the last one decides. Of each picture and step some places, at
          random, teach the dictionary. What silent directions say is compared with what is left (official code: with its
          negative, and with μ added).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.diffusion import AroundNetwork, DiffusionTask
from lethe.core.guard import Parts
from lethe.core.modules import evaluating, hooked
from lethe.core.outcome import Outcome
from lethe.core.passes import plain
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Split
from lethe.errors import RequestError
from lethe.maths.sparse_codes import Kept, asked, coded
from lethe.train.erasing import taken, visited
from lethe.train.loop import Loop
from lethe.train.sparse_codes import Coding, Dictionary, learned

BATCH = 32   # points of one pass


@config
class SAeUron(Coding):
    """Options of SAeUron."""

    block: str = "up_blocks.1.attentions.1"   # whose states are read; styles up_blocks.1.attentions.2 [tested in test_saeuron]
    #                                                                                                 [official code]
    latents: Count | None = None    # directions; null: 16 for each channel                            [official code]
    k: Count = 32                   # of them in a state                                               [official code]
    kept: Kept = "batch"            # k in each state, or on average of a batch, while it is learned   [official code]
    gamma: float = -1.0             # γ, of what a chosen direction says; objects −1 to −30            [official code]
    percentile: Annotated[float, Field(ge=0, le=100)] = 99.999   # of scores; tiny dictionaries 99     [official code]
    lr: Positive = 4e-4             # Adam; tiny models need about 3e-3                                [official code]
    epochs: Positive = 5.0          # passes over the states                                           [ours]
    batch_size: Count = 4096        # states per step                                                  [official code]
    places: Count = 64              # of a picture at each step that teach the dictionary              [ours]
    trajectories: Count = 80        # for the concepts, and as many for kept prompts                   [ours]
    sampler_steps: Count = 50       # steps of a trajectory; those of the pictures to come             [official code]
    start_guidance: NonNegative = 9.0   # guidance of the trajectories; 1 for tiny models              [official code]


def importance(own: Tensor, others: Tensor) -> Tensor:
    """p_c − p_others of mean activations.  [a, m], [b, m] -> [m]

    own = (3, 1), others = (1, 1) and (0, 2): p_c = (¾, ¼), p_others = (½, 3/2) / 2 = (¼, ¾): (½, −½).
    """
    mine, theirs = own.mean(0), others.mean(0)
    return mine / mine.sum().clamp(min=1e-8) - theirs / theirs.sum().clamp(min=1e-8)


def turned(z: Tensor, factor: Tensor, bar: Tensor) -> Tensor:
    """z' of directions.  [..., u] ×3 -> [..., u]

    z = (2, 1), γ a = −3, mean 1: (−6, 1), for 1 does not exceed the mean.
    """
    return torch.where(z > bar, factor * z, z)


class Ablated(AroundNetwork, Parts):
    """A network in which some directions behind a block are turned around.

    reads [m, d], bias [m]  of the whole dictionary     says [u, d], latents [u]  directions that any step chooses, and which
    centre [d], scale []  μ and s     times [S]  of the steps     factor, bar [S, u]  γ a_c, 1 of those not chosen, and the mean
    """

    reads: Tensor
    bias: Tensor
    says: Tensor
    latents: Tensor
    centre: Tensor
    scale: Tensor
    times: Tensor
    factor: Tensor
    bar: Tensor
    block: str
    k: int

    def forward(self, sample: Tensor, timestep: Tensor, *given: Any, **options: Any) -> Any:
        when = torch.as_tensor(timestep, device=sample.device).expand(len(sample)).to(self.times)
        step = (self.times - when.view(-1, 1)).abs().argmin(1)

        def change(said: Tensor) -> Tensor:
            h = placed(said).to(self.centre)
            before = asked(h, self.centre, self.scale, self.reads, self.bias)
            z = coded(before.flatten(0, 1), self.k).view_as(before)[..., self.latents]
            more = turned(z, self.factor[step].unsqueeze(1), self.bar[step].unsqueeze(1)) - z
            return said + (self.scale * more @ self.says).transpose(1, 2).view_as(said).to(said)

        with behind(self.model, self.block, change):
            return self.model(sample, timestep, *given, **options)


def placed(said: Tensor) -> Tensor:
    """Maps as states, one a place.  [n, d, h, w] -> [n, h·w, d]"""
    return said.flatten(2).transpose(1, 2)


@contextmanager
def behind(model: nn.Module, block: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, what a block says is changed."""
    with hooked(model.get_submodule(block).register_forward_hook(lambda _, __, out: (change(out[0]), *out[1:]))):
        yield


def check(cfg: SAeUron, task: DiffusionTask) -> None:
    """RequestError where nothing is to be kept, or the network has no such block."""
    if not task.prompts.get("keep"):
        raise RequestError("saeuron chooses what the concept uses more than kept prompts do, and there are none in data.keep, so "
                           "all would be the concept; nothing was started. Provide some in data.keep.")
    blocks = [name for name, module in task.original.named_modules() if type(module).__name__ == "Transformer2DModel"]
    if cfg.block not in blocks:
        raise RequestError(f"method.block = {cfg.block!r} is no block of cross-attention of this {type(task.original).__name__}; "
                           f"nothing was started. Choose one of its {len(blocks)}"
                           f"{': ' + ', '.join(blocks) if blocks else ', or another method, e.g. esd'}.")


@method(needs={"original"}, mechanism="guard", check=check,
        uses={"concepts", "denoise", "pipeline", "predict", "prompts", "text", "tokens"})
def run(cfg: SAeUron, task: DiffusionTask, loop: Loop) -> Outcome:
    original, device = task.original.to(loop.device), loop.settings.device
    points, rng = seen_points(cfg, task, loop), loop.generator("saeuron", "places")
    some: list[Tensor] = []
    for h in states(cfg, task, original, points, device):
        chosen = torch.randperm(h.shape[1], generator=rng)[: cfg.places]
        some.append(h[:, chosen.to(h.device)].float().flatten(0, 1).cpu())
    seen = torch.cat(some)
    known = learned(cfg, task, loop, seen, cfg.latents or 16 * seen.shape[1], cfg.k, cfg.kept)
    used = torch.cat([mean_codes(known, h) for h in states(cfg, task, original, points, device)]).cpu()
    group, when = points.columns["group"], points.columns["t"]
    times = when.unique()
    factor, bar = (torch.stack(rows) for rows in zip(*(
        chosen_at(cfg, used[when == t], group[when == t], len(task.concepts)) for t in times), strict=True))
    latents = (factor != 1).any(0).nonzero().flatten()
    loop.note(f"{len(latents)} directions of {cfg.block} are turned around, {(factor != 1).sum() / len(times):.3g} at a step "
              "on average; nothing was removed")
    parts: dict[str, Any] = {
        "reads": known.reads, "bias": known.bias, "says": known.directions()[latents.to(device)], "latents": latents.to(device),
        "centre": known.centre, "scale": known.scale, "times": times.to(device), "factor": factor[:, latents].to(device),
        "bar": bar[:, latents].to(device), "block": cfg.block, "k": known.k}
    return loop.finish(loop.start(), guard=lambda model: Ablated(model, **parts))


def seen_points(cfg: SAeUron, task: DiffusionTask, loop: Loop) -> Split:
    """Points of trajectories, and whose they are: `group`, first the concepts, then each kept prompt."""
    gone, kept = task.prompts["forget"], task.prompts["keep"]
    of = [next(i for i, one in enumerate(task.concepts) if one is task.named(prompt)) for prompt in gone]
    groups = [of[i % len(gone)] for i in range(cfg.trajectories)] + [
        len(task.concepts) + i % len(kept) for i in range(cfg.trajectories)]
    tokens = torch.cat([taken(task, prompts, cfg.trajectories) for prompts in (gone, kept)])
    return visited(task, task.original.to(loop.device), tokens, derive(loop.seed, "saeuron"), cfg.sampler_steps,
                   cfg.start_guidance, group=torch.tensor(groups))


def states(cfg: SAeUron, task: DiffusionTask, model: nn.Module, points: Split, device: str) -> Iterator[Tensor]:
    """What the block says at the points, batch after batch.  -> [n, places, d]"""
    found: list[Tensor] = []

    def keep(said: Tensor) -> Tensor:
        found[:] = [placed(said)]
        return said

    for batch in plain(points, BATCH, device=device):
        with evaluating(model), behind(model, cfg.block, keep):
            task.predict(model, batch.image, batch.t, task.text(batch.tokens))
        yield found[0]


def mean_codes(known: Dictionary, h: Tensor) -> Tensor:
    """z, the mean over places.  [n, places, d] -> [n, m]"""
    return coded(known.before(h.float().flatten(0, 1)), known.k).view(*h.shape[:2], -1).mean(1)


def chosen_at(cfg: SAeUron, used: Tensor, group: Tensor, concepts: int) -> tuple[Tensor, Tensor]:
    """γ a_c of the directions in J, 1 of others, and mean_c' a_c' of all, at one step.  [n, m], [n] -> [m] ×2"""
    average = torch.stack([used[group == one].mean(0) for one in group.unique()]).mean(0)
    factor = torch.ones_like(average)
    for concept in range(concepts):
        own = group == concept
        score = importance(used[own], used[~own])
        chosen = score > score.quantile(cfg.percentile / 100)
        factor = torch.where(chosen, cfg.gamma * used[own].mean(0), factor)
    return factor, average

"""A critic: a small network that tells pictures to be forgotten from those that stay, however much noise is in them, and how a
guard that steers a text-to-image network carries one.

    x̂_0 = (x_t − n_t ε) / s_t,      ε → ε − n_t · push,   that is   x̂_0 → x̂_0 + (n_t² / s_t) · push

ε what the network predicts, s_t = √ᾱ_t signal and n_t = √(1 − ᾱ_t) noise, push a gradient that the critic has at x_t or at x̂_0:
the score −ε/n_t grows by it. Where the sampler cuts x̂_0, so does the guard, and says the ε that belongs to it: else a sampler
that cuts the pushed x̂_0 and goes on with the pushed ε walks against the push (all pictures of the preset became the concept).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.core.config import Count, Positive, config
from lethe.core.families.diffusion import AroundNetwork, DiffusionTask
from lethe.core.guard import Parts
from lethe.core.modules import seeded
from lethe.core.seeds import derive
from lethe.errors import RequestError
from lethe.train.inner import charge, within
from lethe.train.loop import Loop, Term

WAVES = 8   # numbers that stand for a share of noise


@config
class Criticism:
    """Options of a critic; methods extend them."""

    width: Count = 16           # channels of its first layer; the last has four times as many     [ours]
    lr: Positive = 1e-3         # Adam                                                              [ours]
    epochs: Positive = 30.0     # passes over the retained pictures                                 [ours]
    batch_size: Count = 64      # pictures of either kind per step                                  [ours]


class Critic(nn.Module):
    """Three convolutions, a mean over places, a linear layer; the share of noise scales and shifts the channels.

    softness  β of softplus; None: ReLU, which its limit β → ∞ is
    """

    def __init__(self, channels: int, outputs: int, width: int, softness: float | None = None) -> None:
        super().__init__()
        self.softness = softness
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.third = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.level = nn.Linear(WAVES, 4 * width)
        self.last = nn.Linear(4 * width, outputs)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Pictures [n, C, H, W] and their share of noise [n] in [0, 1] -> [n, outputs]"""
        waves = torch.cos(torch.pi * torch.arange(WAVES, device=x.device) * level.view(-1, 1))
        scale, shift = self.level(waves)[..., None, None].chunk(2, 1)
        h = self.bent(self.first(x))
        h = self.bent(self.second(h) * (1 + scale) + shift)
        said: Tensor = self.last(self.bent(self.third(h)).mean((2, 3)))
        return said

    def bent(self, h: Tensor) -> Tensor:
        """The nonlinearity."""
        return F.relu(h) if self.softness is None else F.softplus(h, self.softness)


def flat(critic: Critic) -> Tensor:
    """Its weights in one row, as guards hold them."""
    return nn.utils.parameters_to_vector(critic.parameters()).detach()


def learned(cfg: Criticism, task: DiffusionTask, loop: Loop, critic: Critic, terms: dict[str, Term]) -> Critic:
    """The critic by these terms, `forget` and `retain`, in a run of its own within this one."""
    own = within(loop, task, "critic", loop.modifiers)
    placed = own.start(critic)
    own.minimise(placed, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, over="retain", optimiser="adam")
    charge(loop, own)
    critic.eval().requires_grad_(False)
    return critic


def fresh(cfg: Criticism, task: DiffusionTask, loop: Loop, outputs: int, softness: float | None = None) -> Critic:
    """A critic that has learned nothing."""
    return seeded(lambda _: Critic(task.shape[0], outputs, cfg.width, softness), derive(loop.seed, "critic"))


class Guided(AroundNetwork, Parts):
    """A network whose predicted noise is moved along a gradient of a critic. The guard of a method says which.

    weights  of the critic     signal  [T] ᾱ     first, last  timesteps between which it acts     bound  of x̂_0; 0: none
    """

    weights: Tensor
    signal: Tensor
    width: int
    first: int
    last: int
    bound: float

    def forward(self, sample: Tensor, timestep: Tensor, *given: Any, **options: Any) -> Any:
        said = self.model(sample, timestep, *given, **options)
        t = torch.as_tensor(timestep, device=sample.device).expand(len(sample)).long()
        acts = (t >= self.first) & (t <= self.last)
        if self.off() or not bool(acts.any()):
            return said
        x, noise, signal = sample[acts, : said[0].shape[1]].float(), said[0][acts].float(), self.signal[t[acts]].view(-1, 1, 1, 1)
        push = self.push(x.detach(), self.clean(x, noise, signal).detach(), signal, t[acts])
        moved = self.cut(self.clean(x, noise, signal) + (1 - signal) / signal.sqrt() * push)
        said[0][acts] = ((x - signal.sqrt() * moved) / (1 - signal).sqrt()).to(said[0])
        return said

    def clean(self, x: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
        """x̂_0."""
        return (x - (1 - signal).sqrt() * noise) / signal.sqrt()

    def cut(self, clean: Tensor) -> Tensor:
        """x̂_0 as the sampler cuts it."""
        return clean.clamp(-self.bound, self.bound) if self.bound else clean

    def off(self) -> bool:
        """Whether nothing is pushed at all."""
        raise NotImplementedError

    def push(self, x: Tensor, clean: Tensor, signal: Tensor, t: Tensor) -> Tensor:
        """What is added to the score at x_t, of which the network makes x̂_0.  [n, …] ×2, ᾱ [n, 1, 1, 1], [n] -> [n, …]"""
        raise NotImplementedError

    def asked(self, x: Tensor, level: Tensor, outputs: int, softness: float) -> Tensor:
        """What the critic says.  [n, …], [n] -> [n, outputs]"""
        with torch.device("meta"):
            critic = Critic(x.shape[1], outputs, self.width, softness)
        named = dict(critic.named_parameters())
        pieces = self.weights.split([p.numel() for p in named.values()])
        parts = {name: piece.view(p.shape) for (name, p), piece in zip(named.items(), pieces, strict=True)}
        found: Tensor = torch.func.functional_call(critic, parts, (x, level))
        return found


def bound_of(task: DiffusionTask) -> float:
    """What the sampler cuts x̂_0 to; 0: to nothing."""
    parts, asked = task.pipeline, task.pipeline.scheduler.config
    return float(asked.get("clip_sample_range", 1.0)) if asked.get("clip_sample") and parts.vae is None else 0.0


def require_noise(name: str, task: DiffusionTask) -> None:
    """RequestError for networks that are no UNets, or say something else than the noise."""
    says, kind = task.pipeline.scheduler.config.get("prediction_type", "epsilon"), type(task.original).__name__
    if says != "epsilon" or kind != "UNet2DConditionModel":
        found = kind if kind != "UNet2DConditionModel" else f"{kind} that predicts {says!r}"
        raise RequestError(f"{name} moves the noise that a UNet predicts, and this is a {found}, of which the rule would make "
                           "something else; nothing was started. Choose another method, e.g. esd.")

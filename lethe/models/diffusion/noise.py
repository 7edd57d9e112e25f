"""What noise is to a pipeline: how much of it x_t holds at a timestep, and what its network predicts of it.

    x_t = s_t · x + n_t · ε        s_t signal, n_t noise

    chain (DDPM and its samplers)   s = √ᾱ_t, n = √(1 − ᾱ_t)   the network says ε, v = s ε − n x, or x     (`prediction_type`)
    flow (SD3, FLUX)                s = 1 − t/T, n = t/T        the network says ε − x

Methods compare what networks say, as they were trained: of a flow, ε is x_t at t = T whatever the network says. `as_noise` and
`as_picture` make ε and x of it, for what is said of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lethe.errors import ModelError

Says = Literal["epsilon", "v_prediction", "sample", "flow"]


@dataclass(frozen=True)
class Noise:
    """The noise of a pipeline.

    says            what the network predicts
    alphas_cumprod  share of signal ᾱ = s²/(s² + n²) at the timesteps 0, 1, …  [T]
    times           the timesteps at which the network was trained, one of them as likely as the other  [T]
    """

    says: Says
    alphas_cumprod: Tensor
    times: Tensor

    @classmethod
    def of(cls, scheduler: Any) -> Noise:
        """What a diffusers scheduler says about it. ModelError for a scheduler of another kind."""
        config = scheduler.config
        if type(scheduler).__name__.startswith("FlowMatch"):
            share = torch.arange(config.num_train_timesteps) / config.num_train_timesteps
            signal, noise = (1 - share).square(), share.square()
            return cls("flow", signal / (signal + noise), scheduler.timesteps.float().cpu())
        says, alphas = config.get("prediction_type", "epsilon"), getattr(scheduler, "alphas_cumprod", None)
        if alphas is None or says not in get_args(Says):
            raise ModelError(f"the scheduler is a {type(scheduler).__name__} that predicts {says!r}, whose noise levels are not "
                             "known here, so no loss could be computed. Use a scheduler with a table of alphas_cumprod that "
                             "predicts epsilon, v_prediction or sample, or FlowMatchEulerDiscreteScheduler.")
        return cls(says, alphas.float(), torch.arange(len(alphas)))

    def at(self, share: float) -> int | float:
        """The timestep at this share [0, 1] of the schedule."""
        place = int(share * len(self.alphas_cumprod))
        return float(place) if self.says == "flow" else place

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """s_t and n_t, shaped for `like` [n, …]; between two steps of a chain n/s is read off the line between theirs."""
        shape = (-1, *[1] * (like.dim() - 1))
        if self.says == "flow":
            noise = (t.to(like.device).float() / len(self.alphas_cumprod)).view(shape)
            return 1 - noise, noise
        alphas = self.alphas_cumprod.to(like.device)
        if t.is_floating_point():
            t, ratio = t.clamp(0, len(alphas) - 1), (1 / alphas.clamp(min=1e-12) - 1).sqrt()
            below, part = t.floor().long(), (t - t.floor()).float()
            between = torch.lerp(ratio[below], ratio[(below + 1).clamp(max=len(alphas) - 1)], part)
            alpha = 1 / (1 + between.square())
        else:
            alpha = alphas[t]
        alpha = alpha.view(shape)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should say for pictures x and their noise.  [n, …], [n, …], [n] -> [n, …]"""
        if self.says == "epsilon":
            return noise
        if self.says == "sample":
            return x
        if self.says == "flow":
            return noise - x
        signal, share = self.levels(t, x)
        return signal * noise - share * x

    def as_noise(self, said: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The predicted ε in what the network says at x_t.  [n, …] -> [n, …]"""
        if self.says == "epsilon":
            return said
        signal, share = self.levels(t, x_t)
        if self.says == "flow":       # x_t = x + n (ε − x), so ε = x_t + (1 − n)(ε − x)
            return x_t + signal * said
        if self.says == "sample":
            return (x_t - signal * said) / share.clamp(min=1e-6)
        return signal * said + share * x_t

    def as_picture(self, said: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The predicted x in what the network says at x_t.  [n, …] -> [n, …]"""
        if self.says == "sample":
            return said
        signal, share = self.levels(t, x_t)
        if self.says == "flow":
            return x_t - share * said
        if self.says == "epsilon":
            return (x_t - share * said) / signal.clamp(min=1e-6)
        return signal * x_t - share * said

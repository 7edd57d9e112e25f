"""Gradient steps under Gaussian noise that nobody can take off again, and the secret that the noise comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.seeds import derive
from lethe.errors import RequestError
from lethe.train.distribute import full

HAIR = 1 - 2**-7   # what half precision may round up


@dataclass(frozen=True)
class Noisy:
    """The rule x ← x − γ·(g + λx) + ξ,  ξ ~ N(0, σ²) on the entries in `where`, for `Loop.minimise(optimiser=…)`.

    With `radius` C it is x ← Π_C(x − γ·(g + λx)) + ξ, Π_C(v) = v·min(1, C/‖v‖) of all parameters as one vector.

    secret  what the noise follows from, with the step and the parameter's name: a run that resumes draws the same
    where   boolean [shape of θ] by parameter name; other entries are stepped without noise
    like    brings a whole tensor into the layout of a parameter (`Distribution.like`)
    """

    sigma: float
    secret: int
    where: Mapping[str, Tensor]
    like: Callable[[Tensor, Tensor], Tensor]
    radius: float | None = None

    @property
    def named(self) -> str:
        """A name that tells rules apart and gives no secret away."""
        return hashlib.sha256(f"{self.secret} {self.sigma!r}{self.radius or ''}".encode()).hexdigest()

    def over(self, params: Mapping[str, nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
        """The rule on these parameters."""
        return _NoisySteps(self, params, lr, weight_decay)

    def draw(self, name: str, step: int, p: Tensor) -> Tensor:
        """ξ for one parameter at one step."""
        words = f"{self.secret} {name} {step}".encode()
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(words).digest(), "big"))
        xi = self.sigma * torch.from_numpy(rng.standard_normal(tuple(p.shape)))
        return self.like((xi * self.where[name].cpu()).to(p.device, p.dtype), p)


class _NoisySteps(torch.optim.Optimizer):
    """Steps of `Noisy`. What has no gradient is stepped, too: its noise must not depend on the data."""

    def __init__(self, rule: Noisy, params: Mapping[str, nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(list(params.values()), {"lr": lr, "weight_decay": weight_decay})
        self.rule, self.names = rule, list(params)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step from the gradients that are there; `closure` is called first, as torch has it."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["lr"] * group["weight_decay"])   # also what `masks` of the loop puts back
                if p.grad is not None:
                    p.add_(p.grad, alpha=-group["lr"])
            inside = clipping((full(p) for p in group["params"]), self.rule.radius)
            for name, p in zip(self.names, group["params"], strict=True):
                done = int(self.state[p].get("step", 0))
                p.mul_(inside).add_(self.rule.draw(name, done, p))
                self.state[p]["step"] = torch.tensor(float(done + 1))
        return loss


def clipping(values: Iterable[Tensor], radius: float | None) -> float:
    """What all tensors, as one vector, are multiplied by so that its norm is at most the radius, a hair inside for what rounding
    adds; not finite where they are not, since then nothing holds them.  ‖(3, 4)‖ = 5, C = 1: 0.2·127/128."""
    if radius is None:
        return 1.0
    norm = float(torch.stack([v.detach().double().norm().cpu() for v in values]).norm())
    return 1.0 if norm <= HAIR * radius else HAIR * radius / norm


def secret_seed(key: str, seed: int, purpose: str, option: str) -> int:
    """A seed of 256 bits from a file of secret bytes and the run's seed; from the seed alone without a file: no secret then."""
    known = derive(seed, purpose)
    if not key:
        return known
    path = Path(key)
    secret = path.read_bytes() if path.is_file() else b""
    if len(secret) < 32:
        raise RequestError(f"method.{option} = {key!r} is no file of at least 32 bytes, so nothing was started. Make one: "
                           "head -c 32 /dev/urandom > KEY; chmod 600 KEY.")
    return int.from_bytes(hashlib.sha256(secret + str(known).encode()).digest(), "big")

"""A dictionary of directions, learned from states, by which they are written sparsely (`lethe.maths.sparse_codes`).

    L = Σ ‖x − x̂‖² / Σ ‖x − x̄‖²  +  w · Σ ‖e − ê‖² / Σ ‖e − ē‖²,      x = (h − μ)/s,      e = x − x̂

h a state, μ at first the geometric median of all, s their root mean square around it, e what the code leaves, ê what the
strongest of the directions that were silent for long say of it: so they come to life.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.core.config import Count, Natural, NonNegative, Positive, config
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.maths.sparse_codes import Kept, asked, coded, geometric_median, unexplained
from lethe.train.inner import charge, within
from lethe.train.loop import Loop, Term

SAMPLE = 4096   # states from which centre and scale are taken                                        [ours]


@config
class Coding:
    """Options of a dictionary; methods extend them."""

    aux: NonNegative = 1 / 32       # w, weight of what silent directions say                         [official code]
    aux_k: Count = 256              # of these in a state                                             [official code]
    silent: Count = 10_000_000      # states without a direction until it counts as silent            [official code]
    lr: Positive = 1e-4             # Adam; tiny models need about 3e-3                               [official code]
    epochs: Positive = 20.0         # passes over the states                                          [official code]
    warmup: Natural = 1000          # steps in which the rate grows                                   [official code]
    batch_size: Count = 2048        # states per step                                                 [ours]


class Dictionary(nn.Module):
    """Directions, and what reads them.

    reads [m, d], bias [m]  E and β     says [m, d]  D before its rows are scaled to length 1     centre [d], scale []  μ and s
    idle  states since each direction was last used  [m]
    """

    scale: Tensor
    idle: Tensor

    def __init__(self, states: Tensor, latents: int, k: int, rng: torch.Generator) -> None:
        super().__init__()
        self.k = k
        centre = geometric_median(states)
        directions = F.normalize(torch.randn(latents, states.shape[1], generator=rng), dim=1)
        self.reads, self.says = nn.Parameter(directions.clone()), nn.Parameter(directions)
        self.bias, self.centre = nn.Parameter(torch.zeros(latents)), nn.Parameter(centre)
        self.register_buffer("scale", (states - centre).square().mean().sqrt().clamp(min=1e-12))
        self.register_buffer("idle", torch.zeros(latents))

    def directions(self) -> Tensor:
        """D.  -> [m, d]"""
        return F.normalize(self.says, dim=1)

    def before(self, states: Tensor) -> Tensor:
        """E x + β.  [n, d] -> [n, m]"""
        return asked(states, self.centre, self.scale, self.reads, self.bias)

    def written(self, states: Tensor) -> Tensor:
        """μ + s x̂, the states as their codes have them.  [n, d] -> [n, d]"""
        return self.centre + self.scale * coded(self.before(states), self.k) @ self.directions()

    def loss(self, states: Tensor, cfg: Coding, kept: Kept) -> Tensor:
        """L of some states, whose codes count as used.  [n, d] -> []"""
        x, directions, before = (states - self.centre) / self.scale, self.directions(), self.before(states)
        codes = coded(before, self.k, kept)
        left = x - codes @ directions
        with torch.no_grad():
            self.idle += len(states)
            self.idle[(codes > 0).any(0)] = 0
        found = unexplained(x, x - left)
        silent = self.idle > cfg.silent
        if not cfg.aux or not bool(silent.any()):
            return found
        of_these = coded(before.where(silent, -torch.inf), min(cfg.aux_k, int(silent.sum())))
        return found + cfg.aux * unexplained(left.detach(), of_these @ directions)


def learned(cfg: Coding, task: Task, loop: Loop, states: Tensor, latents: int, k: int, kept: Kept = "row") -> Dictionary:
    """A dictionary of these states with so many directions, k of them in a state, in a run of its own within this one.  [n, d]"""
    rng = loop.generator("sparse codes")
    some = states[torch.randperm(len(states), generator=rng)[:SAMPLE]]
    own = within(loop, task, "dictionary", loop.modifiers)
    model = Dictionary(some, latents, k, rng)
    placed = own.start(model)
    # a diffusion task leaves what brings t alone
    split = Split({"state": states, "t": torch.zeros(len(states))}, "states")
    term = Term(split, lambda _, batch: model.loss(batch.state, cfg, kept), coupled=True)
    own.minimise(placed, {"code": term}, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser="adam",
                 warmup=cfg.warmup)
    charge(loop, own)
    model.eval().requires_grad_(False)
    with torch.no_grad():
        share = 1 - float(unexplained(some.to(loop.device), model.written(some.to(loop.device))))
    loop.note(f"a dictionary of {latents} directions, {k} of them in a state, explains {share:.3f} of the variance")
    return model

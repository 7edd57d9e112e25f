"""AEGIS: erase as ESD does, away from a searched prompt that stands for the whole concept, and let no step drift that fights the
erasing. Li, Li, Wang, Han & Zhou (2026), arXiv:2602.06771 (ICLR 2026).

    L_e(θ) = ‖ε_θ(x_t, c*) − [ε_0(x_t, ∅) − η (ε_0(x_t, c') − ε_0(x_t, ∅))]‖²,      L_r(θ) = ½ ‖θ − θ_0‖²
    c' ← c' − β sign ∇_c' ( ‖ε_0(x_t, c') − ε_θ(x_t, c)‖² + ‖ε_0(x_t, c') − ε_0(x_t, c)‖² ),      c* = c + δ*
    θ  ← Adam along g_e + λ g_r,      λ = −ω ⟨g_e, g_r⟩/‖g_r‖² where ⟨g_e, g_r⟩ < 0, else 0;      ω ← min(1, ω + μ) there

c text states of a prompt with the concept, ∅ those of the empty one, ε_0 and θ_0 the original (frozen), x_t points of its
trajectories for c; c' is a prompt of m' states, one for each concept, at random first, near what both networks say of c: its
centre. c* is c with entries moved by at most r, towards ‖ε_θ(x_t, c + δ) − ε_0(x_t, c)‖² small. g_e = ∇L_e, g_r = ∇L_r = θ − θ_0.
Needs:    original, and prompts; no pictures, nothing to keep.     Updates: all: everything; x: cross-attention; u: the rest.
Cost:     `trajectories` full samplings and two frozen forwards per visited point, once; per step `target_steps`
          forward/backwards of the original with a forward of θ, `attack_steps` forward/backwards of θ for c*, one frozen forward
          and one forward/backward of θ. θ_0 is held beside θ.
Limits:   λ = 0 where θ = θ_0; omega = rise = 0 leaves the steps of L_e alone, and radius = 0 makes c* = c: `esd` with c' for c.
Fails by: at ω = 1 forbidding only steps straight away from θ_0, so that neighbours of the concept go with it (audit: `erasure`).
          On coloured shapes (3 edits) less comes back to searched vectors than after `esd` and far more than after `adv_unlearn`.
Deviations: written from the abstract, the reviews and a published summary with these formulas, because neither the paper's text
          nor its code (a page without any) could be read: not verified are β, μ, how c* is found (here one step from a random
          start, as in fast adversarial training), which weights move, and that the sign of ∇ω is that of L_r. The abstract can
          be read as projecting g_r, the formula projects g_e; this is the formula. A state of c' stands in every row that
          attention reads, which there is a prompt of that length; pooled text beside them stays that of c. x_t are cached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Natural, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.maths.losses import squared_distance
from lethe.train.erasing import answered, esd_target, moved, taken, visited
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.combine import Apply, Ask, Combine, Memory, inner


@config
class AEGIS:
    """Options of AEGIS."""

    eta: NonNegative = 1.0             # η, negative guidance                                       [ESD]
    length: Count = 1                  # m', states in c'                                           [summary of the paper]
    target_lr: NonNegative = 0.01      # β, of c', where states are about 1; 0: random and stays    [ours]
    target_steps: Count = 1            # steps of c' before each of θ                               [summary of the paper]
    radius: NonNegative = 0.1          # r, largest change of an entry of the states                [RACE]
    attack_steps: Natural = 1          # sign-gradient steps of r towards c*; 0: its random start   [ours]
    omega: Fraction = 0.0              # ω at first [only with eta=10.0 lr=0.0003]        [summary of the paper]
    rise: NonNegative = 0.01           # μ, growth of ω at a conflict [only with eta=10.0 lr=0.0003] [ours]
    variant: Literal["all", "x", "u"] = "all"   # which weights move                                [ours]
    lr: Positive = 1e-5                # Adam; tiny models need about 1e-4                          [summary of the paper]
    steps: Count = 1000                # optimiser steps                                            [summary of the paper]
    batch_size: Count = 1              # points per step                                            [summary of the paper]
    trajectories: Count = 20           # over all prompts                                           [ours]
    sampler_steps: Count = 50          # steps of a trajectory                                      [ESD]
    start_guidance: NonNegative = 3.0  # guidance of the trajectories; 1 for tiny models            [ESD]


def rectifying(meeting: Tensor, length: Tensor, omega: Tensor) -> Tensor:
    """λ for ⟨g_e, g_r⟩ and ‖g_r‖².  [], [], [] -> []

    g_e = (1, −2), g_r = (0, 4): λ = ω · 8/16; at ω = 1 the step is (1, −2) + ½ (0, 4) = (1, 0), across g_r. g_e = (1, 2): λ = 0.
    """
    return -omega * meeting.clamp(max=0) / length.clamp(min=1e-30)


def check(cfg: AEGIS, task: DiffusionTask) -> None:
    """RequestError where c' would be longer than what the network reads."""
    rows = states(task)
    if cfg.length > rows:
        raise RequestError(f"method.length={cfg.length} asks for a prompt longer than the {rows} states that the network reads; "
                           f"nothing was started. Set it to {rows} or less.")


def states(task: DiffusionTask) -> int:
    """Rows of the condition that are states of tokens; pooled text and the like stand below."""
    return sum(words.states.shape[1] for words in task.words(task.tokens([""])))


@method(needs={"original"}, uses={"concepts", "denoise", "layers", "predict", "prompts", "text", "tokens", "words"},
        mechanism="distil", check=check)
def run(cfg: AEGIS, task: DiffusionTask, loop: Loop) -> Outcome:
    points = targeted(cfg, task, loop)
    model = loop.start(where=moved(task, cfg.variant))
    centre = Centre(cfg, task, loop, model, points)
    loop.minimise(model, {"erase": Term(points, centre.loss)}, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size,
                  optimiser="adam", combine=centre)
    return loop.finish(model)


def targeted(cfg: AEGIS, task: DiffusionTask, loop: Loop) -> Split:
    """Points of the original's trajectories for c, what it says there of c and of nothing, and the number of the concept."""
    original, prompts = task.original.to(loop.device), task.prompts["forget"]
    tokens, named = taken(task, prompts, cfg.trajectories), [task.named(prompt) for prompt in prompts]
    which = torch.tensor([task.concepts.index(one) if one else 0 for one in named])
    points = visited(task, original, tokens, derive(loop.seed, "aegis"), cfg.sampler_steps, cfg.start_guidance,
                     which=which[torch.arange(cfg.trajectories) % len(prompts)])
    empty = task.text(task.tokens([""]).to(loop.device))
    return answered(loop, points, original, lambda batch: {
        "cond": task.predict(original, batch.image, batch.t, task.text(batch.tokens)),
        "free": task.predict(original, batch.image, batch.t, empty.expand(len(batch), -1, -1))})


class Centre:
    """combine: c' is searched, then the term takes its step without what opposes the way back.

    memory  "centre", c' of each concept  [k, m', d]; "omega", ω  []
    """

    def __init__(self, cfg: AEGIS, task: DiffusionTask, loop: Loop, model: nn.Module, points: Split) -> None:
        self.cfg, self.task, self.loop, self.model, self.points = cfg, task, loop, model, points
        self.original, self.rows = task.original.to(loop.device), states(task)
        self.memory: Memory = {}
        self.params: list[nn.Parameter] = []
        self.start: list[Tensor] = []

    def __str__(self) -> str:
        return "aegis"   # what a checkpoint knows it by

    def recalling(self, params: Mapping[str, nn.Parameter], memory: Memory) -> Combine:
        self.memory, self.params = memory, list(params.values())
        self.start = [p.detach().clone() for p in self.params]
        return self

    def step(self, terms: Sequence[str], gradients: Ask, apply: Apply) -> None:
        cfg, memory = self.cfg, self.memory
        memory["centre"] = self.searched()
        erasing = gradients(terms)
        away = [p.detach() - first for p, first in zip(self.params, self.start, strict=True)]
        meeting = inner(erasing, away)
        omega = memory.get("omega", torch.full_like(meeting, cfg.omega)) + cfg.rise * (meeting < 0)
        memory["omega"] = omega = omega.clamp(max=1)
        scale = rectifying(meeting, inner(away, away), omega)
        apply([g + scale.to(g.dtype) * a for g, a in zip(erasing, away, strict=True)])

    def searched(self) -> Tensor:
        """c' after its steps, on points that are drawn for each.  -> [k, m', d]"""
        cfg, task = self.cfg, self.task
        found = self.memory.get("centre")
        if found is None:
            said = task.text(task.tokens(task.prompts["forget"]).to(self.loop.device))[:, : self.rows]
            shape = (len(task.concepts), cfg.length, said.shape[-1])
            found = said.mean() + said.std() * torch.randn(shape).to(said)   # the loop seeds every step
        for _ in range(cfg.target_steps):
            batch = self.points.batch(torch.randint(0, len(self.points), (cfg.batch_size,))).to(self.loop.device)
            text, found = task.text(batch.tokens), found.detach().requires_grad_(True)
            with self.loop.autocast():
                with evaluating(self.model):
                    now = task.predict(self.model, batch.image, batch.t, text)
                near = task.predict(self.original, batch.image, batch.t, self.said(found, batch, text))
                loss = squared_distance(near, now) + squared_distance(near, batch.cond)
            (slope,) = torch.autograd.grad(loss.mean(), found)
            found = found.detach() - cfg.target_lr * slope.sign()
        return found

    def said(self, centre: Tensor, batch: Batch, text: Tensor) -> Tensor:
        """The condition in which c' takes the place of c.  [k, m', d], [n, rows + …, d] -> the latter"""
        turns = -(-self.rows // centre.shape[1])
        return torch.cat([centre[batch.which].repeat(1, turns, 1)[:, : self.rows], text[:, self.rows :]], 1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """L_e at points that were visited before.  -> [n]"""
        task, text = self.task, self.task.text(batch.tokens)
        with evaluating(self.original):
            centre = task.predict(self.original, batch.image, batch.t, self.said(self.memory["centre"], batch, text))
        aim = esd_target(centre, batch.free, self.cfg.eta)
        return squared_distance(task.predict(model, batch.image, batch.t, self.attacked(model, batch, text)), aim)

    def attacked(self, model: nn.Module, batch: Batch, text: Tensor) -> Tensor:
        """c*, of which only the states of tokens are moved.  [n, rows + …, d] -> the same"""
        radius, own, beside = self.cfg.radius, text[:, : self.rows], text[:, self.rows :]
        delta = radius * (2 * torch.rand(own.shape).to(own) - 1)   # the loop seeds every step
        for _ in range(self.cfg.attack_steps):
            delta = delta.detach().requires_grad_(True)
            said = self.task.predict(model, batch.image, batch.t, torch.cat([own + delta, beside], 1))
            (slope,) = torch.autograd.grad(squared_distance(said, batch.cond).sum(), delta)
            delta = (delta.detach() - radius * slope.sign()).clamp(-radius, radius)
        return torch.cat([own + delta.detach(), beside], 1)

"""EAP: erase, and preserve whichever of the other prompts the erasing hurts most. Bui, Vuong, Doan, Le, Montague, Abraham &
Phung (2024), arXiv:2410.15618 (NeurIPS 2024).

    min_θ max_π  ‖x̂_θ(z, c) − [x̂_0(z, ∅) − η (x̂_0(z, c) − x̂_0(z, ∅))]‖²  +  ‖x̂_θ(z_r, c_r) − x̂_0(z_r, c_r)‖²
    c_r = Σ_i g_i r_i,    g = softmax((π + Gumbel)/τ);    x̂(z, c) = (z − n_t ε(z, c))/s_t,   so ‖x̂ − x̂'‖² = (n_t/s_t)² ‖ε −
    ε'‖²

c a prompt with the concept, r_i the text states of the candidates (prompts to keep, and the empty prompt), π their weights,
1/k at first, τ the temperature; z and z_r points of sampling trajectories for c and c_r after the same number of steps; ε_0,
x̂_0 of the original (frozen). θ and π take turns, one step each.
Needs:    original, and prompts, of which those to keep matter; no pictures.     Updates: u: all but cross-attention; x: it;
          all.
Cost:     trajectory=cached: `trajectories` full samplings, and one for each candidate, once; then per step four frozen
          forwards and three forward/backwards. trajectory=current: three half samplings a step more (two forwards per sampler
          step).
Limits:   without prompts to keep, only the empty one is held.
Fails by: keeping what was not among the candidates no better than `esd` does (audit: `erasure`, outside accuracy).
Deviations: the official candidates are 100 centres of the 1,000 vocabulary words nearest to the concept; here they are the
          prompts to keep. The official code takes z and z_r from the edited model, from the same noise; `cached` takes them
          from the original, z_r from the trajectory of the candidate with the largest g. t is the sampler's own step, not a
          random one near it.
"""

from __future__ import annotations

from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split
from lethe.maths.losses import squared_distance
from lethe.train.erasing import esd_target, moved, taken, visited
from lethe.train.loop import Loop, Term

WEIGHTS = "preserved"    # name of π while the run lasts


@config
class EAP:
    """Options of EAP."""

    eta: NonNegative = 1.0             # η, negative guidance                                       [official code]
    weights_lr: Positive = 1e-3        # Adam, of π                                                 [official code]
    temperature: Positive = 2.0        # τ; smaller: nearer to one candidate                        [official code]
    variant: Literal["u", "x", "all"] = "u"   # which weights move; paper: x for styles             [paper]
    lr: Positive = 1e-5                # Adam, of θ; tiny models need about 3e-4                    [official code]
    steps: Count = 1000                # steps of each of the two                                   [official code]
    batch_size: Count = 1              # points per step                                            [official code]
    trajectory: Literal["cached", "current"] = "cached"   # z from the original, once; from the edited model  [ours]
    trajectories: Count = 20           # cached trajectories, over all prompts                      [ours]
    sampler_steps: Count = 50          # steps of a trajectory                                      [official code]
    start_guidance: NonNegative = 3.0  # guidance of these; 1 for tiny models [only with lr=0.001]  [official code]


@config
class AGE(EAP):
    """Options of AGE."""

    lamb: NonNegative = 1.0            # λ, weight of what is preserved                             [paper]
    top: Count = 5                     # candidates that a mixture is made of, those with the largest g   [official code]
    adversary: Literal["code", "paper"] = "code"   # π feels the aim [only with lr=0.001 weights_lr=1.0 steps=8] [both]


def chances(weights: Tensor, temperature: float, top: int | None = None) -> Tensor:
    """g = softmax((π + Gumbel)/τ), noise from torch's own generator; top: of so many, the others 0.  [k] -> [k]"""
    uniform = torch.rand(weights.shape).to(weights)
    gumbel = -torch.log(-torch.log(uniform + 1e-10) + 1e-10)
    g = torch.softmax((weights + gumbel) / temperature, 0)
    if top is None or top >= len(g):
        return g
    g = g * (g >= g.topk(top).values[-1])
    return g / g.sum()


@method(needs={"original"}, uses={"denoise", "layers", "predict_picture", "prompts", "text", "tokens", "words"},
        mechanism="distil")
def run(cfg: EAP, task: DiffusionTask, loop: Loop) -> Outcome:
    return played(cfg, task, loop, Edit(cfg, task, loop, "eap"))


@method(needs={"original"}, uses={"denoise", "layers", "predict_picture", "prompts", "text", "tokens", "words"},
        mechanism="distil")
def age(cfg: AGE, task: DiffusionTask, loop: Loop) -> Outcome:
    """AGE: erase towards the mixture of other prompts that the erasing hurts most, and preserve it. Bui, Vu, Vuong, Le, Montague,
    Abraham, Kim & Phung (2025), arXiv:2501.18950 (ICLR 2025).

        min_θ max_π  ‖x̂_θ(z, c) − [x̂_0(z, c_r) − η (x̂_0(z, c) − x̂_0(z, c_r))]‖²  +  λ ‖x̂_θ(z_r, c_r) − x̂_0(z_r, c_r)‖²

    As `eap`, whose symbols these are: c_r, which there is only preserved, is also what takes the concept's place, and it is mixed
    of the `top` candidates with the largest g. In the official code the aim is constant for π (adversary = code).
    Needs:    original, and prompts, of which those to keep matter; no pictures.     Updates: as `eap`.
    Cost:     as `eap`.
    Limits:   with the empty prompt as the only candidate it is `eap`.
    Fails by: candidates that are all far from the concept: then the aim is as arbitrary as the empty prompt (audit: `erasure`).
    Deviations: those of `eap`.
    """
    return played(cfg, task, loop, Edit(cfg, task, loop, "age", cfg.lamb, cfg.top, mixed=True, both=cfg.adversary == "paper"))


def played(cfg: EAP, task: DiffusionTask, loop: Loop, edit: Edit) -> Outcome:
    """Both sides in turn."""
    model = loop.start(where=moved(task, cfg.variant))
    network = frozenset(loop.selected(model))
    start = torch.full((len(edit.candidates),), 1 / len(edit.candidates), device=edit.candidates.device) * edit.scale
    model.register_parameter(WEIGHTS, nn.Parameter(start))
    loop.include(model, WEIGHTS)
    points = edit.visited() if cfg.trajectory == "cached" else edit.asked()
    terms = {"erase": Term(points, edit.erase, moves=network),
             "adversary": Term(points, edit.suffered, moves=frozenset({WEIGHTS}))}
    loop.minimise(model, terms, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size, optimiser="adam", combine="alternate")
    delattr(model, WEIGHTS)
    return loop.finish(model)


class Edit:
    """The two sides of one run. π stands in the model divided by the ratio of the rates, which Adam's step does not feel.

    mixed  whether the concept is erased towards the mixture, not towards the empty prompt      both  whether π feels that aim
    """

    def __init__(self, cfg: EAP, task: DiffusionTask, loop: Loop, purpose: str, lamb: float = 1.0, top: int | None = None,
                 mixed: bool = False, both: bool = False) -> None:
        self.cfg, self.task, self.loop, self.purpose = cfg, task, loop, purpose
        self.lamb, self.top, self.mixed, self.both = lamb, top, mixed, both
        self.original = task.original.to(loop.settings.device)
        self.scale = cfg.lr / cfg.weights_lr
        self.held = task.tokens(["", *task.prompts.get("keep", [])])
        self.candidates = task.text(self.held.to(loop.settings.device))

    def visited(self) -> Split:
        """Points of the original's trajectories for prompts with the concept; those of the candidates are kept beside them."""
        cfg, seed = self.cfg, derive(self.loop.seed, self.purpose)
        own, other = (visited(self.task, self.original, tokens, derive(seed, name), cfg.sampler_steps, cfg.start_guidance)
                      for name, tokens in (("concept", taken(self.task, self.task.prompts["forget"], cfg.trajectories)),
                                           ("candidates", self.held)))
        steps = len(own) // cfg.trajectories
        self.bank = other.columns["image"].view(steps, len(self.held), *other.shape("image")[1:]).to(self.candidates)
        return Split({**own.columns, "stop": torch.arange(steps).repeat_interleave(cfg.trajectories)}, own.name)

    def asked(self) -> Split:
        """The prompts alone; `t` marks that nothing is to be drawn for them."""
        count = max(self.cfg.batch_size, len(self.task.prompts["forget"]))
        return Split({"tokens": taken(self.task, self.task.prompts["forget"], count), "t": torch.zeros(count, dtype=torch.long)},
                     "prompts")

    def drawn(self, model: nn.Module, batch: Batch) -> tuple[Tensor, int, int]:
        """g, and the number of steps and the seed of a trajectory of the edited model; the loop seeds every step."""
        g = chances(model.get_parameter(WEIGHTS) / self.scale, self.cfg.temperature, self.top)
        stop, seed = (int(torch.randint(high, ())) for high in (self.cfg.sampler_steps, 2**31))
        return g, stop, seed

    def walk(self, model: nn.Module, text: Tensor, stop: int, seed: int) -> tuple[Tensor, Tensor]:
        """x_t of the edited model's own trajectories after `stop` steps, and t."""
        with torch.no_grad():
            path = self.task.denoise(model, text.detach(), seed, self.cfg.sampler_steps, self.cfg.start_guidance)
            t, x = next(islice(path, stop, None))
        return x, torch.full((len(x),), t, device=x.device)

    def erase(self, model: nn.Module, batch: Batch) -> Tensor:
        """What θ minimises.  -> [n]"""
        task, text, (g, stop, seed) = self.task, self.task.text(batch.tokens), self.drawn(model, batch)
        g = g.detach()
        x, t = (batch.image, batch.t) if self.cfg.trajectory == "cached" else self.walk(model, text, stop, seed)
        with evaluating(self.original):
            cond = task.predict_picture(self.original, x, t, text)
            free = task.predict_picture(self.original, x, t, self.mixture(g, len(x)) if self.mixed else
                                        self.candidates[:1].expand(len(x), -1, -1))
        goal = esd_target(cond, free, self.cfg.eta)
        gone = squared_distance(task.predict_picture(model, x, t, text), goal)
        return gone + self.lamb * self.preserve(model, batch, g, stop, seed)

    def suffered(self, model: nn.Module, batch: Batch) -> Tensor:
        """What π minimises.  -> [n]"""
        g, stop, seed = self.drawn(model, batch)
        harm = self.lamb * self.preserve(model, batch, g, stop, seed)
        if self.both:
            text = self.task.text(batch.tokens)
            x, t = (batch.image, batch.t) if self.cfg.trajectory == "cached" else self.walk(model, text, stop, seed)
            with torch.no_grad():
                said = self.task.predict_picture(model, x, t, text)
            aim = self.task.predict_picture(self.original, x, t, self.mixture(g, len(x)))
            harm = harm + squared_distance(said, aim)
        return -harm

    def mixture(self, g: Tensor, n: int) -> Tensor:
        """c_r for n points.  [k] -> [n, rows, d]"""
        return torch.einsum("k,krd->rd", g, self.candidates).expand(n, -1, -1)

    def preserve(self, model: nn.Module, batch: Batch, g: Tensor, stop: int, seed: int) -> Tensor:
        """How far the edited model is from the original at c_r, which the other side maximises.  -> [n]"""
        mixed = self.mixture(g, len(batch))
        if self.cfg.trajectory == "cached":
            x, t = self.bank[batch.stop, int(g.argmax())], batch.t
        else:
            x, t = self.walk(model, mixed, stop, seed)
        with torch.no_grad():
            before = self.task.predict_picture(self.original, x, t, mixed)
        return squared_distance(self.task.predict_picture(model, x, t, mixed), before)

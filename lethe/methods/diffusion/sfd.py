"""SFD: a generator learns to draw in one step, and for the concept's prompts what the original draws for others; a network that
learns along from its pictures takes over. Chen, Zhang & Zhou (2024), arXiv:2409.11219 (ICLR 2025).

    x_θ(z, c) = f_θ(n_τ z, τ, c),    f(x_t, t, c) = (x_t − n_t ε(x_t, t, c))/s_t         the generator θ, and what a network says
    ψ:  λ_r ‖ε_ψ(x_t(k), t, k) − ε‖²  +  λ_f ‖ε_ψ(x_t(c), t, c) − ε‖²                    x_t = s_t x_θ + n_t ε, x_θ constant
    θ:  μ_r ℓ(k, k)  +  μ_f ℓ(o, c)
        ℓ(p, g) = (1/ω) ⟨f_0(x_t, p) − f_ψ(x_t, g), (f_0(x_t, p) − x_θ(g)) − α (f_0(x_t, p) − f_ψ(x_t, g))⟩,   ω = |f_0 − x_θ|

k a kept prompt, c one with the concept, o the same with the anchor in its place (or with its words taken out), z noise, f_0 the
original (frozen), ω constant, ⟨⟩ and | | means over pixels. ψ knows the score of what θ draws, so ℓ leads θ to where the
original, asked for o, sees what it would draw itself. All networks start as the original; ψ and θ take turns.
Then ψ alone learns from the finished generator, for `settle_steps`, and is what is delivered.
Needs:    original, and prompts, with the concept and to keep; no pictures.     Updates: everything.
Cost:     per step two forwards and one backward of θ, two of both of ψ, one of both of the original; 3 networks and Adam's state
          of two.
Limits:   forget_weight = 0 distils the kept prompts and leaves the concept to chance.
Fails by: swinging, as two players do: what the generator draws for any prompt turns into the anchor, and back. On the preset (one
          original, 3 edits, anchor = square, α = 1, forget_weight = 0.3, lr = 1e-4, fake_lr = 3e-4, 300 turns, horizon = 0.1, 400
          steps to settle at 1e-3, 16 a batch, watchdog on, 8 min) 0.95, 0.89 and 1.00 are erased (original 0.09), kept shapes
          0.90, 0.92 and 0.69 (0.96), outside 0.84, 0.82 and 0.62 (0.92), kept colours 0.97 (0.89); pictures are murky. Its
          generator, asked once: erased 0.95, 0.97, 1.00, kept 0.96, 1.00, 0.66, outside 0.99, 0.95, 0.82.
          With forget_weight = 1 (1 edit) half a batch is the anchor's: 0.98 erased, kept 0.80, outside 0.74.
Deviations: the paper delivers the generator, which no pipeline can draw with, for it is asked once, at τ, for noise of another
          size; ψ is a network like the one that came, and every sampler and audit asks it as before. So ψ learns at all t, in the
          paper in the band of θ, and is averaged as θ is. The average's horizon is a share of the turns (at 50000 the published
          0.9999). Means over pixels, not sums. What takes the concept's place is fixed; the code can also draw it at random.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Natural, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import copied
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.maths.losses import squared_distance
from lethe.train.erasing import ADDED, joined, moved, one_anchor, rests, taken
from lethe.train.loop import Loop, Term
from lethe.train.modifiers import Choice

BAND = (0.038, 0.712)     # shares of the schedule between which θ is taught                            [official code]
CLIP = 1.0                # largest entry of a gradient                                                 [official code]
LEAST = 1e-5              # of ω                                                                        [official code]


@config
class SFD:
    """Options of score forgetting distillation."""

    anchor: str = ""                    # words in the concept's place; empty: none [e.g. square]      [paper: another class]
    start: Fraction = 0.44              # τ, share of the schedule; Stable Diffusion 0.625             [official code]
    alpha: NonNegative = 1.2            # α; Stable Diffusion and tiny models 1                        [official code]
    keep_weight: Positive = 1.0         # λ_r = μ_r                                                    [official code]
    forget_weight: NonNegative = 1.0    # λ_f = μ_f; few prompts need 0.3 [official code for Stable Diffusion; ten classes 0.01]
    lr: Positive = 1e-5                 # Adam, of θ; tiny models need about 1e-4                      [official code]
    fake_lr: Positive = 1e-5            # of ψ; tiny models need about 3e-4    [official code; in two stages thrice that of θ]
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.0   # Adam's β₁, of both                            [official code]
    steps: Count = 50000                # turns of both; tiny models need about 300                    [official code]
    horizon: Fraction = 0.2             # of the moving average that is kept, share of the turns; 0: none  [official code]
    settle_steps: Natural = 5000        # of ψ alone after that; tiny models need about 400            [ours]
    settle_lr: Positive = 3e-5          # Adam, β₁ = 0.9, cosine to 0; tiny models need about 1e-3     [ours]
    batch_size: Count = 64              # kept prompts per step, and as many of the concept            [official code: 128]


def distilled(real: Tensor, fake: Tensor, drawn: Tensor, alpha: float) -> Tensor:
    """ℓ: what the original and ψ say x_0 is, and what the generator drew.  [n, …] ×3 -> [n]

    One pixel, f_0 = 3, f_ψ = 1, x = 2, α = ½: ω = 1, 2 · ((3 − 2) − ½ · 2) = 0; α = 1: 2 · (1 − 2) = −2.
    """
    apart, off = real - fake, real - drawn
    size = off.detach().abs().flatten(1).mean(1).clamp(min=LEAST)
    return (apart * (off - alpha * apart)).flatten(1).mean(1) / size


def check(cfg: SFD, task: DiffusionTask) -> None:
    """RequestError where two things take the concept's place, or nothing is to be kept."""
    one_anchor(cfg, task)
    if not task.prompts.get("keep"):
        raise RequestError("sfd teaches what the original draws for the prompts of data.keep, and there are none, so nothing "
                           "would be drawn but what takes the concept's place; nothing was started. Provide some in data.keep.")


@method(needs={"original"}, mechanism="distil", check=check, uses={
    "alphas_cumprod", "concepts", "layers", "levels", "predict", "predict_picture", "prompts", "rest", "shape", "target", "text",
    "tokens"})
def run(cfg: SFD, task: DiffusionTask, loop: Loop) -> Outcome:
    total = len(task.alphas_cumprod)
    original = copied(task.original, trainable=False).to(loop.device)
    model = loop.start(where=moved(task, "all"))
    network = frozenset(loop.selected(model))
    own = joined(loop, model, [copied(task.original, trainable=False).requires_grad_(True)])

    def prepare(batch: Batch, rng: torch.Generator, band: tuple[float, float]) -> Batch:
        low, high = (round(share * total) for share in band)
        size = (2, len(batch), *task.shape)      # kept prompts, then those with the concept
        t = torch.randint(low, high, size[:2], generator=rng)
        z, noise = (torch.randn(size, generator=rng) for _ in range(2))
        return batch.replace(t=t.T, z=z.transpose(0, 1), noise=noise.transpose(0, 1))

    def looked(m: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x_θ, x_t, t, ε and the condition that θ was asked under, kept prompts first."""
        z, noise, t = (column.transpose(0, 1).flatten(0, 1) for column in (batch.z, batch.noise, batch.t))
        text = task.text(torch.cat([batch.keep, batch.concept]))
        at = torch.full_like(t, round(cfg.start * total))
        x = task.predict_picture(m.get_submodule(ADDED)[0], task.levels(at, z)[1] * z, at, text)   # type: ignore[index]
        return x, task.mixed(x, noise, t), t, noise, text

    def weighed(losses: Tensor) -> Tensor:
        kept, forgotten = losses.chunk(2)
        return cfg.keep_weight * kept + cfg.forget_weight * forgotten

    def learn(m: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            x, x_t, t, noise, text = looked(m, batch)
        return weighed(squared_distance(task.predict(m, x_t, t, text), task.target(x, noise, t)))

    def teach(m: nn.Module, batch: Batch) -> Tensor:
        x, x_t, t, _, text = looked(m, batch)
        safe = task.text(torch.cat([batch.keep, batch.safe]))
        real, fake = task.predict_picture(original, x_t, t, safe), task.predict_picture(m, x_t, t, text)
        return weighed(distilled(real, fake, x, cfg.alpha))

    pairs = prompts(cfg, task)
    fake = Term(pairs, learn, moves=network, prepare=lambda batch, rng: prepare(batch, rng, (0.0, 1.0)))
    draw = Term(pairs, teach, moves=own, prepare=lambda batch, rng: prepare(batch, rng, BAND))
    minimise = partial(loop.minimise, batch_size=cfg.batch_size, optimiser="adam", clip_value=CLIP)
    minimise(model, {"fake": fake, "generator": draw}, lr=cfg.lr, steps=cfg.steps, combine="alternate", beta1=cfg.beta1,
             rates=dict.fromkeys(network, cfg.fake_lr / cfg.lr), average=averaged(cfg))
    if cfg.settle_steps:
        minimise(model, {"fake": fake}, lr=cfg.settle_lr, steps=cfg.settle_steps, schedule="cosine")
    delattr(model, ADDED)
    return loop.finish(model)


def averaged(cfg: SFD) -> Choice:
    """The moving average of θ and ψ, β = 1 − 1/(horizon · steps): 0.2 · 50000 turns make 0.9999. One turn or less: none."""
    turns = cfg.horizon * cfg.steps
    return {"name": "ema", "decay": 1 - 1 / turns} if turns > 1 else "last"


def prompts(cfg: SFD, task: DiffusionTask) -> Split:
    """Token ids of kept prompts, prompts with the concept, and these with what takes its place, each as often as the others."""
    named, kept = task.prompts["forget"], task.prompts["keep"]
    count = max(cfg.batch_size, math.lcm(len(named), len(kept)))
    columns = {"keep": kept, "concept": named, "safe": rests(task, named, cfg.anchor)}
    return Split({name: taken(task, texts, count) for name, texts in columns.items()}, "prompts")

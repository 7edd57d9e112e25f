"""Noisy fine-tuning: bury where the model started under noise while it learns retained data; (ε, δ) for any network and loss.
Koloskova, Allouah, Jha, Guerraoui & Koyejo (2025), arXiv:2506.06985; parts: Dolgova & Stich (2026), arXiv:2601.05134.

    x_0 = Π_{C₀}(θ_0),   x_{t+1} = (1 − γλ)·x_t − γ·Π_{C₁}(g_t) + ξ_t,   ξ_t ~ N(0, σ²I),   t < T
    clips = models:  x_{t+1} = Π_{C₀}((1 − γλ)·x_t − γ·g_t) + ξ_t, gradients as they are
    then plain training on R, which reads nothing else, by any schedule

R retain set, θ_0 the original weights, g_t the gradient of a batch of R, Π_C(v) = v·min(1, C/‖v‖). σ is the smallest for which
any two starts end (ε, δ)-indistinguishably (`maths.noisy`): also θ_0 and what training without F would have given. No assumption
is made about loss, network or the training of θ_0. `parts` = k > 1: coordinates are dealt at random into k parts; each is clipped
to C₀/√k, takes T noisy steps in its turn and rests from then on; between turns the parts that are to come learn without noise.
Needs:    retain.     Updates: every parameter; running statistics are measured anew on R.
Cost:     k·T steps, and the training after them, each one forward/backward on R. A draw of noise for every weight and step.
Limits:   what is left of θ_0 has norm (1 − γλ)^T·C₀ at most, under noise of 2/μ times that *in every coordinate* (ε = 1,
          δ = 10⁻⁵: μ = 0.27). Of what θ_0 knew of R no more survives than of F: at small ε this is a training from a noisy start,
          and `scratch` with as many passes is the row beside it. More ε, or few weights, keep more.
          The noise must stay secret: it comes from `noise_key`; without one the run's seed gives it, and nothing is certified.
          Only the last weights may be shown: neither checkpoints nor what stood between noise and training.
Fails by: costing accuracy where `epochs` are fewer than a training takes; noise that nothing recovers from (C₀ large, ε small).
Deviations: σ is exact for Gaussian noise where the paper bounds it by Rényi divergence (about 1.3 times as much). Parts are
          random coordinates. Clipped models: the exact worst case of T such steps in place of a contraction coefficient; not in
          parts, whose bounds do not add up in that form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Optimiser, Positive, config
from lethe.core.modules import NORMS
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import generator
from lethe.core.task import Task
from lethe.errors import OutOfRange
from lethe.maths.noisy import LAW, MODELS, models_noise, noise_for
from lethe.train.distribute import full
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.average.last import Last
from lethe.train.modifiers.where.all import All
from lethe.train.noise import Noisy, clipping, secret_seed
from lethe.train.norms import measure_running


@config
class NoisyTune:
    """Options of noisy fine-tuning."""

    epsilon: Positive = 1.0            # ε that is to be certified; larger: less noise                     [paper]
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5   # δ that is to be certified                        [paper]
    radius: Positive = 0.02            # C₀, what is kept of the weights' norm; noise grows with it        [ours, digits; paper 1]
    clips: Literal["gradients", "models"] = "gradients"   # what is clipped at a noisy step                  [paper, both]
    clip: Positive = 0.1               # C₁, largest gradient norm of a noisy step; noise grows with it    [ours]
    rate: Positive = 1e-3              # γ of noisy steps                                                  [official code]
    decay: NonNegative = 0.0           # λ of noisy steps, γλ ≤ 1; larger: the start fades      [paper; official code 500]
    noisy_steps: Count = 10            # T, for each part                                                  [ours]
    parts: Count = 1                   # k, orthogonal parts that noise is added to in turn                [paper 1]
    between: NonNegative = 2.0         # passes over R between turns, by the parts to come [only with parts=2] [ours]
    noise_key: str = ""                # file of ≥ 32 secret random bytes that noise comes from [tested in test_noisy_tune] [ours]
    lr: Positive = 2e-3                # of the training afterwards, its peak                              [ours, digits]
    epochs: NonNegative = 20.0         # passes over R afterwards                                          [ours, digits]
    batch_size: Count = 64             # examples per step, with and without noise                         [ours]
    optimiser: Optimiser = "adamw"     # of the training afterwards                                        [ours]
    weight_decay: NonNegative = 0.01   # of the training afterwards                                        [ours]


def clipped(values: Mapping[str, Tensor], radius: float) -> dict[str, Tensor]:
    """Π_C of all tensors as one vector, a hair inside for what rounding adds.  ‖(3, 4)‖ = 5, C = 1: (0.6, 0.8)."""
    inside = clipping(values.values(), radius)
    return {name: v * inside for name, v in values.items()}


def dealt(model: nn.Module, parts: int, seed: int) -> list[dict[str, Tensor]]:
    """Coordinates of every parameter, dealt at random: a mask for each part.  -> [{name: bool, shape of θ}]"""
    rng = generator(seed, "noisy parts")
    hands = {name: torch.randint(parts, tuple(p.shape), generator=rng) for name, p in model.named_parameters()}
    return [{name: hand == k for name, hand in hands.items()} for k in range(parts)]


def possible(cfg: NoisyTune, task: Task) -> None:
    """Models can't be clipped in parts."""
    if cfg.clips == "models" and cfg.parts > 1:
        raise OutOfRange(f"method.parts = {cfg.parts} with method.clips = models: no ε is known for models that are clipped in "
                         "parts, so nothing was started. Leave parts at 1, or clip gradients.")


def noise_of(cfg: NoisyTune) -> float:
    """σ of each noisy step."""
    if cfg.clips == "models":
        return models_noise(cfg.epsilon, cfg.delta, cfg.radius, cfg.noisy_steps)
    return noise_for(cfg.epsilon, cfg.delta, cfg.radius, cfg.clip, cfg.rate, cfg.decay, cfg.noisy_steps, cfg.parts)


@method(needs={"retain"}, uses={"batch_loss"}, mechanism="noise", check=possible)
def run(cfg: NoisyTune, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    sigma, models = noise_of(cfg), cfg.clips == "models"
    secret = secret_seed(cfg.noise_key, loop.seed, "noisy_tune", "noise_key")
    terms = {"retain": Term(task.retain, task.batch_loss, coupled=task.coupled)}
    train: dict[str, Any] = {"lr": cfg.lr, "optimiser": cfg.optimiser, "schedule": "onecycle", "batch_size": cfg.batch_size,
                             "weight_decay": cfg.weight_decay, "batch_norm": "update"}
    hands, taken = dealt(model, cfg.parts, loop.seed), 0
    with loop.damage():
        for turn, own in enumerate(hands):
            whole = {name: full(p).detach() for name, p in model.named_parameters()}
            own = {name: mask.to(whole[name].device) for name, mask in own.items()}
            begun = clipped({name: p * own[name] for name, p in whole.items()}, cfg.radius / cfg.parts**0.5)
            loop.assign(model, {name: torch.where(own[name], begun[name], p) for name, p in whole.items()})
            before = loop.cost.steps
            loop.minimise(model, terms, steps=cfg.noisy_steps, lr=cfg.rate, weight_decay=cfg.decay,
                          clip=None if models else cfg.clip, masks=own, batch_size=cfg.batch_size, batch_norm="update",
                          optimiser=Noisy(sigma, secret + turn, own, loop.distribution.like, cfg.radius if models else None))
            taken += loop.cost.steps - before
            if cfg.between and turn + 1 < cfg.parts:
                waiting = {name: torch.stack([hand[name] for hand in hands[turn + 1 :]]).any(0) for name in own}
                loop.minimise(model, terms, epochs=cfg.between, masks=waiting, **train)
    if len(task.retain) > 1:
        measure_running(model, task.batch_loss, loop.drawn(task.retain, 256, "noisy_tune"))
    if cfg.epochs:
        loop.minimise(model, terms, epochs=cfg.epochs, **train)
    outcome = loop.finish(model)
    outcome.guarantee = guarantee(cfg, loop, outcome.model, sigma, taken)
    if "void" in outcome.guarantee:
        outcome.notes.append(outcome.guarantee["void"])
    return outcome


def guarantee(cfg: NoisyTune, loop: Loop, model: nn.Module, sigma: float, taken: int) -> dict[str, Any]:
    """What the certificate may say: certified, with the numbers that ε is computed again from, or what voids it."""
    void = ""
    if loop.modifiers.where != All() or loop.modifiers.average != Last():
        void = "Not certified: a modifier kept some weights out of the noise, or shows a mean of several states."
    elif taken != cfg.parts * cfg.noisy_steps:
        void = f"Not certified: the run was cut short after {taken} of {cfg.parts * cfg.noisy_steps} noisy steps."
    elif not cfg.noise_key:
        void = "Not certified: the noise comes from the run's seed, which is no secret. Give method.noise_key."
    numbers = {"law": MODELS if cfg.clips == "models" else LAW, "clips": cfg.clips, "radius": cfg.radius, "clip": cfg.clip,
               "rate": cfg.rate, "decay": cfg.decay, "noisy_steps": cfg.noisy_steps, "parts": cfg.parts, "sigma": sigma}
    if void:
        return {"level": "none", "void": void, "accountant": numbers}
    running = {id(b) for m in model.modules() if isinstance(m, NORMS) for b in m.buffers(recurse=False)}
    fixed = [name for name, b in model.named_buffers() if b.is_floating_point() and id(b) not in running]
    more = [f"These buffers hold constants of the network, nothing learned: {', '.join(fixed)}."] if fixed else []
    return {
        "level": "certified", "epsilon": cfg.epsilon, "delta": cfg.delta, "accountant": numbers,
        "basis": "clipped noisy fine-tuning on retained data (Koloskova et al. 2025)",
        "adjacency": "an original trained on all records against one trained without the forgotten ones, both put through this "
                     "procedure",
        "assumptions": ["The noise stays secret, and so does its key; checkpoints and the states between are shown to nobody.",
                        "The settings were chosen without the forgotten records.",
                        "Floating-point error is far below the noise.", *more],
    }

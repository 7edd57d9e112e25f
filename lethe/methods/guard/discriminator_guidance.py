"""Discriminator guidance: a small network that tells noisy pictures to be kept from noisy pictures to be forgotten pushes every
picture towards the former while it is drawn; the weights stay. Kim, Kim, Kwon, Kang & Moon (2023), "Refining Generative Process
with Discriminator Guidance in Score-based Diffusion Models", arXiv:2211.17091 (ICML 2023).

    min_φ E_t λ_t [E_{x∈R} −log D_φ(x_t, t) + E_{x∈F} −log(1 − D_φ(x_t, t))],        λ_t ∝ β_t / (1 − ᾱ_t)
    ε̃ = ε − √(1 − ᾱ_t) · w · ∇_{x_t} log[D / (1 − D)](x_t, t)      at timesteps between `first` and `last` of T

ε the network's prediction, R retained and F forgotten pictures, x_t = √ᾱ_t x + √(1 − ᾱ_t) ε, D cut to [1e-5, 1 − 1e-5]: where
it is that sure, nothing is pushed. Times t are drawn by λ_t. Where F is what the network draws and D the best one possible,
w = 1 makes its score that of R.
Needs:    forget, retain, original.     Updates: nothing; the outcome is a guard.
Cost:     the critic once; then one forward/backward through it at each prediction.
Limits:   w = 0 is the original, bit for bit.
Fails by: a critic that cannot tell noisy pictures apart pushes too late, one that knows its forgotten pictures by heart pushes
          nothing away from others of the kind. On the preset w = 3 takes the concept from 0.30 to 0.14 of pictures without a
          prompt and from 0.84 to 0.51 of its prompts' (card: a fifth), kept shapes stay, 0.93 of 0.94 (3 seeds).
          The watchdog's score falls because noisy pictures of the concept are now described wrongly (0.87 of 0.99), and
          with its default the original is returned: allow it more, watchdog.loss=20. Whoever holds the weights takes it off
          (audit: `guard`).
Deviations: F is the forget set, R the retain set (paper: generated against real pictures). The critic is small and sees x_t
          itself (official code: features of a classifier of ImageNet, and a UNet's encoder on them), knows no class, and its
          layers bend softly (softplus 5), for its gradient is used. Both halves of guidance are pushed; the paper's second
          weight, of Heun's correction, belongs to its sampler. Networks that predict the noise.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import Fraction, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.train.critic import Criticism, Guided, bound_of, flat, fresh, learned, require_noise
from lethe.train.loop import Loop, Term

SURE = 1e-5       # D is cut to [SURE, 1 − SURE]                     [official code]
SOFTNESS = 5.0    # β of the critic's softplus                       [ours]


@config
class DiscriminatorGuidance(Criticism):
    """Options of discriminator guidance."""

    w: NonNegative = 2.0       # weight of the push                                             [official code]
    first: Fraction = 0.01     # of the timesteps, from which it acts                           [official code]
    last: Fraction = 1.0       # ... and up to which                                            [official code]
    lr: Positive = 3e-4        # Adam; tiny problems need about 3e-3                            [official code]
    epochs: Positive = 50.0    # passes over the retained pictures                              [official code]


def log_ratio(logit: Tensor) -> Tensor:
    """log D/(1 − D) of D = σ(z), cut.  [...] -> [...]

    z = 2: 2; z = 20: log((1 − 1e-5)/1e-5) = 11.513, and no gradient.
    """
    most = torch.logit(torch.tensor(1 - SURE, dtype=torch.float64)).item()
    return logit.clamp(-most, most)


def chances(signal: Tensor) -> Tensor:
    """λ_t of a table ᾱ, as a distribution.  [T] -> [T]

    ᾱ = (0.9, 0.45): β = (0.1, 0.5), λ = (0.1/0.1, 0.5/0.55) = (1, 10/11), so (11/21, 10/21).
    """
    beta = 1 - signal / torch.cat([signal.new_ones(1), signal[:-1]])
    weight = beta / (1 - signal).clamp(min=1e-12)
    return weight / weight.sum()


class Discriminated(Guided):
    """A network that a discriminator pushes from forgotten pictures."""

    w: float

    def off(self) -> bool:
        return self.w == 0

    def push(self, x: Tensor, clean: Tensor, signal: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.requires_grad_(True)
            said = log_ratio(self.asked(leaf, (1 - signal).sqrt().flatten(), 1, SOFTNESS))
            (slope,) = torch.autograd.grad(said.sum(), leaf)
        return self.w * slope


@method(needs={"forget", "retain", "original"}, uses={"alphas_cumprod", "noised", "pipeline", "shape"}, mechanism="guard",
        check=lambda cfg, task: require_noise("discriminator_guidance", task))
def run(cfg: DiscriminatorGuidance, task: DiffusionTask, loop: Loop) -> Outcome:
    signal = task.alphas_cumprod
    odds = chances(signal)

    def at(batch: Batch, rng: torch.Generator) -> Batch:
        t = torch.multinomial(odds, len(batch), replacement=True, generator=rng)
        return batch.replace(t=t.to(batch.image.device))

    def loss(m: nn.Module, batch: Batch, sign: int) -> Tensor:
        level = (1 - signal.to(batch.t.device)[batch.t]).sqrt()
        return F.softplus(sign * m(task.noised(batch), level).flatten())

    terms = {"retain": Term(task.retain, partial(loss, sign=-1), prepare=at),
             "forget": Term(task.forget, partial(loss, sign=1), prepare=at)}
    critic = learned(cfg, task, loop, fresh(cfg, task, loop, 1, SOFTNESS), terms)
    weights, count, device, bound = flat(critic), len(signal), loop.settings.device, bound_of(task)
    loop.note("every picture is pushed away from the forgotten ones while it is drawn; nothing was removed")
    return loop.finish(loop.start(), guard=lambda model: Discriminated(
        model, weights=weights.to(device), signal=signal.to(device), width=cfg.width, w=cfg.w, first=round(cfg.first * count),
        last=round(cfg.last * count), bound=bound))

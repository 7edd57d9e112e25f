"""Classifier guidance by a classifier of clean pictures (ELUCD): while a picture is drawn, what it is about to become is shown
to the classifier, and pushed towards what is to be kept; the weights stay. Ma et al. (2024), "Elucidating The Design Space of
Classifier-Guided Diffusion Generation", arXiv:2310.11311 (ICLR 2024).

    x̂_0 = (x_t − √(1 − ᾱ_t) ε) / √ᾱ_t,        g = ∇_{x̂_0} [τ_1 f_keep(x̂_0) − log Σ_k exp(τ_2 f_k(x̂_0))],      τ_2 = discount · τ_1
    ε̃ = ε − √(1 − ᾱ_t) · γ (1 + a sin(π t / T)) · g      at timesteps t ≤ last · T

ε the network's prediction, f_keep and f_forget the classifier's logits, x̂_0 a leaf: no gradient runs through the network. With
discount 1 and τ_1 = 1 the bracket is log p(keep | x̂_0) = log(1 − p(forget | x̂_0)). γ < 0 pushes towards the concept: a probe of
what a model still can draw. The classifier learns with ReLU and is asked with softplus, whose gradient is smooth.
Needs:    forget, retain, original.     Updates: nothing; the outcome is a guard.
Cost:     the classifier once; then one forward/backward through it at each prediction.
Limits:   γ = 0 is the original, bit for bit.
Fails by: at high noise x̂_0 looks like no picture that the classifier knows; discount ½ or strong γ draws pictures that please it
          and nobody else. On the preset γ = 1 leaves 0.11 of the concept's pictures of 0.84 (3 seeds), kept shapes 0.93 of
          0.94. The watchdog's score falls because noisy pictures of the concept are now described wrongly (0.961 to 0.970 of
          0.992, so that it takes one of these three back): allow it more, watchdog.loss=10. Whoever holds the weights takes it
          off (audit: `guard`).
Deviations: the classifier is trained here on the forget and retain set, and sees what the network sees, latents too (paper: a
          ResNet of ImageNet on pixels). The official code adds
          a of the largest variance of a step, times the sine, to the step's own; a network knows no steps, so that the sine
          multiplies γ here. Both halves of guidance are pushed. Networks that predict the noise.
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


@config
class ClassifierGuidance(Criticism):
    """Options of classifier guidance."""

    scale: float = 1.0              # γ; negative: towards the concept                           [official code]
    temperature: Positive = 1.0     # τ_1, of the logit to be raised                             [official code]
    discount: NonNegative = 1.0     # τ_2 / τ_1, of what is subtracted                     [ours; official code 0.5]
    softness: Positive = 3.0        # β of softplus, with which the classifier is asked          [official code]
    sine: NonNegative = 0.3         # a, what is added to γ in the middle of the times           [official code]
    last: Fraction = 1.0            # of the timesteps, up to which it acts; lower begins later  [ours]


def margin(logits: Tensor, temperature: float, discount: float) -> Tensor:
    """τ_1 f_keep − log Σ_k exp(τ_2 f_k).  [n, 2] (keep, forget) -> [n]

    f = (log 4, log 9), τ_1 = 1: with discount 1 log(4/13), with ½ log(4/(2 + 3)).
    """
    return temperature * logits[:, 0] - (discount * temperature * logits).logsumexp(1)


class Classified(Guided):
    """A network that a classifier of clean pictures pushes towards what is to be kept."""

    scale: float
    temperature: float
    discount: float
    softness: float
    sine: float

    def off(self) -> bool:
        return self.scale == 0

    def push(self, x: Tensor, clean: Tensor, signal: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = self.cut(clean).requires_grad_(True)
            logits = self.asked(leaf, torch.zeros(len(leaf), device=leaf.device), 2, self.softness)
            (slope,) = torch.autograd.grad(margin(logits, self.temperature, self.discount).sum(), leaf)
        wave = torch.sin(torch.pi * t / len(self.signal)).view(-1, 1, 1, 1)
        return self.scale * (1 + self.sine * wave) * slope


@method(needs={"forget", "retain", "original"}, uses={"alphas_cumprod", "pipeline", "shape"}, mechanism="guard",
        check=lambda cfg, task: require_noise("classifier_guidance", task))
def run(cfg: ClassifierGuidance, task: DiffusionTask, loop: Loop) -> Outcome:
    def loss(m: nn.Module, batch: Batch, label: int) -> Tensor:
        clean = torch.zeros(len(batch), device=batch.image.device)
        return F.cross_entropy(m(batch.image, clean), clean.long() + label, reduction="none")

    terms = {"retain": Term(task.retain, partial(loss, label=0)), "forget": Term(task.forget, partial(loss, label=1))}
    weights = flat(learned(cfg, task, loop, fresh(cfg, task, loop, 2), terms))
    signal, device, bound = task.alphas_cumprod, loop.settings.device, bound_of(task)
    loop.note("every picture is pushed towards what is to be kept while it is drawn; nothing was removed")
    return loop.finish(loop.start(), guard=lambda model: Classified(
        model, weights=weights.to(device), signal=signal.to(device), width=cfg.width, scale=cfg.scale,
        temperature=cfg.temperature, discount=cfg.discount, softness=cfg.softness, sine=cfg.sine, bound=bound, first=0,
        last=round(cfg.last * len(signal))))

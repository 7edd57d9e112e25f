"""LAF, label-agnostic forgetting: make the features of forgotten data unlike what they were, without using any labels. Shen,
Zhang, Zhao, Bialkowski, Chen & Xu (2024), "Label-Agnostic Forgetting", ICLR 2024, arXiv:2404.00506.

    extract  L_E(θ) = Σ_{x∈R} exp(M_R/(1 + M_R))  −  Σ_{x∈F} exp(M_F/(1 + M_F)),    M_S(x) = ‖v_S(h_θ(x)) − h_θ(x)‖²
    align    L_A(θ) = Σ_{x∈R} [ c(x)  −  log Σ_{x'∈F} exp(c(x')/τ) ],               c(x) = 1 − cos(h_θ(x), h_0(x))

F forget set, R retain set, h_θ features [d] (standardised by the original's), h_0 those of the original, v_R and v_F variational
autoencoders fitted once to h_0 on R and on F: ‖v(e) − e‖² + β·KL(q(z|e) ‖ N(0, I)); z is its mean when v is used. The two losses
take turns, one pass over R each. Sums run over the batches of a step; a summand of L_A is log(exp c / Σ exp(c/τ)).
Needs:    forget, retain, original; no labels or targets of either.     Updates: every trainable parameter.
Cost:     two forward/backward passes on F and on R per step; two small autoencoders; the original's features once.
Limits:   at θ_0 c = 0 everywhere and the gradient of L_A is zero: the first pass is the extraction's.
Fails by: nothing ties the head to the features it now sees: the order of classes on F is what happens to come out.
Deviations: v_R is fitted to R alone, not to all training data; features are standardised and the decoder is linear at its end (a
          sigmoid cannot reproduce them); F is cycled over R; turns are passes, not steps. The repair with labels is not included.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import Count, Natural, NonNegative, Positive, config
from lethe.core.modules import evaluating, seeded
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split
from lethe.core.task import Task
from lethe.train.loop import Loop, Term
from lethe.train.terms import Loss


@config
class LAF:
    """Options of LAF."""

    extract_lr: Positive = 1e-4        # Adam, of L_E                                        [ours, digits CNN; official 5e-5]
    align_lr: Positive = 1e-3          # Adam, of L_A                                        [ours, digits CNN; official 1e-4]
    temperature: Positive = 2.0        # τ; larger pushes F less                             [ours, digits CNN; official 5–20]
    epochs: Natural = 20               # turns, each a pass over R by L_E and one by L_A     [official code, MNIST]
    batch_size: Count = 64             # examples of each term per step                      [ours]
    optimiser: Literal["sgd", "adam"] = "adam"   # update rule [official code]
    latent: Count = 8                  # dimensions of z                                     [official code, MNIST]
    width: Count = 64                  # of the autoencoders' hidden layers                  [ours; official 256–32]
    beta: NonNegative = 0.025          # β, weight of the KL term                            [official code]
    fit_steps: Count = 500             # Adam steps of each autoencoder                      [ours, digits CNN]
    fit_lr: Positive = 1e-3            # of the autoencoders                                 [official code]


class Autoencoder(nn.Module):
    """e [n, d] -> its reconstruction, and the mean and log variance of z."""

    def __init__(self, d: int, width: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(d, width), nn.ReLU(), nn.Linear(width, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, width), nn.ReLU(), nn.Linear(width, d))

    def forward(self, e: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        mean, spread = self.encoder(e).chunk(2, 1)
        return self.decoder(mean if noise is None else mean + (0.5 * spread).exp() * noise), mean, spread


def bounded(reconstructed: Tensor, e: Tensor) -> Tensor:
    """exp(M/(1 + M)) with M the squared error, in [1, e).  [n, d], [n, d] -> [n]

    Error (1, 1): M = 2, exp(⅔).
    """
    m = (reconstructed - e).square().sum(1)
    return (m / (1 + m)).exp()


def drift(e: Tensor, e0: Tensor) -> Tensor:
    """c = 1 − cos(e, e0), in [0, 2].  [n, d], [n, d] -> [n]"""
    return 1 - F.cosine_similarity(e, e0, dim=1)


def spread_out(drifts: Tensor, temperature: float) -> Tensor:
    """−log Σ exp(c/τ), the same for every example of the batch.  [n] -> [n]; two examples at c = 0: −log 2 each"""
    return -(drifts / temperature).logsumexp(0).expand(len(drifts))


@method(needs={"forget", "retain", "original"}, uses={"features"}, mechanism="features")
def run(cfg: LAF, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    known = {split.name: features(task, loop, split) for split in (task.forget, task.retain)}
    everything = torch.cat(list(known.values()))
    mean, scale = everything.mean(0), everything.std(0).clamp(min=1e-3)
    of_forget, of_retain = (
        fitted((known[split.name] - mean) / scale, cfg, derive(loop.seed, "laf", place), loop.settings.device)
        for place, split in enumerate((task.forget, task.retain)))
    was_forget, was_retain = (loop.reference(f"laf-{place}", task.features, split)
                              for place, split in enumerate((task.forget, task.retain)))

    def explained(autoencoder: Autoencoder, sign: float) -> Loss:
        def loss(m: nn.Module, batch: Batch) -> Tensor:
            e = (task.features(m, batch).float() - mean) / scale
            return sign * bounded(autoencoder(e)[0], e)

        return loss

    def push(m: nn.Module, batch: Batch) -> Tensor:
        return spread_out(drift(task.features(m, batch).float(), was_forget(batch).float()), cfg.temperature)

    def align(m: nn.Module, batch: Batch) -> Tensor:
        return drift(task.features(m, batch).float(), was_retain(batch).float())

    kept, gone = (float(min(cfg.batch_size, len(split))) for split in (task.retain, task.forget))   # means of a batch to sums
    extraction = {"retain": Term(task.retain, explained(of_retain, 1.0), kept),
                  "forget": Term(task.forget, explained(of_forget, -1.0), gone)}
    alignment = {"retain": Term(task.retain, align, kept), "forget": Term(task.forget, push, kept)}
    for _ in range(cfg.epochs):
        for terms, lr in ((extraction, cfg.extract_lr), (alignment, cfg.align_lr)):
            loop.minimise(model, terms, lr=lr, epochs=1, batch_size=cfg.batch_size, optimiser=cfg.optimiser)
    return loop.finish(model)


def features(task: Task, loop: Loop, split: Split) -> Tensor:
    """The original's features of every example of a split.  -> [n, d]"""
    original = task.original.to(loop.settings.device)
    with evaluating(original):
        return torch.cat([task.features(original, batch).float() for batch in loop.drawn(split, 256, "laf", split.name)])


def fitted(e: Tensor, cfg: LAF, seed: int, device: str) -> Autoencoder:
    """An autoencoder of these features, frozen."""
    rng = torch.Generator().manual_seed(seed)
    built = seeded(lambda _: Autoencoder(e.shape[1], cfg.width, cfg.latent), seed)
    assert isinstance(built, Autoencoder)
    autoencoder = built.to(device)
    adam = torch.optim.Adam(autoencoder.parameters(), lr=cfg.fit_lr)
    for _ in range(cfg.fit_steps):
        some = e[torch.randint(len(e), (min(len(e), cfg.batch_size),), generator=rng).to(device)]
        rebuilt, mean, spread = autoencoder(some, torch.randn(len(some), cfg.latent, generator=rng).to(device))
        divergence = 0.5 * (spread.exp() + mean.square() - 1 - spread).sum(1)
        loss = ((rebuilt - some).square().sum(1) + cfg.beta * divergence).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return autoencoder.eval().requires_grad_(False)

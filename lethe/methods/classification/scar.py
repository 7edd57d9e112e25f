"""SCAR: pull the features of forgotten examples to the nearest wrong class, and keep the original's answers on stand-in inputs.
Bonato, Cotogni & Sabetta (2024), ECCV 2024, arXiv:2404.12922.

    L(θ) = λ_f · E_{x∈F} d_t(x)(τ(h_θ(x)))  +  λ_s · E_{x∈S} D_T( z̃_0(x) ‖ z_θ(x) )
    d_k(τ) = (τ/‖τ‖ − μ_k/‖μ_k‖)ᵀ C_k⁻¹ (τ/‖τ‖ − μ_k/‖μ_k‖),    τ(h) = sign(h)·|h|^½

F forget set, S surrogate inputs, h_θ features before the head, t(x) the nearest wrong class in the original (fixed once), μ_k and
C_k mean and correlation of τ(h_0) in class k (covariance shrunk twice by γ), z logits, D_T = T²·KL.
removal = class     the classes of F go: they are no target, surrogates that the original takes for them are left out, and in
                    z̃_0 their logits are the smallest of the row
removal = examples  the classes stay: z̃_0 = z_0
Surrogates are uniform noise within the range of the inputs seen, or halves of two retained images side by side. Class statistics
come from R where there is one; without R from surrogates, by the class the original takes them for (retain-free).
Self-forget: without F, the surrogates that the original takes for `forget_class` stand in for it.
Needs:    original; forget or `forget_class`; retain where there is one.     Updates: every trainable parameter.
Cost:     one forward/backward on F and one on S per step; a pass of the original over S and R.
Limits:   λ_f = 0 and removal = examples starts at a gradient of zero: nothing happens. λ_s = 0 has nothing to hold the rest.
Fails by: surrogates that the original takes for few classes hold only those.
Deviations: sign-preserving power, so that features below zero (batch norm, GELU) are no NaN; the accuracy on F is measured after
          every pass, not after every step; every removed class is taken out, not the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Natural, NonNegative, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split, pixels
from lethe.core.words import number
from lethe.errors import NeedsUnmet
from lethe.maths.losses import kl
from lethe.maths.neighbours import continuous
from lethe.train.loop import Loop, Term


@config
class SCAR:
    """Options of SCAR."""

    removal: Literal["class", "examples"] = "class"      # whether the classes of F go or stay       [paper: CR, HR]
    surrogates: Literal["noise", "halves"] = "noise"     # uniform noise, or mixed retained images   [ours; paper: other images]
    count: Count = 2000                # number of surrogates                                [ours, digits CNN; paper 10,000]
    forget_class: Natural | None = None  # self-forget: the class that goes without F [tested in test_scar] [official code]
    pull: NonNegative = 1.0            # λ_f, weight of the distance                         [official code]
    hold: NonNegative = 5.0            # λ_s, weight of the divergence on surrogates         [official code]
    temperature: Positive = 1.0        # T; softens both sides                               [official code]
    shrink: Positive = 3.0             # γ of both shrinkages; larger is nearer to isotropic [official code]
    target: Fraction = 0.01            # accuracy on F that is enough [only with epochs=3] [official code]
    lr: Positive = 5e-4                # Adam                                                [official code]
    epochs: Count = 20                 # passes over the surrogates at most                  [ours, digits CNN; official 30]
    batch_size: Count = 64             # examples of each term per step                      [ours; official 1024]
    optimiser: Literal["sgd", "adam"] = "adam"   # update rule [official code]


@dataclass(frozen=True)
class Gaussians:
    """Normalised class means [k, d], inverse correlations [k, d, d] and the classes [k] they belong to."""

    means: Tensor
    inverses: Tensor
    classes: Tensor


def tukey(features: Tensor) -> Tensor:
    """sign(h)·|h|^½; its slope is bounded at 0.  [n, d] -> [n, d]; tukey([4, 0, −9]) == [2, 0, −3]"""
    return features.sign() * features.abs().clamp(min=1e-6).sqrt()


def unit(features: Tensor) -> Tensor:
    """τ(h)/‖τ(h)‖.  [n, d] -> [n, d]"""
    return F.normalize(tukey(features.float()), dim=1)


def correlation(values: Tensor, shrink: float) -> Tensor:
    """Σ + γV₁·I + γV₂·(1 − I), twice, then Σ_ij/√(Σ_ii Σ_jj); V₁, V₂ means of the diagonal and off it.  [n, d] -> [d, d]

    Of uncorrelated coordinates: the identity, whatever γ. Of one example Σ = 0: the identity.
    """
    centred = values.double() - values.double().mean(0)
    sigma, d = centred.T @ centred / max(len(values) - 1, 1), values.shape[1]
    eye = torch.eye(d, dtype=torch.float64)
    for _ in range(2):
        diagonal = sigma.diagonal().mean()
        off = (sigma.sum() - sigma.diagonal().sum()) / max(d * (d - 1), 1)
        sigma = sigma + shrink * diagonal * eye + shrink * off * (1 - eye)
    sigma = sigma + 1e-9 * eye
    root = sigma.diagonal().sqrt()
    return sigma / (root.unsqueeze(0) * root.unsqueeze(1))


def mahalanobis(tau: Tensor, means: Tensor, inverses: Tensor) -> Tensor:
    """(τ − μ)ᵀ C⁻¹ (τ − μ).  [n, d], [n or 1, d], [n or 1, d, d] -> [n]

    τ − μ = (1, 2), C⁻¹ = diag(2, 3): 2·1 + 3·4 = 14.
    """
    apart = tau - means
    return torch.einsum("nd,nde,ne->n", apart, inverses.expand(len(apart), -1, -1), apart)


def leaves_classes(cfg: SCAR, task: ClassificationTask) -> None:
    """NeedsUnmet where removal = class would take so many classes that no two are left to pull towards."""
    if cfg.removal == "class" and task.has("forget"):
        gone = len(task.forget.columns["y"].unique())
        if task.class_count - gone < 2:
            raise NeedsUnmet(f"method.removal = 'class' takes all {gone} classes of the forget set out of {task.class_count}, so "
                             "fewer than two are left to pull towards and nothing was started. Where the classes stay and only "
                             "examples of them go, set method.removal=examples.")


@method(needs={"forget?", "retain?", "original"},
        uses={"class_count", "features", "forward", "inputs", "labels", "observe", "outputs"}, mechanism="features",
        instead={"forget": "forget_class=3"}, check=leaves_classes)
def run(cfg: SCAR, task: ClassificationTask, loop: Loop) -> Outcome:
    model = loop.start()
    inputs = surrogate_inputs(cfg, task, loop)
    features, logits = predictions(task, loop, inputs)
    taken = logits.argmax(1)
    if task.has("forget"):
        forget = task.forget
        gone = forget.columns["y"].unique() if cfg.removal == "class" else torch.empty(0, dtype=torch.long)
    else:
        if cfg.forget_class is None or not (taken == cfg.forget_class).any():
            raise NeedsUnmet(f"there is no forget set, and no surrogate is taken for method.forget_class = {cfg.forget_class}, "
                             "so nothing was started. Set the class, more surrogates (method.count), or "
                             "method.surrogates=halves with retained data.")
        forget = inputs.subset((taken == cfg.forget_class).numpy(), "forget")
        gone = torch.tensor([cfg.forget_class])
    if task.has("retain"):
        known, labels = predictions(task, loop, task.retain)[0], task.retain.columns["y"]
    else:
        known, labels = features, taken
    gaussians = fitted(known, labels, gone, cfg.shrink, loop.settings.device)
    kept = ~torch.isin(taken, gone)
    hold_split, answers = inputs.subset(kept.numpy(), "surrogates"), logits[kept]
    answers[:, gone] = answers.min(1, keepdim=True).values.expand(-1, len(gone))
    chosen = loop.reference("scar", lambda m, b: nearest(unit(task.features(m, b)), b.y, gaussians), forget)

    def pull(m: nn.Module, batch: Batch) -> Tensor:
        at = chosen(batch)
        return mahalanobis(unit(task.features(m, batch)), gaussians.means[at], gaussians.inverses[at])

    def hold(m: nn.Module, batch: Batch) -> Tensor:
        teacher = answers[batch.index.cpu()].to(batch.x.device)
        return kl(teacher, task.outputs(m, batch), cfg.temperature)

    terms = {"surrogates": Term(hold_split, hold, cfg.hold), "forget": Term(forget, pull, cfg.pull)}
    for done in range(cfg.epochs):
        loop.minimise(model, terms, lr=cfg.lr, epochs=1, batch_size=cfg.batch_size, optimiser=cfg.optimiser)
        accuracy = score(task, loop, model, forget)
        if accuracy <= cfg.target and done and task.has("forget"):   # stand-ins are gone before the class is
            loop.notes.append(f"stopped after pass {done + 1}: accuracy on the forget set is {number(accuracy)}")
            break
    return loop.finish(model)


def surrogate_inputs(cfg: SCAR, task: ClassificationTask, loop: Loop) -> Split:
    """Inputs that stand in for retained data; their labels are what the original takes them for."""
    seen = next((task.splits[name] for name in ("retain", "forget") if task.has(name)), None)
    if seen is None or (cfg.surrogates == "halves" and not task.has("retain")):
        raise NeedsUnmet(f"surrogates = {cfg.surrogates!r} are made from data that the task does not have, so nothing was "
                         "started. Provide retain data, or a forget set and method.surrogates=noise.")
    x, rng = pixels(seen.columns["x"]), loop.generator("scar")
    if cfg.surrogates == "noise":
        continuous(seen.batch([0]))   # tokens are refused before any work
        made = x.min() + (x.max() - x.min()) * torch.rand(cfg.count, *x.shape[1:], generator=rng)
    else:
        left, right = torch.randint(len(x), (2, cfg.count), generator=rng)
        made, width = x[left].clone(), x.shape[-1]
        made[..., width // 2 :] = x[right][..., width // 2 :]
    split = Split({"x": made, "y": torch.zeros(cfg.count, dtype=torch.long)}, "surrogates")
    return Split({"x": made, "y": predictions(task, loop, split)[1].argmax(1)}, "surrogates")


def predictions(task: ClassificationTask, loop: Loop, split: Split) -> tuple[Tensor, Tensor]:
    """The original's features and logits.  -> [n, d], [n, K]"""
    original = task.original.to(loop.settings.device)
    with evaluating(original):
        found = [task.forward(original, batch) for batch in loop.drawn(split, 256, "scar")]
    return torch.cat([h.flatten(1).float().cpu() for _, h in found]), torch.cat([z.float().cpu() for z, _ in found])


def fitted(features: Tensor, labels: Tensor, gone: Tensor, shrink: float, device: str) -> Gaussians:
    """Means and inverse correlations of the classes that stay and have at least two examples."""
    tau = tukey(features)
    classes = torch.tensor([k for k in labels.unique().tolist() if k not in gone.tolist() and int((labels == k).sum()) > 1])
    if len(classes) < 2:
        raise NeedsUnmet(f"only {len(classes)} classes have statistics to pull towards, so nothing was started. Provide retain "
                         "data, or more surrogates (method.count).")
    means = torch.stack([F.normalize(tau[labels == k].mean(0), dim=0) for k in classes])
    factors = [torch.linalg.cholesky(correlation(tau[labels == k], shrink)) for k in classes]
    inverses = torch.stack([torch.cholesky_inverse(factor) for factor in factors])
    return Gaussians(means.to(device), inverses.float().to(device), classes.to(device))


def nearest(tau: Tensor, labels: Tensor, gaussians: Gaussians) -> Tensor:
    """Position of the nearest class that is not the label.  [n, d], [n] -> [n]"""
    far = torch.stack([mahalanobis(tau, m[None], i[None]) for m, i in zip(gaussians.means, gaussians.inverses, strict=True)], 1)
    return far.masked_fill(labels.unsqueeze(1) == gaussians.classes.unsqueeze(0), float("inf")).argmin(1)


def score(task: ClassificationTask, loop: Loop, model: nn.Module, split: Split) -> float:
    """Mean score on a split, in eval mode."""
    with evaluating(model):
        scores = [task.observe(model, batch)["score"] for batch in loop.drawn(split, 256, "scar")]
    return float(torch.cat(scores).mean())

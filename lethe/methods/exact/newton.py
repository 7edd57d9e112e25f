"""Newton removal: delete records from a linear model by one Newton step, with noise in training that certifies the removal.
Guo, Goldstein, Hannun & van der Maaten (2020), arXiv:1911.03030.

    L_b(w) = Σ_{i∈D} ℓ(wᵀx_i, y_i) + (λn/2)·‖w‖² + bᵀw,   b ~ N(0, σ²I);      w = argmin L_b
    w⁻ = w + H⁻¹Δ,   Δ = Σ_{i∈F} (λw + ∇ℓ(wᵀx_i, y_i)),   H Hessian of the loss of D∖F at w
    β ← β + γ·max‖x_i‖·‖X‖₂·‖H⁻¹Δ‖·‖XH⁻¹Δ‖                 bound on the gradient of L_b over D∖F at w⁻
    (ε, δ) holds while β ≤ σε/c,   c = √(2 ln(1.5/δ))

D training, F forget set, X the inputs of D∖F, n their current number, λ ridge, γ Lipschitz constant of ℓ'' (logistic ¼,
squared 0: there the step is exact). One-vs-rest for K classes: b is one Gaussian vector over all K·d weights, so
β = √Σ_k β_k². The norm of the gradient that is left after training is the first part of β.
Needs:    forget, retain.     Updates: the weights and bias of the classifier head; what comes before it stays.
Cost:     training the head on D (a few Newton steps), then O(n·d² + d³) per group and class; float64, Cholesky.
Limits:   certified for the head alone. It holds for the model where nothing before the head was trained on D: a linear model
          on raw inputs, or `public_features`. b must stay secret: it comes from `perturbation_key`; without one the run's
          seed gives it, and nothing is certified. Requests must not depend on models published before. When β exceeds the
          budget: retrain.
          An audit compares with the recipe; the theorem with the perturbed training: the two can differ in what they fit.
Fails by: strong noise: σ large enough for many removals costs accuracy; λ small makes the bound useless (1/λ²).
Deviations: the head is trained anew with the perturbed objective, unless it is that optimum already; the paper assumes it
          is. F is removed in groups of `group` (paper: 1); max‖x_i‖ stands in the bound where the paper requires ‖x_i‖ ≤ 1;
          ‖X‖₂ is exact, not from power iteration, which ends below. The bias is a constant input and is regularised, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from lethe.core.config import Count, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Split
from lethe.errors import ModelError
from lethe.maths.certified import removal_budget, residual_bound, spectral_norm
from lethe.train.loop import Loop
from lethe.train.noise import secret_seed

GAMMA = {"logistic": 0.25, "squared": 0.0}
NEWTON_STEPS = 100


@config
class Newton:
    """Options of Newton removal."""

    loss: Literal["logistic", "squared"] = "logistic"   # of each one-vs-rest problem, targets ±1   [paper: logistic]
    ridge: Positive = 1e-2             # λ; larger: smaller bound, less fit                          [ours; paper 1e-6 to 1e-2]
    sigma: Positive = 3.0              # σ of b; larger: more removals, less accuracy                [ours; official code 10]
    epsilon: Positive = 1.0            # ε that is to be certified [changes the guarantee] [paper]
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-4   # δ that is to be certified [changes the guarantee] [paper]
    scale: Positive = 1.0              # inputs are divided by it, weights too; the bound grows with max‖x‖³  [paper: ‖x‖ ≤ 1]
    group: Count = 1                   # records removed by one step; the bound grows by its square  [paper]
    public_features: bool = False      # what comes before the head never saw the data: you say so [changes the guarantee] [ours]
    perturbation_key: str = ""         # file of ≥ 32 secret random bytes that b comes from [tested in test_newton] [ours]


def slopes(z: Tensor, y: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """ℓ' and ℓ'' in z.  [n], [n] of ±1 -> [n], [n]

    logistic: ℓ = log(1 + e^{−yz}), ℓ'(0, 1) == −½, ℓ'' == ¼;  squared: ℓ = (z − y)²/2, ℓ'(0, 1) == −1, ℓ'' == 1.
    """
    if loss == "squared":
        return z - y, torch.ones_like(z)
    s = torch.sigmoid(-y * z)
    return -y * s, s * (1 - s)


def gradient(w: Tensor, x: Tensor, y: Tensor, ridge: float, b: Tensor, loss: str) -> Tensor:
    """∇L_b(w).  [d], [n, d], [n] -> [d]"""
    return x.T @ slopes(x @ w, y, loss)[0] + ridge * len(x) * w + b


def hessian(w: Tensor, x: Tensor, y: Tensor, ridge: float, loss: str) -> Tensor:
    """∇²L_b(w); at least λn in every direction.  [d], [n, d], [n] -> [d, d]"""
    curved = (x.T * slopes(x @ w, y, loss)[1]) @ x
    return curved + ridge * len(x) * torch.eye(len(w), dtype=x.dtype)


def solved(h: Tensor, right: Tensor) -> Tensor:
    """H⁻¹·right by Cholesky.  [d, d], [d] -> [d]"""
    return torch.cholesky_solve(right.unsqueeze(1), torch.linalg.cholesky(h)).squeeze(1)


def fit(x: Tensor, y: Tensor, ridge: float, b: Tensor, loss: str) -> Tensor:
    """argmin L_b by Newton's method, halving steps that do not shrink the gradient.  [n, d], [n] -> [d]"""
    w = torch.zeros_like(b)
    g = gradient(w, x, y, ridge, b, loss)
    for _ in range(NEWTON_STEPS):
        step, size = solved(hessian(w, x, y, ridge, loss), g), 1.0
        while size > 1e-4:
            trial = w - size * step
            left = gradient(trial, x, y, ridge, b, loss)
            if left.norm() < g.norm():
                break
            size /= 2
        else:
            break   # as small as rounding lets it be
        w, g = trial, left
    return w


def removed(w: Tensor, x: Tensor, y: Tensor, gone: Tensor, labels: Tensor, ridge: float, loss: str, spectral: Tensor,
            radius: float) -> tuple[Tensor, Tensor]:
    """(w⁻, bound on the gradient that the step adds).  [d], retained [n, d], [n], removed [k, d], [k] -> [d], []"""
    delta = gone.T @ slopes(gone @ w, labels, loss)[0] + len(gone) * ridge * w
    step = solved(hessian(w, x, y, ridge, loss), delta)
    return w + step, residual_bound(GAMMA[loss], radius, spectral, step, x @ step)


@method(needs={"forget", "retain"}, uses={"features", "head", "labels"}, mechanism="closed form")
def run(cfg: Newton, task: ClassificationTask, loop: Loop) -> Outcome:
    model = loop.start()
    name: str = task.head
    head = model.get_submodule(name)
    if not isinstance(head, nn.Linear):
        raise ModelError(f"the head {name!r} is a {type(head).__name__}, and Newton removal needs a linear layer; nothing was "
                         "changed. Name it: model.head.")
    x_f, y_f = inputs(model, task, task.forget, loop, head)
    x_r, y_r = inputs(model, task, task.retain, loop, head)
    d, classes = x_r.shape[1], head.out_features
    noise = cfg.sigma * perturbation(cfg, loop, classes, d)
    unit = torch.full((d,), cfg.scale, dtype=x_r.dtype)
    unit[head.in_features :] = 1.0   # the constant of the bias
    whole = torch.cat([x_f, x_r]) / unit
    sign = 2.0 * torch.nn.functional.one_hot(torch.cat([y_f, y_r]), classes).double() - 1   # [n, K] of ±1
    given = torch.cat([head.weight, head.bias.unsqueeze(1)], 1) if head.bias is not None else head.weight
    weights, left, refitted = started(unit * given.detach().cpu().double(), whole, sign, noise, cfg)
    bounds, budget, within = left, removal_budget(cfg.sigma, cfg.epsilon, cfg.delta), 0
    for part, spectral in shrinking(whole, len(x_f), cfg.group):
        x, y, radius = whole[part.stop :], sign[part.stop :], float(whole[part.stop :].norm(dim=1).max())
        for k in range(classes):
            weights[k], bound = removed(weights[k], x, y[:, k], whole[part], sign[part, k], cfg.ridge, cfg.loss, spectral, radius)
            bounds[k] += bound
        within = part.stop if bounds.norm() <= budget else within
    if refitted:
        loop.notes.append("the head was first trained on all records with the perturbed objective, of which the given one is no "
                          "optimum")
    weights /= unit
    values = {f"{name}.weight": weights[:, : head.in_features]}
    if head.bias is not None:
        values[f"{name}.bias"] = weights[:, -1]
    loop.assign(model, values)
    loop.cost.examples += len(whole)
    written = all(torch.equal(model.get_parameter(key).cpu(), value.to(head.weight.dtype)) for key, value in values.items())
    outcome = loop.finish(model)
    outcome.guarantee = guarantee(cfg, model, name, written, float(bounds.norm()), budget, within, len(x_f))
    if "void" in outcome.guarantee:
        outcome.notes.append(outcome.guarantee["void"])
    return outcome


def inputs(model: nn.Module, task: ClassificationTask, split: Split, loop: Loop, head: nn.Linear) -> tuple[Tensor, Tensor]:
    """What enters the head, with a constant for its bias, in float64, and the labels.  -> [n, d], [n]"""
    with evaluating(model):
        rows = [(task.features(model, batch).double().cpu(), batch.y.cpu())
                for batch in loop.drawn(split, 256, "newton", split.name)]
    x, y = torch.cat([row for row, _ in rows]), torch.cat([label for _, label in rows])
    return (torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1) if head.bias is not None else x), y


def perturbation(cfg: Newton, loop: Loop, classes: int, d: int) -> Tensor:
    """Standard normal [K, d], from the secret key and the seed; from the seed alone when there is no key."""
    seed = secret_seed(cfg.perturbation_key, loop.seed, "newton", "perturbation_key")
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((classes, d)))


def started(given: Tensor, x: Tensor, sign: Tensor, noise: Tensor, cfg: Newton) -> tuple[Tensor, Tensor, bool]:
    """(weights at the perturbed optimum on everything, norms of the gradients left, whether they had to be trained)."""
    def rest(weights: Tensor) -> Tensor:
        return torch.stack([gradient(w, x, sign[:, k], cfg.ridge, noise[k], cfg.loss).norm() for k, w in enumerate(weights)])

    left = rest(given)
    if left.norm() <= removal_budget(cfg.sigma, cfg.epsilon, cfg.delta) / 10:
        return given.clone(), left, False
    weights = torch.stack([fit(x, sign[:, k], cfg.ridge, noise[k], cfg.loss) for k in range(len(noise))])
    return weights, rest(weights), True


def shrinking(whole: Tensor, count: int, group: int) -> Iterator[tuple[slice, Tensor]]:
    """The first `count` rows leave in groups from the front: (which leave, ‖X‖₂ of all that come after them)."""
    gram = whole.T @ whole
    for begin in range(0, count, group):
        part = slice(begin, min(begin + group, count))
        gram -= whole[part].T @ whole[part]
        yield part, spectral_norm(gram)


def guarantee(cfg: Newton, model: nn.Module, head: str, written: bool, beta: float, budget: float, within: int,
              count: int) -> dict[str, Any]:
    """What the certificate may say: certified, or what voids it."""
    before = [name for name in model.state_dict() if not name.startswith(f"{head}.")]
    void = ""
    if before and not cfg.public_features:
        void = (f"Not certified: the features come from {len(before)} tensors before the head, which were or may have been "
                "trained on the records (method.public_features=true says that they were not).")
    elif not written:
        void = "Not certified: modifiers or the watchdog kept some of the head's weights as they were."
    elif beta > budget:
        void = (f"Not certified: the residual bound {beta:.3g} exceeds the budget {budget:.3g} after {within} of {count} "
                "removals. Retrain, or give more noise (method.sigma), more ridge (method.ridge) or a larger ε.")
    elif not cfg.perturbation_key:
        void = "Not certified: the perturbation comes from the run's seed, which is no secret. Give method.perturbation_key."
    if void:
        return {"level": "none", "void": void, "residual_bound": beta, "budget": budget}
    seen = ["What comes before the head never saw the data: the requester says so."] if before else []
    return {
        "level": "certified", "epsilon": cfg.epsilon, "delta": cfg.delta, "residual_bound": beta, "budget": budget,
        "sigma": cfg.sigma, "ridge": cfg.ridge, "loss": cfg.loss, "removals": count,
        "basis": "Newton removal with a perturbed objective (Guo et al. 2020)",
        "adjacency": f"training on all records against training without the {count} forgotten ones",
        "assumptions": ["The perturbation stays secret, and so does its key.",
                        "The requests do not depend on models published before.",
                        "The perturbed training that the theorem is about is the one of the head in this run.",
                        "Floating-point error in float64 is far below the residual bound.", *seen],
    }

"""ECO: a classifier of prompts, and noise in the embeddings of those that it flags; the weights stay. Liu, Wang, Flanigan & Liu
(2024), "Large Language Model Unlearning via Embedding-Corrupted Prompts", arXiv:2406.07933 (NeurIPS 2024).

    e_t → e_t + σ* · [n_t, 0],  n_t ~ N(0, 1)^k,  for all tokens t of a prompt x with C(x) > q;     other prompts are left alone
    σ* = argmin_σ f(σ),  f = |v − v_r|,    log σ_{i+1} = log σ_i − η_i · sign(f(σ_i e^μ) − f(σ_i)),  η halved where the sign turns

e_t the embedding of token t, k its first dimensions that are corrupted, C a classifier of prompts as forgotten or retained, q its
threshold, v(σ) the mean loss of the forgotten answers under corruption, v_r what a model that never saw them would have.
Needs:    forget, retain, original; holdout for v_r (or set target); prompts.     Updates: nothing; the outcome is a guard.
Cost:     the prompts' states once, a logistic regression, two forwards of F a step of the search; one more forward per prompt.
Limits:   σ = 0, or a prompt that is not flagged, is the original, bit for bit.
Fails by: the classifier: prompts that say the same in other words may pass, and then the model answers in full; prompts that
          are unlike the retained ones, though nobody forgot them, may be flagged. Corrupted answers can be wrong with confidence.
          Whoever holds the weights takes it off (audit: `guard`).
Deviations: the classifier is a logistic regression on the model's own states of the prompt (mean over its tokens, block ℓ), where
          the paper fine-tunes a separate encoder. q by conformal threshold on retained prompts held out from it (a fifth), as the
          paper proposes beside the fixed 0.99. v is the loss instead of the paper's mean of task metrics; v_r that of unseen
          records. The search is over log σ and by signs. Noise belongs to positions and is kept: the guarded model is a function.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, Natural, NonNegative, Positive, config
from lethe.core.families.language import LanguageTask, prompted
from lethe.core.language_guard import LanguageGuard, Prompt, hidden_states, layer_of, prompts_of, require_enough
from lethe.core.modules import hooked
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.maths.conformal import threshold
from lethe.train.loop import Loop

RIDGE, NEWTON = 1.0, 30          # of the logistic regression on standardised features: penalty and steps
LONGEST = 4096                   # positions that have noise of their own; later ones repeat it
FIRST, MU = 1.0, 0.1             # σ_0 in standard deviations of the embeddings; step of the finite difference in log σ


@config
class ECO:
    """Options of ECO."""

    alpha: Fraction = 0.1                 # α, share of retained prompts that may be flagged                [conformal paper]
    layer: Natural | None = None          # ℓ of the classifier's features; null: the middle block          [ours]
    dims: Count = 1                       # k, first dimensions of the embeddings that are corrupted        [official code]
    strength: NonNegative | None = None   # σ in standard deviations of the embeddings; null: searched      [official code: 1–100]
    target: Positive | None = None        # v_r; null: the original's loss on unseen records                [paper: retrained]
    rate: Positive = 0.7                  # η_0 of the search, in log σ                                     [ours]
    search_steps: Count = 20              # of the search [tested in test_eco]                              [paper: 50 calls]


class Corrupting(LanguageGuard):
    """Corrupts the embeddings of prompts that the classifier flags.

    weight  [d + 1] of the classifier, the last its bias     noise  [positions, k]     limit  q, on the log-odds
    """

    weight: Tensor
    noise: Tensor
    limit: float
    layer: int
    strength: float

    def flagged(self, prompts: Sequence[Prompt]) -> Tensor:
        """Which prompts are corrupted.  -> [n] bool"""
        return odds(features(self.model, self.layer, prompts), self.weight) > self.limit

    def working(self, prompts: Sequence[Prompt], where: Tensor, cached: bool) -> AbstractContextManager[None]:
        return corrupting(self.embeddings(), where & self.flagged(prompts).to(where.device).unsqueeze(1), self.noise,
                          self.strength, cached)


class Always(Corrupting):
    """Corrupts every prompt, as the search for the strength does; the classifier is not asked."""

    def flagged(self, prompts: Sequence[Prompt]) -> Tensor:
        return torch.ones(len(prompts), dtype=torch.bool)


@contextmanager
def corrupting(embedding: nn.Module, where: Tensor, noise: Tensor, strength: float, cached: bool) -> Iterator[None]:
    """Inside, embeddings at `where` [n, T] get noise by their place in the row's prompt. cached: of the first pass alone."""
    place = (where.int().cumsum(1) - 1).clamp(min=0) % len(noise)
    added = strength * noise.to(where.device)[place] * where.unsqueeze(-1)   # [n, T, k]
    passes = 0

    def change(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        if cached and passes > 1:
            return out
        out = out.clone()
        out[:, : added.shape[1], : added.shape[2]] += added.to(out.dtype)
        return out

    with hooked(embedding.register_forward_hook(change)):
        yield


def features(model: nn.Module, layer: int, prompts: Sequence[Prompt]) -> Tensor:
    """Mean state after a block over the tokens of each prompt.  -> [n, d]"""
    return torch.stack([states.mean(0) for states in hidden_states(model, prompts, layer)])


def odds(x: Tensor, weight: Tensor) -> Tensor:
    """Log-odds of a linear classifier whose last weight is its bias.  [n, d], [d + 1] -> [n]"""
    return x @ weight[:-1] + weight[-1]


def classifier(positive: Tensor, negative: Tensor) -> Tensor:
    """Logistic regression with a ridge on standardised features, both classes weighed alike, by Newton steps.  -> [d + 1]"""
    x, y = torch.cat([positive, negative]).double(), torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))]).double()
    mean, std = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    y, z = y.to(x.device), torch.cat([(x - mean) / std, torch.ones_like(x[:, :1])], 1)
    share = torch.where(y > 0, len(y) / (2 * len(positive)), len(y) / (2 * len(negative)))
    ridge = RIDGE * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    ridge[-1, -1] = 1e-6   # the bias is free
    w = z.new_zeros(z.shape[1])
    for _ in range(NEWTON):
        p = torch.sigmoid(z @ w)
        hessian = (z * (share * p * (1 - p)).unsqueeze(1)).T @ z + ridge
        w = w - torch.linalg.solve(hessian, z.T @ (share * (p - y)) + ridge @ w)
    slope = w[:-1] / std
    return torch.cat([slope, (w[-1] - slope @ mean).unsqueeze(0)]).float()


def searched(cfg: ECO, task: LanguageTask, loop: Loop, guard: Corrupting, unit: float) -> float:
    """σ* in units of `unit`: the best of the descent on |v(σ) − v_r| by finite differences."""
    target = cfg.target if cfg.target is not None else loop.mean_nll(task.original, task.holdout, "eco")

    def off(sigma: float) -> float:
        guard.strength = unit * sigma
        return abs(loop.mean_nll(guard, task.forget, "eco") - target)

    sigma, step, tried = FIRST, -cfg.rate, dict[float, float]()
    for _ in range(cfg.search_steps):
        tried[sigma] = off(sigma)
        if (off(sigma * math.exp(MU)) - tried[sigma]) * step > 0:
            step = -step / (2 if len(tried) > 1 else 1)
        sigma *= math.exp(step)
    return min(tried, key=lambda one: tried[one])


@method(needs={"forget", "retain", "original", "holdout"}, uses={"down_projections", "layer_count", "nll"}, mechanism="guard",
        instead={"holdout": "target"}, check=prompted("eco"))
def run(cfg: ECO, task: LanguageTask, loop: Loop) -> Outcome:
    least = require_enough(len(task.retain) - 1, cfg.alpha)   # one is left for the classifier
    layer = task.layer_count // 2 if cfg.layer is None else cfg.layer
    layer_of(task, layer)   # refuses blocks that are not there
    model = loop.start()
    forgotten, kept = (features(model, layer, prompts_of(split)) for split in (task.forget, task.retain))
    order = torch.randperm(len(kept), generator=loop.generator("eco")).to(kept.device)
    count = max(least, len(kept) // 5)
    weight = classifier(forgotten, kept[order[count:]])
    limit = threshold(odds(kept[order[:count]], weight), cfg.alpha)
    embeddings: Tensor = cast(Any, model).get_input_embeddings().weight
    noise = torch.randn(LONGEST, cfg.dims, generator=loop.generator("eco", "noise")).to(kept.device)
    unit = float(embeddings.detach().float().std())
    every = Always(model, weight=weight, noise=noise, limit=limit, layer=layer, strength=0.0)
    sigma = cfg.strength if cfg.strength is not None else searched(cfg, task, loop, every, unit)
    caught = float((odds(forgotten, weight) > limit).float().mean())
    loop.note(f"the classifier flags {caught:.0%} of the forgotten prompts and promises to flag at most {cfg.alpha:.0%} of "
              f"those like the retained ones; flagged ones get noise of {sigma:.3g} standard deviations; others are answered as "
              "before, and nothing was removed")
    return loop.finish(model, guard=lambda m: Corrupting(m, weight=weight, noise=noise, limit=limit, layer=layer,
                                                         strength=unit * sigma))

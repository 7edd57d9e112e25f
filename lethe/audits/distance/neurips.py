"""Score of the 2023 unlearning challenge: ε per example between unlearned and retrained models. Triantafillou et al. 2024,
arXiv:2406.09073, and the organisers' note on the metric (August 2023).

    R_s, U_s = φ(s) of N retrained and of N unlearned models;   φ = log p_y − log Σ_{j≠y} p_j
    ε_s = max over attacks of max{ln((1 − δ − FPR)/FNR), ln((1 − δ − FNR)/FPR)}, at least 0;   F = mean_s 2^{−⌊2ε_s⌋}
    score = F · RA_U/RA_R · TA_U/TA_R;   H(ε) = 2^{−⌊2ε⌋} is 0 from ⌈ln(N − 1)⌉ on

Attacks guess from which side a φ comes: above a threshold (the side with the larger median), or inside an interval (the side
with the smaller range). An attack without any error gives ε = 50; one with exactly one kind of error is left out.
  official    intervals about as wide as the smaller range w: width w ± 2, right end in [min + w − 2, max + 2] of the inner side;
              ranges of a ratio below 0.01 give ε = 50. Constants are in logits, so the score depends on their scale.
  exhaustive  every interval between observed values, either side inside; no constants
All attacks between two observed values make the same errors, so sorted counts replace the published grid of 100 steps a logit.
F is far below 1 for perfect unlearning, since ε_s is the best of many attacks: it means something only beside `null`, F of N
retrained models against N others; `neurips_ratio` is F/null. `neurips_refuted` is the calibrated version: the share of examples
at which a rule chosen on half of the models has a Clopper–Pearson bound above 0 at 95 % on the other half (≤ 5 % for retraining).
Needs:    forget, retain, holdout, recipe and the procedure (through shadows), labels.
Cost:     2N retrainings and N trainings of originals for all methods, N runs of each method.
Limits:   never compare F of different N. The challenge had N = 512; with the plan's shadows it is usually 16.
Deviations: unlearned models start from N originals, not from one, so that the original's seed counts too; δ = 1e-5 as there.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.seeds import numpy_generator
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.epsilon import best_rule, rates_bound
from lethe.pools.pool import Wanted
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Subject

SURE = 50.0   # ε where no error was made


@config
class NeurIPS:
    """Options of the challenge score."""

    models: Count = 64        # N; the plan's limit of shadows holds too                        [challenge: 512; ours: time]
    rules: Literal["official", "exhaustive"] = "official"   # which intervals are tried         [challenge]
    delta: Annotated[float, Field(ge=0, lt=1)] = 1e-5       # δ                                 [challenge]
    limit: Count = 500        # forget examples at most; a seeded sample                        [ours]
    fewest: Count = 8         # models below which nothing is reported                          [ours]


def points(eps: np.ndarray, models: int) -> np.ndarray:
    """H(ε): 1 in [0, ½), halved in every further ½, 0 from ⌈ln(N − 1)⌉ on.  [n] -> [n]"""
    return np.where(eps < math.ceil(math.log(models - 1)), 0.5 ** np.floor(2 * eps), 0.0)


def attack_epsilon(fp: np.ndarray, fn: np.ndarray, models: int, delta: float) -> np.ndarray:
    """ε of attacks by their error counts; −1 where the rule leaves them out.  elementwise"""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.arange(models + 1) / models)
        rest = np.log(np.maximum(1 - delta - np.arange(models + 1) / models, 0))
        eps = np.fmax(rest[fp] - logs[fn], rest[fn] - logs[fp])
    eps = np.where((fp == 0) != (fn == 0), -1.0, eps)
    return np.where((fp == 0) & (fn == 0), SURE, np.minimum(eps, SURE))


def example_epsilon(retrained: np.ndarray, unlearned: np.ndarray, delta: float = 1e-5, rules: str = "official") -> float:
    """ε_s from N values a side.  [N], [N] -> scalar"""
    n, r, u = len(retrained), np.sort(retrained), np.sort(unlearned)
    width = {True: float(np.ptp(r)), False: float(np.ptp(u))}
    w = min(width.values())
    if rules == "official" and w < 0.01 * max(width.values()):
        return SURE
    values = np.unique(np.concatenate([r, u]))
    below = {True: np.searchsorted(r, values, "left"), False: np.searchsorted(u, values, "left")}   # [V]
    upto = {True: np.searchsorted(r, values, "right"), False: np.searchsorted(u, values, "right")}
    upper = float(np.median(r)) > float(np.median(u))                        # which side is guessed above a threshold
    best = float(attack_epsilon(n - below[not upper], below[upper], n, delta).max())
    for inner in (True, False):
        if rules == "official" and inner != (width[True] <= width[False]):
            continue
        hits, alarms = (upto[side][None, :] - below[side][:, None] for side in (inner, not inner))   # [V, V]: [v_i, v_j]
        allowed = np.triu(np.ones(hits.shape, dtype=bool))
        if rules == "official":
            allowed &= reachable(values, w, *((r[0], r[-1]) if inner else (u[0], u[-1])))
        best = max(best, float(attack_epsilon(alarms[allowed], n - hits[allowed], n, delta).max(initial=-1.0)))
    return max(best, 0.0)


def reachable(values: np.ndarray, w: float, lowest: float, highest: float) -> np.ndarray:
    """Which [v_i, v_j] an interval [a, b] of width w ± 2 with b in [lowest + w − 2, highest + 2] picks out.  [V] -> [V, V]

    b lies in [v_j, v_{j+1}) and a in (v_{i−1}, v_i].
    """
    before, after = np.concatenate([[-np.inf], values[:-1]]), np.concatenate([values[1:], [np.inf]])
    first = np.maximum(values, lowest + w - 2)[None, :]          # of b
    last = np.minimum(after, highest + 2)[None, :]
    open_end = (after <= highest + 2)[None, :]                   # b < v_{j+1}
    room = np.where(open_end, first < last, first <= last)
    pairs: np.ndarray = room & (first - values[:, None] <= w + 2) & (last - before[:, None] > w - 2)
    return pairs


def refuted(retrained: np.ndarray, unlearned: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whether the bound on half of the models is above 0, by the rule chosen on the other half.  [N, n], [N, n] -> [n] bool"""
    half = rng.permutation(len(retrained)) < len(retrained) // 2
    bounds = []
    for r, u in zip(retrained.T, unlearned.T, strict=True):
        fp, fn = best_rule(u[half], r[half]).counts(u[~half], r[~half])
        bounds.append(float(rates_bound(fp, int((~half).sum()), fn, int((~half).sum()))))
    return np.array(bounds) > 0


@audit(
    metrics={
        "neurips_score": Metric("score of the 2023 unlearning challenge: F times the utility ratios", (0.0, math.inf), "higher",
                                asks="the unlearning procedure and at least 8 shadow models"),
        "neurips_forgetting": Metric("F: mean points of the ε per forget example", (0.0, 1.0), "higher"),
        "neurips_ratio": Metric("F / F of retrained models against others", (0.0, math.inf), "higher", null=1.0),
        "neurips_refuted": Metric("share of forget examples whose ε is above 0 at 95 %", (0.0, 1.0), "lower", null=0.0),
    },
    uses={"labels"},
    needs={"forget", "retain", "holdout", "recipe", "shadows", "procedure"},
    depth="deep",
    blind="It compares one number per example, one example at a time; what only several or other outputs show is unseen.",
    trains=lambda cfg, shadows, seed, depth: taken(cfg, shadows),
)
def measure(cfg: NeurIPS, subject: Subject, panel: Panel) -> list[Value]:
    shadows, procedure = panel.shadows, subject.procedure
    assert shadows is not None and procedure is not None
    count = min(cfg.models, shadows.limit)
    if count < cfg.fewest:
        return []
    return panel.once(("neurips", cfg, procedure.key), lambda: _scored(cfg, count, subject, panel))


def taken(cfg: NeurIPS, shadows: Shadows) -> list[Wanted]:
    """The pools of `_scored`: retrained models twice, and what the audited procedure and a retraining one start from."""
    count = min(cfg.models, shadows.limit)
    if count < cfg.fewest:
        return []
    return [shadows.without(2 * count), shadows.without(count, "repeated retrained"), shadows.wholes(count)]


def _scored(cfg: NeurIPS, count: int, subject: Subject, panel: Panel) -> list[Value]:
    task, shadows, procedure = panel.task, panel.shadows, subject.procedure
    assert shadows is not None and procedure is not None
    forget, rng = panel.part(task.forget, cfg.limit), numpy_generator(panel.seed, "neurips")
    pool, made = shadows.retrained(2 * count), shadows.repeated(procedure, count)
    sides = {name: np.stack([m.numbers(forget, "signal") for m in models])
             for name, models in (("retrained", pool[:count]), ("null", pool[count:]), ("unlearned", made))}

    def epsilons(name: str) -> np.ndarray:
        return np.array([example_epsilon(r, u, cfg.delta, cfg.rules)
                         for r, u in zip(sides["retrained"].T, sides[name].T, strict=True)])

    eps, null = epsilons("unlearned"), panel.once(("neurips", "null", cfg), lambda: epsilons("null"))
    gained, base = points(eps, count), float(points(null, count).mean())
    utility = 1.0
    for split in (panel.part(task.retain, cfg.limit), task.test if task.has("test") else task.holdout):
        ours, theirs = (float(np.mean([m.numbers(split, "score") for m in models])) for models in (made, pool[:count]))
        utility *= ours / theirs if theirs else math.nan
    detail = {"models": count, "rules": cfg.rules, "null": base, "mean_epsilon": float(eps.mean()),
              "mean_epsilon_null": float(null.mean()), "utility": utility}
    found = mean_value("neurips_forgetting", gained)
    values = [Value(found.metric, found.value, found.low, found.high, found.n, gained, detail),
              mean_value("neurips_refuted", refuted(sides["retrained"], sides["unlearned"], rng).astype(float))]
    if math.isfinite(utility):
        values.append(Value("neurips_score", found.value * utility, n=found.n, detail=detail))
    if base > 0:
        values.append(Value("neurips_ratio", found.value / base, n=found.n, detail=detail))
    return values

"""Epsilon: how well an attacker separates 'unlearned' from 'unseen', as a privacy budget. Lower bounds after Jagielski, Ullman
& Oprea 2020, arXiv:2006.07709; posterior after Zanella-Béguelin et al. 2022, arXiv:2206.05199.

    Λ_k(x) = log p_u(φ_k(x)) − log p_n(φ_k(x));   decision 'was trained on and unlearned' where ±Λ_k(x) ≥ τ;
    FPR, FNR of the decisions  ->  ε ≥ max{ln((1 − δ − FPR)/FNR), ln((1 − δ − FNR)/FPR)}  at the ends of their intervals

φ_k the membership signal of shadow k, which was trained with a random half of the candidates and forgot them by the procedure;
p_u, p_n Student predictives over the *other* shadows that did, and did not, see x: the attack of `ulira` on every shadow in
turn. Sign and τ are chosen on a random half of the candidates and used on the other half, so no correction is owed.
    epsilon        lower end at 95 % by Clopper–Pearson, half of the 5 % for each rate
    epsilon_bayes  posterior median with its 90 % interval (Jeffreys priors); the lower end is a 95 % credible end
    epsilon_gdp    lower end at 95 % if the two worlds are Gaussians (model-based: true only for such a mechanism)
All are heuristic: decisions about many candidates of one model, and about models that share shadows, are not independent, so
the intervals are too narrow (`independent: false`). What is exact for one run is `canary`. The upper end of the posterior
bounds this attack, not the procedure; an ε of 0 shows that this attack failed, no more.
Needs:    forget, retain, holdout, recipe (through shadows) and the procedure. Cost: none beyond `ulira` with as many shadows.
Limits:   n decisions a side prove at most ln((1 − u)/u), u = 1 − 0.025^{1/n}: 4.9 for 500. The credible lower end of the
          posterior exceeds ε in 5 % of audits where one rate decides, and in 7, 8 and 19 % on randomised response with ε = 0.5,
          1 and 3 (300 audits, 500 decisions a side): print it beside Clopper–Pearson (0.4, 0.9 and 2.7 %).
Deviations: the posterior is for given counts; its authors draw one challenge per model.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import Field

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.seeds import numpy_generator
from lethe.judge.panel import Panel
from lethe.maths.epsilon import Posterior, best_rule, gdp_bound, rates_bound
from lethe.maths.membership import log_ratio
from lethe.pools.shadows import BLOCK
from lethe.pools.subject import Subject


@config
class Epsilon:
    """Options of the ε audit."""

    models: Count = 16        # shadows at most; the plan's limit holds too                 [ours: as many as `ulira` has]
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5   # δ, well below 1/n                 [usual]
    fewest: Count = 10        # unseen examples below which nothing is reported             [ours]


def left_out(signal: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Λ of each candidate in each shadow, from the other shadows.  [K, c], [K, c] bool -> [K, c]"""
    others = ~np.eye(len(signal), dtype=bool)
    return np.stack([log_ratio(row, signal[rest], inside[rest]) for row, rest in zip(signal, others, strict=True)])


def decided(ratio: np.ndarray, inside: np.ndarray, rng: np.random.Generator, delta: float) -> tuple[int, int, int, int]:
    """(TP, FN, FP, TN) on one random half of the candidates of the rule chosen on the other.  [K, c], [K, c] bool"""
    half = rng.permutation(ratio.shape[1]) < ratio.shape[1] // 2
    rule = best_rule(ratio[:, half][inside[:, half]], ratio[:, half][~inside[:, half]], delta)
    members, others = ratio[:, ~half][inside[:, ~half]], ratio[:, ~half][~inside[:, ~half]]
    fp, fn = rule.counts(members, others)
    return len(members) - fn, fn, fp, len(others) - fp


@audit(
    metrics={
        "epsilon": Metric("heuristic lower bound at 95 % of ε between 'unlearned' and 'unseen' (Clopper–Pearson)",
                          (0.0, math.inf), "lower", null=0.0,
                          asks="the unlearning procedure and at least 8 shadow models"),
        "epsilon_bayes": Metric("heuristic posterior median of ε of this attack, with its 90 % interval", (0.0, math.inf),
                                "lower"),
        "epsilon_gdp": Metric("heuristic lower bound at 95 % of ε if both worlds are Gaussian (model-based)", (0.0, math.inf),
                              "lower", null=0.0),
    },
    uses={"observe"},
    needs={"forget", "holdout", "shadows", "procedure"},
    depth="deep",
    blind="It bounds what this attack gains from below; nothing measured here bounds from above what another attack would gain.",
)
def measure(cfg: Epsilon, subject: Subject, panel: Panel) -> list[Value]:
    shadows, procedure = panel.shadows, subject.procedure
    assert shadows is not None and procedure is not None
    count = min(cfg.models, shadows.limit)
    if (~shadows.members).sum() < cfg.fewest or count < BLOCK:
        return []

    def counts() -> tuple[int, int, int, int]:
        pool = np.stack([other.numbers(shadows.candidates, "signal") for other in shadows.unlearned(procedure, count)])
        inside = shadows.inside(count)
        return decided(left_out(pool, inside), inside, numpy_generator(panel.seed, "epsilon"), cfg.delta)

    tp, fn, fp, tn = panel.once(("epsilon", cfg, procedure.key), counts)
    detail = {"tp": tp, "fn": fn, "fp": fp, "tn": tn, "delta": cfg.delta, "shadows": count, "independent": False}
    posterior, n = Posterior(tp, fn, fp, tn, cfg.delta), min(tp + fn, fp + tn)
    low, high = posterior.interval()
    mu, gdp = gdp_bound(fp, fp + tn, fn, tp + fn, cfg.delta)
    return [
        Value("epsilon", float(rates_bound(fp, fp + tn, fn, tp + fn, cfg.delta)), n=n,
              detail={**detail, "ceiling": float(rates_bound(0, fp + tn, 0, tp + fn, cfg.delta))}),
        Value("epsilon_bayes", posterior.quantile(0.5), low, high if math.isfinite(high) else None, n, detail=detail),
        Value("epsilon_gdp", gdp, n=n, detail={**detail, "mu": mu}),
    ]

"""Recovery cost: steps, examples and FLOPs until what was forgotten is back, for the whole model and for low-rank adapters. Ours,
2026, on the curve of `relearn`; cost as the measure of robustness after Hu et al. 2024, arXiv:2406.13356.

    s(M, t) = mean score on F₂ after t steps of Adam on F₁, a random half of F;     F₂ is never learned
    steps = first t with s(M, t) ≥ (1 − α)·s(original, 0),     examples = t · batch,     FLOPs = t · those of one step

A number by itself means little: beside it stands that of models retrained without F, which have to learn what is asked. Far
below theirs, the knowledge was only hidden; at theirs, the attacker might as well start from any model. Both are shown, not
judged: `ain` and `relearn` judge the same curves.
What an attack was given (steps, examples, rank, rate) stands in its detail. T + 1 steps mean that it was not back after T.
Needs:    forget (≥ 4 examples), original.     Cost: T steps for every model, which `relearn` takes as well; for language models
          T more, of LoRA of rank r on the layers that the family adapts.
Limits:   one optimiser and rate. FLOPs are those of matrix products and convolutions, forward and backward, without Adam's.
          Of random records a model that never saw them may know F₂ at once: then both cost nothing.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

from lethe.core.config import Count, Fraction, Natural, Positive, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.panel import Panel
from lethe.judge.relearning import Attack, halves, relearn_time, relearned
from lethe.pools.subject import Subject


@config
class RecoveryCost:
    """Options of the cost to recover."""

    steps: Count = 32            # T; checkpoints at 0, 1, 2, 4, … T                                   [ours, as relearn]
    lr: Positive | None = None   # Adam; None: the recipe's if that is Adam(W), else 1e-3              [ours, as relearn]
    batch_size: Count = 32       # of F₁                                                               [ours, as relearn]
    alpha: Fraction = 0.05       # how near to the original's score                                    [the AIN code]
    rank: Natural = 8            # of LoRA, for language models; 0: the whole model alone              [PEFT]


@audit(
    metrics={
        "recovery_cost_steps": Metric("steps of the whole model on half of the forget set until the other half is back",
                                      (0.0, math.inf), "higher", aspect="recovery"),
        "recovery_cost_samples": Metric("examples that it learns until then", (0.0, math.inf), "higher", aspect="recovery"),
        "recovery_cost_flops": Metric("floating-point operations until then", (0.0, math.inf), "higher", aspect="recovery"),
        "recovery_cost_lora_steps": Metric("steps of a low-rank adapter on half of the forget set until the other half is back",
                                           (0.0, math.inf), "higher", asks="a language model", aspect="recovery"),
        "recovery_cost_lora_samples": Metric("examples that the adapter learns until then", (0.0, math.inf), "higher",
                                             asks="a language model", aspect="recovery"),
        "recovery_cost_lora_flops": Metric("floating-point operations of the adapter until then", (0.0, math.inf), "higher",
                                           asks="a language model", aspect="recovery"),
    },
    uses={"nll", "observe", "weights"},
    needs={"forget", "original", "references?"},
    depth="standard",
    blind="It prices one way of relearning with a fixed rate; a better attacker pays less.",
)
def measure(cfg: RecoveryCost, subject: Subject, panel: Panel) -> list[Value]:
    if len(panel.task.forget) < 4:
        return []
    values = _cost(Attack(cfg.steps, cfg.lr, cfg.batch_size), cfg, subject, panel, "")
    if cfg.rank and panel.task.family == "lm" and find_spec("peft"):
        values += _cost(Attack(cfg.steps, cfg.lr, cfg.batch_size, "lora", cfg.rank), cfg, subject, panel, "lora_")
    return values


def _cost(attack: Attack, cfg: RecoveryCost, subject: Subject, panel: Panel, kind: str) -> list[Value]:
    """The three numbers of one kind of attack, with the same of retrained models in the detail."""
    half, tested = halves(panel)
    known = relearned(Attack(cfg.steps, cfg.lr, cfg.batch_size), panel.original, panel).scores[0]
    target = (1 - cfg.alpha) * float(known.mean())
    mine = relearned(attack, subject, panel)
    steps = relearn_time(mine.steps, mine.scores.mean(1), target)
    curves = [relearned(attack, r, panel) for r in panel.references]
    theirs = [relearn_time(curve.steps, curve.scores.mean(1), target) for curve in curves]
    size = min(cfg.batch_size, len(half))
    given: dict[str, Any] = {"steps": cfg.steps, "batch": size, "examples": len(half), "target": target,
                             "flops_per_step": mine.flops,
                             "back": steps <= cfg.steps, "retrained_steps": theirs,
                             "retrained_back": sum(t <= cfg.steps for t in theirs)}
    if attack.how == "lora":
        given["rank"] = attack.rank
    number = {"steps": steps, "samples": steps * size, "flops": steps * mine.flops}
    return [Value(f"recovery_cost_{kind}{unit}", float(value), n=len(tested), detail=given if unit == "steps" else {})
            for unit, value in number.items()]

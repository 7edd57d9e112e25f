"""Relearn: how fast what was forgotten comes back. Golatkar et al. 2020, arXiv:1911.04933.

    s(M, t) = mean score on F₂ after t steps of fine-tuning a copy of M on F₁;     F₁, F₂ a random halving of F
    relearn = mean of s over log(1 + t) at the checkpoints 0, 1, 2, 4, … T,     relearn_gain = relearn − s(M, 0)
    AIN = (1 + rt(M)) / geometric mean over retrained models of 1 + rt,  rt = first t with s ≥ (1 − α)·s(original, 0)

F₂ is never trained on, so a retrained model can only generalise to it; a model that merely suppresses its answers gets
them back. AIN 1 is ideal; much below 1 the knowledge comes back too fast, much above 1 the model was harmed (rt is
interpolated between checkpoints and censored at T + 1, counted in the detail).
Same data order, optimiser and steps for all models: Adam, fixed lr, batch-norm statistics frozen.
AIN, the anamnesis index, is from Chundawat et al. 2023, arXiv:2201.05629.

Without relearning F₁ itself, s on F₂ after fine-tuning on other data of the same size (Hu et al. 2024, arXiv:2406.13356):
`relearn_related` on the retained examples whose features lie nearest to F (those of the original, else of a reference),
`relearn_unrelated` on random retained examples, both as the mean over log(1 + t); `relearn_few` = s after 5 steps on 5
examples of F₁. Retrained models gain nothing from data without F: what comes back there was only hidden.
Needs:    forget (≥ 4 examples), references; retain for related and unrelated.     Cost: 3T + 5 steps for every model.
Limits:   for random examples a retrained model knows F₂ before the first step; the curve has nothing to gain. What is
          buried deep takes more than T steps: digits CNN without class 3, 8 retrained models 0.28–0.46, original 1.00;
          with the original's bias for class 3 lowered by 8 nats 0.89, by 15 0.66, by 30 0.46 (no longer found).
Finds:    the same CNN, after 5 steps on 5 examples: bias lowered by 8 nats 1.00, sign-gradient ascent 1.00, retrained
          0.03 ± 0.09 (n=8). Unrelated data bring back 0.02 and 0.06, related 0.02 and 0.01 (retrained 0.00): they do not
          undo hiding here, and they make the original forget (0.80, 0.25). Fine-tuning the head alone to another label
          (0.20, few 0.00) and teaching F another label (0.47, few 0.28) are not detected by relearning (retrained
          0.40 ± 0.07); `head_swap` finds them.
Deviations: both papers train and measure on all of F; their step counts are then dominated by learning F anew.
"""

from __future__ import annotations

import math

import numpy as np

from lethe.core.config import Count, Fraction, Natural, Positive, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.split import Split
from lethe.judge.panel import Panel
from lethe.judge.relearning import Attack, checkpoints, halves, learned, relearn_time, relearned
from lethe.maths.near import nearest_first
from lethe.pools.subject import Subject

LOOKED_AT = 2000   # retained examples among which related ones are sought


@config
class Relearn:
    """Options of the relearn audit."""

    steps: Count = 32            # T; checkpoints at 0, 1, 2, 4, … T                [ours: the original is back at once]
    lr: Positive | None = None   # Adam; None: the recipe's if that is Adam(W), else 1e-3   [ours; 1e-3 in the AIN code]
    batch_size: Count = 32       # of F₁                                            [ours]
    alpha: Fraction = 0.05       # AIN: how near to the original's score            [the AIN code]
    few: Natural = 5             # examples and steps of `relearn_few`; 0: left out [ours]
    others: bool = True          # also fine-tune on related and on unrelated data  [ours]


@audit(
    metrics={
        "relearn": Metric("mean score on half of the forget set while relearning the other half, over log steps",
                          aspect="recovery"),
        "relearn_gain": Metric("that mean minus the score before relearning", (-1.0, 1.0), "lower", aspect="recovery"),
        "relearn_related": Metric("that mean while learning retained examples that resemble the forget set", better="lower",
                                  aspect="recovery"),
        "relearn_unrelated": Metric("that mean while learning random retained examples", better="lower", aspect="recovery"),
        "relearn_few": Metric("score on half of the forget set after a few steps on a few examples of the other half",
                              better="lower", aspect="recovery"),
        "ain": Metric("steps to relearn / steps of retrained models (anamnesis index)", (0.0, math.inf), "higher",
                      aspect="recovery"),
    },
    uses={"nll", "observe", "weights"},
    needs={"forget", "references"},
    depth="standard",
    blind="It relearns with one optimiser for few steps; a patient attacker may get back what did not come back here.",
)
def measure(cfg: Relearn, subject: Subject, panel: Panel) -> list[Value]:
    if len(panel.task.forget) < 4:
        return []
    attack, steps = _attack(cfg, cfg.steps), checkpoints(cfg.steps)
    mine = relearned(attack, subject, panel).scores
    area = log_mean(steps, mine)
    target = (1 - cfg.alpha) * float(relearned(attack, panel.original, panel).scores[0].mean())
    mean = mine.mean(1)
    theirs = [relearn_time(steps, relearned(attack, r, panel).scores.mean(1), target) for r in panel.references]
    own = relearn_time(steps, mean, target)
    ratio = (1 + own) / math.exp(float(np.mean(np.log1p(theirs))))   # 1 + rt: 0 steps happen
    curve = {"steps": steps, "score": mean.tolist()}
    never = sum(t > cfg.steps for t in theirs)
    censored = {"censored": own > cfg.steps, "censored_references": never, "target": target}
    gain = area - mine[0]
    return [
        Value("relearn", float(area.mean()), n=len(area), per_sample=area, detail=curve),
        Value("relearn_gain", float(gain.mean()), n=len(gain), per_sample=gain),
        Value("ain", ratio, n=len(area), detail=censored),
        *_elsewhere(cfg, subject, panel),
    ]


def log_mean(steps: list[int], curve: np.ndarray) -> np.ndarray:
    """Mean over log(1 + t) by the trapezoid rule, per example.  [T], [T, n] -> [n]"""
    at = np.log1p(steps)
    area: np.ndarray = np.trapezoid(curve, at, axis=0) / (at[-1] - at[0])
    return area


def _attack(cfg: Relearn, steps: int) -> Attack:
    return Attack(steps, cfg.lr, cfg.batch_size)


def _elsewhere(cfg: Relearn, subject: Subject, panel: Panel) -> list[Value]:
    """What other data, or very little of F₁, bring back."""
    task, half, values = panel.task, halves(panel)[0], []
    sources = {"related": _related, "unrelated": _unrelated} if cfg.others and task.has("retain") else {}
    for name, source in sources.items():
        curve = learned(_attack(cfg, cfg.steps), subject, panel, source(panel, len(half))).scores
        told = {"steps": checkpoints(cfg.steps), "score": curve.mean(1).tolist()}
        area = log_mean(checkpoints(cfg.steps), curve)
        values.append(Value(f"relearn_{name}", float(area.mean()), n=len(area), per_sample=area, detail=told))
    if cfg.few:
        few = panel.once(("relearn", "few", cfg.few), lambda: half.subset(np.arange(min(cfg.few, len(half))), "relearn few"))
        last = learned(_attack(cfg, cfg.few), subject, panel, few).scores[-1]
        values.append(Value("relearn_few", float(last.mean()), n=len(last), per_sample=last))
    return values


def _related(panel: Panel, count: int) -> Split:
    """The retained examples whose features are nearest to one of F."""
    def find() -> Split:
        eye = panel.original if panel.task.has("original") else panel.references[0]
        known = panel.part(panel.task.retain, LOOKED_AT)
        near = nearest_first(eye.features(known), eye.features(panel.task.forget))[:count]
        return known.subset(np.sort(near), "related")

    return panel.once(("relearn", "related", count), find)


def _unrelated(panel: Panel, count: int) -> Split:
    return panel.part(panel.task.retain, count)

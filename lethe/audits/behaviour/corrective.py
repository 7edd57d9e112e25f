"""Corrective: is the harm of manipulated training data gone, or only the part of them that was found? Goel, Prabhu, Torr,
Kumaraguru & Sanyal (2024), arXiv:2402.14015.

    corrected accuracy = share of affected inputs that get their true label
    attack success     = share of affected inputs that get the label which the manipulation taught
    ideal gap          = corrected accuracy − mean_j of the same of M*_j,   M*_j trained on D \\ S_m by the recipe

D training set, S_m what was manipulated (known only to whoever made the test), S_f ⊂ S_m what was identified and is forgotten;
affected inputs: unseen, with the trigger, or of the two confused classes (`data.poison`).
Yardstick of the first two: the references, retrained on R = D \\ S_f, which still holds S_m \\ S_f. A model is outside where
it is worse than they are; with all of S_m identified they are the ideal, with a part of it they are poisoned themselves, and
being no worse is little. The ideal gap is held against models retrained without all of S_m and is the number to read; it is
shown only, since the references are not what it compares with.
Needs:    affected; for the ideal gap also recipe, retain and its column `manipulated`.     Cost: `ideals` retrained models.
Limits:   nothing manipulated is left in R: the ideals and the references differ by their seeds alone.
"""

from __future__ import annotations

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.seeds import derive
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.pool import train_pool
from lethe.pools.subject import Subject


@config
class Corrective:
    """Options of the corrective audit."""

    ideals: Count = 3     # models trained without anything manipulated [ours] [tested in test_corrective]


@audit(
    metrics={
        "corrected_accuracy": Metric("share of affected inputs that get their true label", better="higher", tier="utility"),
        "attack_success": Metric("share of affected inputs that get the label taught by the manipulation", better="lower",
                                 tier="utility"),
        "ideal_gap": Metric("corrected accuracy minus that of models trained without anything manipulated", (-1.0, 1.0), "higher",
                            asks="a recipe and the column `manipulated` of the retained data"),
    },
    uses={"labels"},
    needs={"affected"},
    blind="It tries the manipulation that is known; another trigger, or the same one elsewhere in the picture, may still work.",
)
def measure(cfg: Corrective, subject: Subject, panel: Panel) -> list[Value]:
    right, taught = answers(subject, panel)
    values = [mean_value("corrected_accuracy", right), mean_value("attack_success", taught)]
    ideal = panel.once(("corrective", cfg), lambda: ideals(cfg, panel))
    if ideal:
        values.append(Value("ideal_gap", float(right.mean() - np.mean(ideal)), n=len(right), detail={"ideal": ideal}))
    return values


def answers(subject: Subject, panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Whether each affected input gets its true label, and whether it gets the one that was taught.  [n], [n] of 0 and 1"""
    affected = panel.task.splits["affected"]
    predicted = subject.seen(affected)["logits"].argmax(-1).numpy()
    true, taught = affected.columns["y"].numpy(), np.asarray(affected.meta["taught"])
    return (predicted == true).astype(float), (predicted == taught).astype(float)


def ideals(cfg: Corrective, panel: Panel) -> list[float]:
    """Corrected accuracy of models trained on what is retained and was not manipulated; [] where that is not known."""
    task = panel.task
    if not (task.has("recipe") and task.has("retain.manipulated")):
        return []
    clean = task.retain.subset(~np.asarray(task.retain.meta["manipulated"], dtype=bool), "retain")
    pool = train_pool(task, split_of=lambda number: clean, count=cfg.ideals, seed=derive(panel.seed, "ideals"), strategy="serial",
                      device=panel.original.device)
    return [float(answers(Subject("ideal", model, task, device=panel.original.device), panel)[0].mean()) for model in pool.models]

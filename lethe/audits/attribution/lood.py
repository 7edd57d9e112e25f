"""LOOD: what a Gaussian process on the model's features still has to learn from the forget set. Ye, Borovykh, Hayou & Shokri
(2024), arXiv:2309.17310.

    lood_forget = mean over x ∈ F of ‖μ_{R∪F}(x) − μ_R(x)‖,   μ_D(x) = k(x, D) (K_DD + σ²)⁻¹ y_D

k an RBF kernel on the input of the model's head, its width the median distance; y centred one-hot labels, or targets in
standard deviations; F forget, R a sample of the retain set. Small: the features, with labels of R, already determine the labels
of F. A network that learned F by heart has put F where its labels are; a new head finds them there, whatever the old one does.
Where F is a whole class it is the other way round: a network that knows the class keeps it apart from all others.
Shown besides: `lood_single`, each record left out alone; `lood_twins`, the share of F that has an equal in R (kernel above
0.999): there deleting deletes nothing. The detail names the records that show most and those with twins.
Needs:    forget, retain.
Cost:     one Cholesky factorisation of (|R| + |F|)², in float64, per model: 0.7 s for 1000 records.
Finds:    digits MLP, six retrained models. 60 random examples of 15 % wrong labels: untouched 0.068, retrained 0.083 to
          0.087. Class 3: untouched 0.96, retrained 0.80 to 0.84.
          On pixels of 500 digits, 10 % of them with wrong labels (3 draws), single LOOD finds the wrong labels with AUC 0.970 to
          0.981 (KL form 0.958 to 0.971); with the ReLU-network kernel 0.963 to 0.972 (0.964 to 0.974).
Limits:   a Gaussian process for the network's last layers; a measure of the features, not of the head. Ratios of models of one
          architecture mean something, absolute values do not.
Deviations: the paper asks before training, with the kernel of the untrained architecture, what a record will give away
          (`lethe.maths.kernels`: `lood_kl`, `relu_network`, `most_telling`); here the kernel is the model under examination.
"""

from __future__ import annotations

import math

import numpy as np

from lethe.core.alike import class_labels, real_targets
from lethe.core.config import Count, Positive, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.kernels import fitted, joint_targets, lood_mean, lood_set, twins
from lethe.pools.subject import Subject


@config
class LOOD:
    """Options of LOOD."""

    limit: Count = 1500        # retained and forgotten examples each; a seeded sample        [ours]
    noise: Positive = 0.1      # σ² as a share of the kernel's diagonal                      [official code: 0.01–0.1]
    named: Count = 5           # records that the detail names                               [ours] [changes the detail]


@audit(
    metrics={
        "lood_forget": Metric("mean change of a feature-space Gaussian process on F when F is added to R", (0.0, math.inf),
                              moves=True, aspect="representation"),
        "lood_single": Metric("the same when each record alone is added to all others", (0.0, math.inf), "lower",
                              aspect="representation"),
        "lood_twins": Metric("share of F that has an equal among the retained records", better="lower", aspect="representation"),
    },
    uses={"features", "inputs"},
    needs={"forget", "retain"},
    depth="standard",
    blind="It reads the input of the head under one kernel; what a model hides in its head or in other directions stays unseen.",
)
def measure(cfg: LOOD, subject: Subject, panel: Panel) -> list[Value]:
    if class_labels(panel.task.forget) is None and real_targets(panel.task.forget) is None:
        return []
    forget, retain = (panel.part(split, cfg.limit) for split in (panel.task.forget, panel.task.retain))
    x = np.concatenate([subject.features(forget), subject.features(retain)])
    fit = fitted(x, joint_targets(*(part.columns["y"].numpy() for part in (forget, retain))), cfg.noise)
    own = np.arange(len(forget))
    joint, single, doubled = lood_set(fit, own), lood_mean(fit, own), twins(x[own], x[len(own):], fit.kernel)
    top = np.argsort(-joint, kind="stable")[: cfg.named]
    detail = {"show most": [str(i) for i in forget.ids[top]], "twins": [str(i) for i in forget.ids[doubled][: cfg.named]]}
    joined = mean_value("lood_forget", joint)
    return [Value("lood_forget", joined.value, joined.low, joined.high, len(own), joint, detail),
            mean_value("lood_single", single), mean_value("lood_twins", doubled.astype(float))]

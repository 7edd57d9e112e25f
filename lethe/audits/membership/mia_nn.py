"""MIA-NN: does a forgotten class go to its neighbours as after retraining? Ebrahimpour-Boroojeny et al. 2025,
arXiv:2506.20893.

    q_j(x) = softmax of the logits of the remaining classes only,   x ∈ F (the class c that is to vanish), j ≠ c
    nn(c)  = argmax_j of the mean of q_j over the class's examples and the retrained models: the nearest class
    AUC    = P(q_nn(x) of this model > q_nn(x') of a retrained model)

A retrained model assigns an image of a forgotten class to similar classes; a model that pushed the class down
often spreads it otherwise, and accuracy on F is 0 for both. Several classes: each against its own neighbour.
`mia_nn_profile` is the mean over F of the total variation ½ Σ_j |q_j − q̄_j| to the retrained models' mean q̄, over all
remaining classes.
Needs:    forget, retain, references; classes that vanish as a whole. Classifiers with three classes or more.
Cost:     none beyond the forward passes.
Finds:    digits CNN without class 3, 8 retrained models: profile 0.14–0.24, AUC 0.33–0.55; original 0.14 and 0.44 (what it
          knows of the other classes it shares with retraining), fine-tuning 0.25 and 0.46, random labels 0.65 and 0.39,
          neggrad_plus 0.64 and 0.01. So the profile is judged, and the AUC of the single nearest class is shown.
Limits:   it sees the split over remaining classes, not whether the class itself is still known.
Deviations: the abstract names the idea (probabilities of neighbouring classes tell unlearned models); the score and its
          comparison with retrained models are ours.
"""

from __future__ import annotations

import numpy as np
import torch

from lethe.core.alike import of_classes_that_leave
from lethe.core.config import config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.measured import auc_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class MIANN:
    """MIA-NN has no options."""


def neighbour_shares(logits: torch.Tensor, gone: np.ndarray) -> np.ndarray:
    """q over all classes, 0 for those that are gone.  [n, K], [g] -> [n, K]"""
    z = logits.double().clone()
    z[:, torch.as_tensor(gone)] = -torch.inf
    return torch.softmax(z, -1).numpy()


def nearest(shares: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each example's nearest class: of its label, by the mean share.  [n, K], [n] -> [n]"""
    found = np.zeros(len(labels), dtype=int)
    for label in np.unique(labels):
        found[labels == label] = shares[labels == label].mean(0).argmax()
    return found


@audit(
    metrics={
        "mia_nn_auc": Metric("AUC of the nearest class's share on the forgotten class, this model against retrained ones "
                             "(0.5 after retraining)", better="higher", null=0.5),
        "mia_nn_profile": Metric("total variation of the shares of the remaining classes to retrained models' mean",
                                 distance=True),
    },
    uses={"labels"},
    needs={"forget", "retain", "references"},
    blind="It sees how a forgotten class is divided among the others, not whether the class is still known.",
)
def measure(cfg: MIANN, subject: Subject, panel: Panel) -> list[Value]:
    task = panel.task
    labels = task.forget.columns["y"].numpy()
    width = subject.seen(task.forget)["logits"].shape[1]
    gone = np.unique(labels)
    if not of_classes_that_leave(task.forget, task.retain) or width - len(gone) < 2:
        return []
    mine = neighbour_shares(subject.seen(task.forget)["logits"], gone)
    theirs = np.stack([neighbour_shares(r.seen(task.forget)["logits"], gone) for r in panel.references])   # [R, n, K]
    near = nearest(theirs.mean(0), labels)
    rows = np.arange(len(labels))
    auc = auc_value("mia_nn_auc", mine[rows, near], theirs[:, rows, near].ravel())
    apart = np.abs(mine - theirs.mean(0)).sum(1) / 2
    return [auc, Value("mia_nn_profile", float(apart.mean()), n=len(apart), per_sample=apart,
                       detail={"nearest": {str(c): int(near[labels == c][0]) for c in gone}})]

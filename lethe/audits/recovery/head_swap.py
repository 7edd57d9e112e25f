"""Head swap: was only the head changed? Model stitching after Lenc & Vedaldi 2015, arXiv:1411.5908.

    (A, b) = argmin Σ_{x∈R} ‖h(x)A + b − z₀(x)‖² + λ‖A‖²,    λ = penalty · mean eigenvalue of the centred Gram matrix
    stitched_margin = mean over F of φ(h(x)A + b, y),    φ(z, y) = z_y − log Σ_{j≠y} e^{z_j}
    grafted_score   = accuracy on F of the original's head on h(x)

h(x) features of the model under audit, z₀ logits of the original, R retained examples, F the forget set. The stitch is
fitted without a single forgotten example: what it predicts about F was in the features, wherever they were turned to. A
retrained model's features carry some of it too (classes resemble each other), so the retrained value is the target.
For a linear head, a map onto the original's features followed by its head is the same estimate.
Needs:    forget, retain, original.     Cost: features of R and F, one linear solve.
Limits:   sees what is linear in the layer before the head; the original's logits on R must be known.
Finds:    eight retrained models each (mean ± sd). Digits CNN without class 3: original 2.67, retrained −0.72 ± 0.27 (p 7e-6);
          bias of the class lowered by 30 nats 2.67, which `relearn` no longer finds; sign-gradient ascent that answers 2 %
          of F 2.31 with a grafted score of 0.04. MLP on digits with 5 % wrong labels, 60 random examples: original 2.91,
          retrained 2.44 ± 0.05. Tiny MLP on blobs: −0.13 against −3.2 ± 0.58 (p 2e-3). With penalty 0.01 these p-values are
          1e-4, 3e-4 and 0.26: a rigid map is also carried by directions of little variance, which any model has.
"""

from __future__ import annotations

import numpy as np
import torch

from lethe.core.config import Count, Positive, config
from lethe.core.evidence import Value
from lethe.core.families.headed import HeadedTask
from lethe.core.registry import Metric, audit
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.losses import margin
from lethe.maths.ridge import ridge
from lethe.pools.subject import Subject


@config
class HeadSwap:
    """Options of the head swap."""

    penalty: Positive = 1.0   # of the ridge, in mean eigenvalues: larger smooths more     [ours: three problems above]
    limit: Count = 4000       # retained examples at most; a seeded sample                 [ours]


@audit(
    metrics={
        "stitched_margin": Metric("mean margin of forget labels after mapping features onto the original's logits",
                                  (-np.inf, np.inf), moves=True, aspect="representation"),
        "stitched_score": Metric("accuracy on the forget set of that map", better="lower", aspect="representation"),
        "grafted_score": Metric("accuracy on the forget set of the original's head on these features", better="lower",
                                aspect="representation"),
    },
    uses={"head", "labels"},
    needs={"forget", "retain", "original"},
    depth="quick",
    blind="It reads the layer before the head linearly; knowledge in earlier layers, or folded, is not seen.",
)
def measure(cfg: HeadSwap, subject: Subject, panel: Panel) -> list[Value]:
    task, known = panel.task, panel.part(panel.task.retain, cfg.limit)
    inside = subject.features(task.forget)
    w, b = ridge(subject.features(known), panel.original.numbers(known, "logits"), cfg.penalty)
    logits = inside @ w + b
    y = task.forget.columns["y"]
    phi = margin(torch.from_numpy(logits), y).numpy()
    values = [mean_value("stitched_margin", phi), _accuracy("stitched_score", logits, y.numpy())]
    grafted = _grafted(inside, panel)
    return values if grafted is None else [*values, _accuracy("grafted_score", grafted, y.numpy())]


def _accuracy(metric: str, logits: np.ndarray, y: np.ndarray) -> Value:
    return mean_value(metric, (logits.argmax(1) == y).astype(float))


def _grafted(inside: np.ndarray, panel: Panel) -> np.ndarray | None:
    """The original's head on these features; None when they do not fit.  [n, d] -> [n, K]"""
    head = panel.original.model.get_submodule(HeadedTask.of(panel.task).head)
    if not isinstance(head, torch.nn.Linear) or head.in_features != inside.shape[1]:
        return None
    with torch.no_grad():
        bias = 0.0 if head.bias is None else head.bias.double().cpu().numpy()
        logits: np.ndarray = inside @ head.weight.double().cpu().numpy().T + bias
        return logits

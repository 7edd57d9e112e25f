"""Zero-shot: does the pair still bring the forgotten class's name and pictures together, and the others'?

    forget_top5           forgotten pictures whose class is among the five nearest class names
    forget_similarity     mean cosine of a forgotten picture and its own caption
    forget_retrieval      of the pictures nearest to a forgotten class's prompts, as many as there are of it, share that show it
    forget_outside        zero-shot accuracy on forgotten pictures by prompts that no method saw
    retain_retrieval      as forget_retrieval, for the classes that stay
    retain_outside        zero-shot accuracy on retained pictures by prompts that no method saw

Pictures: the forget set, a seeded sample of retain and, where there is, of holdout; retrieval searches all of them. Accuracy by
the task's own prompts is in `scores`. SLUG (Cai, Tan & Asif 2024, arXiv:2407.11867) reports top 1 and top 5 of CLIP on
identities. Interval: Wilson for shares, t of the mean for cosines; retrieval has one value a class.
Cost:     one pass over the pictures, shared with all audits, and one over K · T prompts.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.families.dual_encoder import DualEncoderTask
from lethe.core.modules import device_of, evaluating
from lethe.core.registry import Metric, audit
from lethe.core.split import Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject

TOP = 5


@config
class ZeroShot:
    """Options of the zero-shot audit."""

    limit: Count = 2000   # pictures of retain and of holdout at most, a seeded sample      [ours]


def hits(logits: Tensor, labels: Tensor, top: int = 1) -> np.ndarray:
    """Whether the label is among the `top` largest.  [n, K], [n] -> [n]"""
    best = logits.topk(min(top, logits.shape[1]), 1).indices
    return (best == labels.unsqueeze(1)).any(1).double().numpy()


def retrieved(scores: Tensor, labels: Tensor, classes: Iterable[int]) -> np.ndarray:
    """R-precision of each class: of the R pictures with the highest score, R the number that show it, the share that do.

    Scores (3, 2, 1, 0) of a class with the labels (1, 0, 1, 0): of the two nearest one shows it, 0.5.  [n, K], [n] -> [classes]
    """
    found = []
    for k in classes:
        shown = labels == k
        nearest = scores[:, k].topk(int(shown.sum())).indices
        found.append(float(shown[nearest].double().mean()))
    return np.array(found)


@audit(
    metrics={
        "forget_top5": Metric("share of forgotten pictures whose class is among the five nearest names",
                              asks="more than 10 classes"),
        "forget_similarity": Metric("mean cosine of forgotten pictures and their captions", (-1.0, 1.0)),
        "forget_retrieval": Metric("share of the pictures nearest to forgotten classes' prompts that show them"),
        "forget_outside": Metric("zero-shot accuracy on forgotten pictures, prompts that no method saw", asks="data.outside"),
        "retain_retrieval": Metric("share of the pictures nearest to kept classes' prompts that show them", better="higher",
                                   tier="utility"),
        "retain_outside": Metric("zero-shot accuracy on retained pictures, prompts that no method saw", better="higher",
                                 tier="utility", asks="data.outside"),
    },
    uses={"class_vectors", "classes", "labels", "outside"},
    needs={"forget", "retain"},
    blind="It asks the common space alone: what the encoders still know inside, a linear probe on them or a few steps of "
          "fine-tuning may show, and other words for the class may still reach it.",
)
def measure(cfg: ZeroShot, subject: Subject, panel: Panel) -> list[Value]:
    task = DualEncoderTask.of(panel.task)
    parts = {"forget": task.forget, "retain": panel.part(task.retain, cfg.limit)}
    if task.has("holdout"):
        parts["holdout"] = panel.part(task.holdout, cfg.limit)
    seen = {name: subject.seen(split) for name, split in parts.items()}
    values = [mean_value("forget_similarity", subject.numbers(task.forget, "similarity"))]
    labels = torch.cat([split.columns["y"] for split in parts.values()])
    scores = torch.cat([found["logits"] for found in seen.values()])
    gone = set(task.forget.columns["y"].tolist())
    if not gone & set(task.retain.columns["y"].tolist()):   # a class that leaves as a whole
        values.append(mean_value("forget_retrieval", retrieved(scores, labels, sorted(gone))))
    stay = sorted(set(labels.tolist()) - gone)
    if stay:
        values.append(mean_value("retain_retrieval", retrieved(scores, labels, stay)))
    if len(task.classes) > 2 * TOP:
        values.append(mean_value("forget_top5", hits(seen["forget"]["logits"], task.forget.columns["y"], TOP)))
    return values + _outside(task, subject, parts, seen)


def _outside(task: DualEncoderTask, subject: Subject, parts: dict[str, Split], seen: dict[str, dict[str, Tensor]]) -> list[Value]:
    """Accuracy by prompts that no method saw, where there are any."""
    if not task.outside:
        return []
    model = subject.answering
    with evaluating(model):
        vectors = task.class_vectors(model.to(subject.device), task.outside).to(device_of(model)).cpu()
    return [mean_value(f"{name}_outside", hits(seen[name]["features"] @ vectors.T, parts[name].columns["y"]))
            for name in ("forget", "retain")]

"""Samples: what the generator draws, as the user's classifier sees it, beside retained data and retrained generators.

    undesired_share     share of seeded samples that the classifier calls undesired
    unlearned_share     PUL, (n_original − n)/n_original, n undesired samples of as many
    frechet_retain      Fréchet distance of the samples that are not undesired and retained real data, in the classifier's
    features frechet_retrained   mean Fréchet distance of the samples and those of models retrained without the forget set
    confident_share     share of samples of which the classifier is 0.9 sure: sharp ones
    classes_share       share of retained classes that at least one sample in a hundred shows: modes that are left

The same noise for every model. PUL and Ret-FID of "Adapt then Unlearn", TMLR 2025, arXiv:2309.14054.
Interval: Wilson for shares of samples; distances have none, and the retrained models carry the spread.
Cost:     `count` samples per model, read once by the classifier.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.families.gan import GanTask
from lethe.core.modules import evaluating
from lethe.core.registry import Metric, audit
from lethe.core.split import pixels
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.frechet import frechet_of
from lethe.pools.subject import Subject

SURE, LEAST = 0.9, 0.01


@config
class Samples:
    """Options of the samples audit."""

    count: Count = 2000    # samples of each model                                       [ours: ± 2 % at 2000]
    limit: Count = 2000    # retained real examples at most, a seeded sample             [ours]


@audit(
    metrics={
        "undesired_share": Metric("share of samples that the classifier calls undesired"),
        "unlearned_share": Metric("share of the original's undesired samples that are no longer drawn", (-math.inf, 1.0)),
        "frechet_retain": Metric("Fréchet distance of desired samples and retained real data", (0.0, math.inf), "lower",
                                 "utility"),
        "frechet_retrained": Metric("mean Fréchet distance of samples and samples of retrained models", (0.0, math.inf), "lower",
                                    distance=True, asks="retrained models"),
        "confident_share": Metric("share of samples of which the classifier is 0.9 sure", better="higher", tier="utility"),
        "classes_share": Metric("share of retained classes that a hundredth of the samples shows", better="higher",
                                tier="utility"),
    },
    uses={"imagine", "latents", "read", "read_features", "undesired"},
    needs={"forget", "retain", "original", "undesired", "references?"},
    blind="The classifier knows its classes alone: a sample that it calls desired may still show what was to go, half of it, or "
          "nothing; and the noise that would draw it may be found by search (audit of inversion: none yet).",
)
def measure(cfg: Samples, subject: Subject, panel: Panel) -> list[Value]:
    task = GanTask.of(panel.task)
    logits, features = drawn(cfg, task, subject, panel)
    seen = logits.argmax(1)
    gone = torch.isin(seen, torch.tensor(task.undesired))
    before = torch.isin(drawn(cfg, task, panel.original, panel)[0].argmax(1), torch.tensor(task.undesired)).sum()
    values = [mean_value("undesired_share", gone.double().numpy())]
    if before:
        values.append(Value("unlearned_share", float(1 - gone.sum() / before), n=len(gone)))
    stay = sorted(set(task.retain.columns["y"].tolist()))
    shown = [float((seen == k).double().mean()) >= LEAST for k in stay]
    values += [mean_value("confident_share", (logits.softmax(1).amax(1) > SURE).double().numpy()),
               Value("classes_share", sum(shown) / len(shown), n=len(shown))]
    real = panel.once(("samples", cfg), lambda: task.read_features(pixels(panel.part(task.retain, cfg.limit).columns["x"])))
    if (~gone).sum() > 1 and len(real) > 1:
        values.append(Value("frechet_retain", frechet_of(features[~gone], real), n=int((~gone).sum())))
    if panel.references:
        each = [frechet_of(features, drawn(cfg, task, other, panel)[1]) for other in panel.references]
        values.append(Value("frechet_retrained", sum(each) / len(each), n=len(each)))
    return values


def drawn(cfg: Samples, task: GanTask, subject: Subject, panel: Panel) -> tuple[Tensor, Tensor]:
    """Logits [n, K] and features [n, d] of a model's samples of the common noise."""
    def ask() -> tuple[Tensor, Tensor]:
        model = subject.answering.to(subject.device)
        with evaluating(model):
            samples = [task.imagine(model, z.to(subject.device)).cpu() for z in task.latents(cfg.count, panel.seed).split(512)]
        whole = torch.cat(samples)
        return task.read(whole), task.read_features(whole)

    return panel.once(("samples", cfg, subject), ask)

"""Divergence: how differently the model answers from retrained models, beside how they differ among themselves.

    JS(x) = mean_j JS(p_j(x), p(x)) in bits;     KL(x) = mean_j KL(p_j(x) ‖ p(x)) in nats, j over the retrained models
    KL_back(x) = mean_j KL(p(x) ‖ p_j(x)): large where the model is sure of what retrained ones exclude
    agreement(x) = share of retrained models with the same most likely class; 1 − agreement is the churn
    activation distance(x) = mean_j ‖p_j(x) − p(x)‖₂, of probabilities in spite of its name (of features: `representation`)

p the model's class probabilities (Chundawat et al. 2023, arXiv:2205.08096, use JS and the activation distance of
Golatkar et al. 2020, arXiv:1911.04933, with one retrained model). Other families report `output_divergence`, their own.
The target is what one retrained model has to the others, not 0. Judged is the excess: JS on the forget set over the same on
unseen rows (the placebo): a model of another recipe differs everywhere, also beside a wrong forget file. The rest is shown.
Needs:    references.     Cost: none beyond the forward passes for classifiers; else one pass over `limit` examples.
Limits:   a distance has no direction: it cannot separate remembered from over-forgotten (see `scores`).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.modules import evaluating
from lethe.core.passes import drawn
from lethe.core.registry import Metric, audit
from lethe.core.split import Split
from lethe.judge.measured import excess_value, mean_value
from lethe.judge.panel import Panel
from lethe.maths import losses
from lethe.pools.subject import Subject


@config
class Divergence:
    """Options of the divergence audit."""

    limit: Count = 1000       # examples per split at most, a seeded sample                                       [ours]
    batch_size: Count = 64    # of families whose outputs are not kept and are asked again [ours] [changes nothing: memory]


@audit(
    metrics={
        "js_excess": Metric("mean Jensen–Shannon divergence to retrained models, forget set over unseen data", (0.0, math.inf),
                            distance=True),
        "js_forget": Metric("mean Jensen–Shannon divergence to retrained models, forget set, bits", better="lower"),
        "js_holdout": Metric("mean Jensen–Shannon divergence to retrained models, holdout, bits", better="lower"),
        "kl_back_*": Metric("mean KL(model ‖ retrained), nats", (0.0, math.inf), "lower"),
        "kl_*": Metric("mean KL(retrained ‖ model), nats", (0.0, math.inf), "lower"),
        "agreement_*": Metric("share of retrained models that predict the same class", better="higher"),
        "activation_distance_*": Metric("mean L2 distance of class probabilities to retrained models",
                                        (0.0, math.sqrt(2)), "lower"),
        "output_divergence_excess": Metric("mean divergence of outputs to retrained models, forget set over unseen data",
                                           (0.0, math.inf), distance=True),
        "output_divergence_forget": Metric("mean divergence of outputs to retrained models, forget set",
                                           (0.0, math.inf), "lower"),
        "output_divergence_holdout": Metric("mean divergence of outputs to retrained models, holdout",
                                            (0.0, math.inf), "lower"),
    },
    uses={"divergence", "observe", "outputs"},
    needs={"forget", "references"},
    blind="It sees outputs at these examples, in no direction: what the model still knows inside is not measured.",
)
def measure(cfg: Divergence, subject: Subject, panel: Panel) -> list[Value]:
    values: list[Value] = []
    judged: dict[tuple[str, str], np.ndarray] = {}
    for name in ("forget", "holdout"):
        if not panel.task.has(name):
            continue
        split = panel.part(getattr(panel.task, name), cfg.limit)
        seen = subject.seen(split)
        if "logits" in seen and seen["logits"].dim() == 2:
            logits = torch.stack([r.seen(split)["logits"] for r in panel.references])
            found = compared(seen["logits"], logits)
        else:
            found = {"output_divergence": _asked(cfg, split, subject, panel)}
        values += [mean_value(f"{key}_{name}", x) for key, x in found.items()]
        judged |= {(key, name): x if name == "forget" else x[panel.placebo(split)]
                   for key, x in found.items() if key in ("js", "output_divergence")}
    nothing = np.zeros(0)
    return [*values, *(excess_value(f"{key}_excess", x, judged.get((key, "holdout"), nothing))
                       for (key, name), x in judged.items() if name == "forget")]


def compared(logits: Tensor, references: Tensor) -> dict[str, np.ndarray]:
    """Per-example distances to the references, averaged over them.  [n, K], [R, n, K] -> name -> [n]"""
    here, p = logits.unsqueeze(0).expand_as(references), references
    same = p.argmax(-1) == here.argmax(-1)
    found = {"js": losses.jensen_shannon(p, here), "kl": losses.kl(p, here), "kl_back": losses.kl(here, p),
             "agreement": same.double(), "activation_distance": activation_distance(logits, references)}
    return {key: value.double().mean(0).numpy() for key, value in found.items()}


def activation_distance(logits: Tensor, references: Tensor) -> Tensor:
    """‖softmax − softmax‖₂ to each reference.  [n, K], [R, n, K] -> [R, n]"""
    there, here = (z.double().mT.contiguous().softmax(-2) for z in (references, logits))   # short rows take 4 x as long
    norms: Tensor = torch.linalg.vector_norm(there - here, dim=-2)
    return norms


def reference_activation_distance(logits: Tensor, references: Tensor) -> Tensor:
    """`activation_distance`, one example at a time.  [n, K], [R, n, K] -> [R, n]"""
    return torch.stack([torch.stack([(there.double().softmax(0) - here.double().softmax(0)).norm()
                                     for here, there in zip(logits, reference, strict=True)]) for reference in references])


def _asked(cfg: Divergence, split: Split, subject: Subject, panel: Panel) -> np.ndarray:
    """The family's divergence of the subject's outputs from each reference's, averaged.  [n]

    All models see the same draws (noise).
    """
    rows = np.zeros(len(split))
    purpose = ("divergence", split.name)
    for batch in drawn(panel.task, split, cfg.batch_size, purpose, seed=panel.seed, device=subject.device):
        with evaluating(subject.answering):
            here = panel.task.outputs(subject.answering.to(subject.device), batch)
        total = torch.zeros(len(batch), dtype=torch.float64)
        for reference in panel.references:
            with evaluating(reference.answering):
                there = panel.task.outputs(reference.answering.to(subject.device), batch)
                total += panel.task.divergence(there, here, batch).double().cpu()
        rows[batch.index.numpy()] = (total / len(panel.references)).numpy()
    return rows

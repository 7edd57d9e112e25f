"""ZRF: zero retrain forgetting, how like a network that knows nothing the model answers. Chundawat et al. 2023,
arXiv:2205.08096.

    ZRF(M) = 1 − (1/n) Σ_{x∈F} JS(p_M(x), p_T(x)),  JS in bits;   T a fresh model, as training starts from

1: answers of the random teacher T; 0: certain of what T excludes. Averaged over `teachers` draws of T. The aim is what a
retrained model has, not the maximum: a model that answers uniformly scores highest. A baseline that needs no retraining.
compat: the published code instead computes ½KL(m‖p) + ½KL(m‖q) in nats, m = (p+q)/2, and divides by n·K; a model that is
98 % sure of one class against uniform answers has 0.914 (K = 10) and 0.986 (K = 100) there, 0.310 and 0.111 by the
definition: the published scale has almost no room.
Needs:    forget.     Cost: one forward pass of T over F per teacher.
Limits:   shown, never judged: it cannot separate forgetting from confusion. Where training starts from given weights, T is no
          random network and ZRF means less.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.core.seeds import derive
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths import losses
from lethe.pools.subject import Subject


@config
class ZRF:
    """Options of ZRF."""

    teachers: Count = 3       # random teachers that are averaged over                                       [ours]
    limit: Count = 1000       # forget examples at most, a seeded sample                                     [ours]
    compat: bool = False      # report `zrf_published` too, to compare with published numbers                [ours]


def zrf(logits: Tensor, teachers: Tensor) -> Tensor:
    """1 − JS in bits per example, averaged over the teachers.  [n, K], [T, n, K] -> [n]"""
    return 1 - losses.jensen_shannon(logits.unsqueeze(0).expand_as(teachers), teachers).mean(0)


def published(logits: Tensor, teachers: Tensor) -> Tensor:
    """The same as the published code computes it.  [n, K], [T, n, K] -> [n]"""
    log_p, log_q = (z.double().log_softmax(-1) for z in (logits.unsqueeze(0).expand_as(teachers), teachers))
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    reversed_js = (log_m.exp() * (log_m - (log_p + log_q) / 2)).sum(-1)
    return 1 - reversed_js.mean(0) / logits.shape[-1]


@audit(
    metrics={
        "zrf": Metric("1 − mean Jensen–Shannon divergence to random networks on the forget set, bits", better="higher"),
        "zrf_published": Metric("the same as published code computes it", (-math.inf, 1.0), "higher", asks="compat: true"),
    },
    uses={"build", "labels", "weights"},
    needs={"forget"},
    blind="It rewards answers that look random, which no retrained model need show; what is known inside stays open.",
)
def measure(cfg: ZRF, subject: Subject, panel: Panel) -> list[Value]:
    split = panel.part(panel.task.forget, cfg.limit)
    logits = subject.seen(split)["logits"]

    def ignorant() -> Tensor:
        models = [panel.task.build(derive(panel.seed, "zrf", k)) for k in range(cfg.teachers)]
        return torch.stack([subject.like(m, f"teacher {k}").seen(split)["logits"] for k, m in enumerate(models)])

    teachers = panel.once(("zrf", cfg, split), ignorant)
    values = [mean_value("zrf", np.asarray(zrf(logits, teachers)))]
    return [*values, mean_value("zrf_published", np.asarray(published(logits, teachers)))] if cfg.compat else values

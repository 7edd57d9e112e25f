"""Influence of the forget set: how much of what it does to predictions has been undone. Koh & Liang 2017, arXiv:1703.04730;
Grosse et al. 2023, arXiv:2308.03296; quality by Park et al. 2023, arXiv:2303.14186.

    Δ(q) = Σ_{i∈F} ∇f(q)ᵀ (H + λ)⁻¹ ∇ℓ_i / |R|               predicted change of f at q when F is taken out, at the original
    undone(Q) = Σ_{q∈Q} Δ(q)·(f_u(q) − f_0(q)) / Σ_{q∈Q} Δ(q)²       share of the prediction that has come about

f margin of the label, or mean prediction of real targets; f_0 original, f_u the model; H EK-FAC on retained examples
(`lethe.maths.influence`). The untouched model has 0, a retrained one what the prediction is worth (below or above 1, for it is a
first-order one); that is why the yardstick decides. Q = F: its own predictions. Q = others: holdout examples that no model has
seen and that look like F: what F taught the model about *other* data, which no test on F itself shows.
Beside every number its quality: `lds`, mean over queries of Spearman's correlation between predicted and true f over shadow
models, each trained on another half of the candidates. Below `quality` on Q nothing is reported for Q.
`influence_ratio` is at the model itself: median |∇f(q)ᵀ (H + λ)⁻¹ ∇ℓ_i| over i ∈ F relative to that over unseen examples; a
record that was fitted has a small gradient, an unseen one not: 1 for a model to which F is unseen.
Needs:    forget, retain, holdout, original, references, shadows.
Cost:     four passes with gradients over R per model, 2 to 4 s for 1000 digits and an MLP of 27 k weights on a busy core.
Finds:    digits MLP, six retrained models, 16 shadows. 60 random examples, 15 % wrong labels (LDS 0.54 on F, 0.29 others): undone
          on F 0.08–0.10 retrained, 0 original, 0.02 fine-tuned, 0.21 SFRon; on others 0.06–0.09, 0, 0.04, 0.18; ratio
          0.91–1.09, 0.61, 0.72, 1.31. Class 3 (LDS 0.15, 0.12): on F 0.046–0.048, 0, 0.02, 2.5; on others 0.011–0.012, 0,
          0.013, 0.016; ratio 0.95–0.98, 0.31, 0.89, 0.98. The predictions rank well and are 10 to 80 times too large.
Limits:   first order around the original: bad for whole classes; then the quality gate or the yardstick shows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from lethe.core.alike import class_labels, real_targets
from lethe.core.config import Count, Fraction, Positive, config
from lethe.core.evidence import Value
from lethe.core.passes import plain
from lethe.core.registry import Metric, audit
from lethe.core.split import Batch, Split
from lethe.judge.panel import Panel
from lethe.maths import influence as a
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Subject

BATCH = 128


@config
class Attribution:
    """Options of the influence audit."""

    damping: Positive = 0.1    # λ as a share of the mean eigenvalue of H                    [usual]
    limit: Count = 2000        # retained examples behind H; a seeded sample                 [ours]
    queries: Count = 300       # unseen examples that are asked; a seeded sample             [ours]
    models: Count = 16         # shadow models behind the quality; the plan's limit holds    [ours]
    quality: Fraction = 0.1    # least LDS with which a share is reported                    [ours: one model, 16 shadows]


@dataclass
class Story:
    """What is known before any unlearned model is measured."""

    others: Split                     # unseen examples
    effect: dict[str, np.ndarray]     # split -> Δ(q)  [q]
    quality: dict[str, float]         # split -> mean LDS
    shadows: int


def undone(effect: np.ndarray, change: np.ndarray) -> tuple[float, float]:
    """Σ Δ·change / Σ Δ² and its standard error over queries.  [q], [q]

    undone([1, 2], [1, 2]) == (1, 0); undone([1, 1], [0, 1]) == (0.5, 0.35…): residuals −½ and ½, √(¼ + ¼)/2.
    """
    weight = float((effect**2).sum())
    slope = float((effect * change).sum()) / weight
    return slope, float(np.sqrt(((effect * (change - slope * effect)) ** 2).sum())) / weight


def answers(subject: Subject, split: Split) -> np.ndarray:
    """f of every example.  [n]"""
    seen = subject.seen(split)
    return subject.numbers(split, "margin") if "margin" in seen else seen["prediction"].double().flatten(1).mean(1).numpy()


def effects(cfg: Attribution, subject: Subject, panel: Panel, queries: Split, records: Split) -> np.ndarray:
    """Change of f at the queries when a record is taken out, at the subject's weights.  [q, records]"""
    task, part = subject.task, panel.part(panel.task.retain, cfg.limit)
    model = subject.model.to(subject.device)

    def batches(split: Split) -> Iterator[Batch]:
        return plain(split, BATCH, device=subject.device)

    at = a.curvature(model, lambda: batches(part), task.outputs, cfg.damping)

    def f(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return a.known(task.outputs(model, batch), batch.y)

    return a.influence(model, at, len(panel.task.retain), batches(queries), batches(records), f,
                       task.nll).double().cpu().numpy()


def story(cfg: Attribution, panel: Panel) -> Story:
    """Predicted effects at the original, and how well such predictions follow the shadows."""
    shadows = panel.shadows
    assert shadows is not None
    count = min(cfg.models, shadows.limit)
    others = panel.part(shadows.population, cfg.queries)
    effect, quality = {}, {}
    for name, split in (("forget", panel.task.forget), ("others", others)):
        each = effects(cfg, panel.original, panel, split, shadows.candidates)             # [q, candidates]
        effect[name] = each[:, shadows.members].sum(1)
        quality[name] = lds_of(shadows, count, split, each)
    return Story(others, effect, quality, count)


def lds_of(shadows: Shadows, count: int, split: Split, each: np.ndarray) -> float:
    """Mean LDS of effects [q, candidates] over `count` shadows: those that were in a half are not taken out."""
    predicted = -shadows.inside(count).astype(float) @ each.T
    true = np.stack([answers(model, split) for model in shadows.trained(count)])
    scores = a.lds(predicted, true)
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else 0.0


@audit(
    metrics={
        "influence_undone_forget": Metric("share of the predicted effect of taking F out that shows on F",
                                          (-math.inf, math.inf), "higher",
                                          asks="an attribution that predicts shadow models"),
        "influence_undone_others": Metric("share of the predicted effect of taking F out that shows on unseen examples",
                                          (-math.inf, math.inf), asks="an attribution that predicts shadow models"),
        "influence_ratio": Metric("influence of a forgotten record at the model, relative to that of an unseen one",
                                  (0.0, math.inf), null=1.0, aspect="representation"),
        "attribution_lds_*": Metric("how well the attribution predicts shadow models (mean LDS)", (-1.0, 1.0), "higher"),
    },
    uses={"inputs", "nll", "outputs"},
    needs={"forget", "retain", "holdout", "original", "references", "shadows"},
    depth="deep",
    blind="It follows the direction that a first-order prediction gives; what changes otherwise does not count.",
)
def measure(cfg: Attribution, subject: Subject, panel: Panel) -> list[Value]:
    forget = panel.task.forget
    unlabelled = class_labels(forget) is None and real_targets(forget) is None
    if unlabelled or panel.shadows is None or not len(panel.shadows.population):
        return []
    known: Story = panel.once(("attribution", cfg), lambda: story(cfg, panel))
    values = []
    for name, split in (("forget", panel.task.forget), ("others", known.others)):
        quality = known.quality[name]
        values.append(Value(f"attribution_lds_{name}", quality, n=known.shadows))
        effect = known.effect[name]
        if quality < cfg.quality or not effect.any():
            continue
        share, error = undone(effect, answers(subject, split) - answers(panel.original, split))
        values.append(Value(f"influence_undone_{name}", share, share - 1.96 * error, share + 1.96 * error, len(effect),
                            detail={"lds": quality, "shadows": known.shadows}))
    each = np.median(np.abs(effects(cfg, subject, panel, known.others, panel.shadows.candidates)), 0)   # [candidates]
    members = panel.shadows.members
    if (~members).any() and each[~members].mean() > 0:
        values.append(Value("influence_ratio", float(each[members].mean() / each[~members].mean()), n=int(members.sum()),
                            detail={"unseen": int((~members).sum())}))
    return values

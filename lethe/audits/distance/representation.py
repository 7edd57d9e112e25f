"""Representation: how differently the model sees the forget set inside. CKA: Kornblith et al. 2019, arXiv:1905.00414;
the unbiased estimator: Song et al. 2012, JMLR 13; Nguyen, Raghu & Kornblith 2021, arXiv:2010.15327.

    CKA(X, Y) = ⟨K̃, L̃⟩ / √(⟨K̃, K̃⟩ ⟨L̃, L̃⟩),   K = XXᵀ, L = YYᵀ  [n, n],  ~ the U-centring that makes ⟨K̃, L̃⟩/(n(n−3)) unbiased
    feature distance(x) = mean_j ‖h(x)·Q_j − h_j(x)‖₂ / √(mean_{x'∈R} ‖h_j(x')‖²),   Q_j the rotation that fits h to h_j on R
    feature shift(x) = ‖(h(x) − h⁰(x)) / s⁰‖₂ / √d

X, Y activations of one layer on the forget set (every linear, convolutional and embedding layer), h features before the head
centred on R, h_j those of retrained model j, h⁰ of the original, s⁰ its standard deviations on R. The coordinates of models
from different seeds mean different things: CKA ignores rotations, and the feature distance fits one (Q_j orthogonal
Procrustes on retained examples, so that the forget set itself is not fitted).
The distance on the forget set over that on unseen rows is held against the yardstick (a model of another recipe differs
everywhere); CKA stands beside its ceiling, that of retrained models among
themselves; per layer in the detail. The shift only shows how much moved.
Needs:    forget, retain, references; original for the shift.     Cost: one forward pass over ≤ `limit` examples per model.
Limits:   linear: what a non-linear probe could still read is not compared. With n < 4 examples CKA is not defined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.modules import evaluating, hooked
from lethe.core.passes import drawn
from lethe.core.registry import Metric, audit
from lethe.core.split import Split
from lethe.judge.measured import excess_value, mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)


@config
class Representation:
    """Options of the representation audit."""

    limit: Count = 256        # forget examples at most, a seeded sample; memory grows with its square          [ours]
    retain_limit: Count = 1000   # retained examples that rotations are fitted on                               [ours]
    layers: Count = 24        # layers at most, evenly spread over the depth                                    [ours]


def centred(gram: Tensor) -> Tensor:
    """U-centring: rows and columns sum to 0, the diagonal is 0.  [..., n, n] -> [..., n, n], n ≥ 4"""
    n = gram.shape[-1]
    off = gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
    rows = off.sum(-1, keepdim=True) / (n - 2)
    whole = off.sum((-2, -1), keepdim=True) / ((n - 1) * (n - 2))
    out = off - rows - rows.transpose(-2, -1) + whole
    return out - torch.diag_embed(out.diagonal(dim1=-2, dim2=-1))


def unit_gram(x: Tensor) -> Tensor:
    """The U-centred linear Gram matrix with norm 1, flat; zeros where the layer returns the same for all.  [n, d] -> [n²]"""
    x = x.double().flatten(1)
    found = centred((x - x.mean(0)) @ (x - x.mean(0)).T).flatten()
    norm = found.norm()
    return found / norm if norm > 0 else found


def cka(x: Tensor, y: Tensor) -> float:
    """Debiased linear CKA of two representations of the same examples.  [n, d], [n, e] -> about −0.1 to 1"""
    return float(unit_gram(x) @ unit_gram(y))


def reference_cka(x: np.ndarray, y: np.ndarray) -> float:
    """The same from the estimator as printed: tr(KL) + 1ᵀK1·1ᵀL1/((n−1)(n−2)) − 2·1ᵀKL1/(n−2), diagonals 0."""
    k, l = (z @ z.T * (1 - np.eye(len(z))) for z in (x, y))
    n, one = len(k), np.ones(len(k))

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        product = (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
        return float(np.trace(a @ b) + product - 2 * (one @ a @ b @ one) / (n - 2))

    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


def rotation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The orthogonal Q that minimises ‖xQ − y‖_F.  [m, d], [m, e] -> [d, e] (with e ≠ d: orthonormal on the smaller side)"""
    left, _, right = np.linalg.svd(x.T @ y, full_matrices=False)
    q: np.ndarray = left @ right
    return q


def alignment(seen_here: np.ndarray, seen_there: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """‖h·Q − h_j‖ over the size of h_j, Q fitted on the retained examples.  [m, d], [m, e] -> ([n, d], [n, e] -> [n])

    Both sides centred and scaled by the retained examples, so that a factor between the models does not count.
    """
    def scaled(x: np.ndarray, by: np.ndarray) -> np.ndarray:
        moved = by - by.mean(0)
        standard: np.ndarray = (x - by.mean(0)) / max(math.sqrt(float((moved**2).sum(1).mean())), 1e-12)
        return standard

    turn = rotation(scaled(seen_here, seen_here), scaled(seen_there, seen_there))

    def distance(here: np.ndarray, there: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.norm(scaled(here, seen_here) @ turn - scaled(there, seen_there), axis=1))

    return distance


@audit(
    metrics={
        "feature_distance_excess": Metric("mean distance of rotated features to retrained models, forget set over unseen data",
                                          (0.0, math.inf), distance=True, aspect="representation"),
        "feature_distance_forget": Metric("mean distance of rotated features to retrained models, forget set", (0.0, math.inf),
                                          "lower", aspect="representation"),
        "cka_head_forget": Metric("debiased linear CKA to retrained models, last layer before the head", (-1.0, 1.0), "higher",
                                  aspect="representation"),
        "cka_forget": Metric("debiased linear CKA to retrained models, mean over layers", (-1.0, 1.0), "higher",
                             aspect="representation"),
        "feature_shift_forget": Metric("standardised distance of features from the original's", (0.0, math.inf), "higher",
                                       aspect="representation", asks="the original model"),
    },
    uses={"features", "inputs", "outputs"},
    needs={"forget", "retain", "references", "holdout?"},
    depth="standard",
    blind="It compares linear structure at the given examples; what a non-linear probe reads, or what other inputs bring out, is "
          "not seen.",
)
def measure(cfg: Representation, subject: Subject, panel: Panel) -> list[Value]:
    forget, retain = panel.part(panel.task.forget, cfg.limit), panel.part(panel.task.retain, cfg.retain_limit)
    here, known = subject.features(forget), subject.features(retain)
    distances = [alignment(known, r.features(retain)) for r in panel.references]   # of which each fits a rotation
    rows = np.mean([far(here, r.features(forget)) for far, r in zip(distances, panel.references, strict=True)], 0)
    values = [mean_value("feature_distance_forget", rows),
              excess_value("feature_distance_excess", rows, _placebo(cfg, subject, panel, distances))]
    if len(forget) >= 4:
        heads = [cka(torch.from_numpy(here), torch.from_numpy(r.features(forget))) for r in panel.references]
        values.append(Value("cka_head_forget", float(np.mean(heads)), n=len(forget)))
        mine = _grams(cfg, subject, forget, panel)
        layers = {name: float(np.mean([float(gram @ theirs[name]) for r in panel.references
                                       if name in (theirs := _grams(cfg, r, forget, panel))] or [math.nan]))
                  for name, gram in mine.items()}
        layers = {name: value for name, value in layers.items() if not math.isnan(value)}
        if layers:
            values.append(Value("cka_forget", float(np.mean(list(layers.values()))), n=len(forget), detail={"layers": layers}))
    if panel.task.has("original"):
        before, spread = panel.original.features(forget), panel.original.features(retain).std(0)
        if before.shape == here.shape:
            moved = (here - before) / np.where(spread > 1e-6, spread, 1.0)
            values.append(mean_value("feature_shift_forget", np.sqrt((moved**2).mean(1))))
    return values


def _placebo(cfg: Representation, subject: Subject, panel: Panel,
             distances: Sequence[Callable[[np.ndarray, np.ndarray], np.ndarray]]) -> np.ndarray:
    """The same distances on unseen rows; none where there are none."""
    if not panel.task.has("holdout"):
        return np.zeros(0)
    split = panel.part(panel.task.holdout, cfg.limit)
    rows, here = panel.placebo(split), subject.features(split)
    return np.asarray(np.mean([far(here[rows], r.features(split)[rows])
                               for far, r in zip(distances, panel.references, strict=True)], 0))


def _grams(cfg: Representation, subject: Subject, split: Split, panel: Panel) -> dict[str, Tensor]:
    """Layer -> unit Gram matrix on the split, once per model.  [n²]"""
    return panel.once(("representation", cfg, subject, split), lambda: _layer_grams(cfg, subject, split))


def _layer_grams(cfg: Representation, subject: Subject, split: Split) -> dict[str, Tensor]:
    model = subject.model.to(subject.device)
    names = [name for name, module in model.named_modules() if isinstance(module, LAYERS)]
    names = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(cfg.layers, len(names))).astype(int))]
    outputs: dict[str, list[Tensor]] = {name: [] for name in names}
    handles = [model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: outputs[name].append(out.cpu()))
               for name in names]
    with hooked(*handles), evaluating(model):
        for batch in drawn(subject.task, split, subject.batch_size, ("grams", split.name), device=subject.device):
            subject.task.outputs(model, batch)
    whole = {name: torch.cat(parts) for name, parts in outputs.items() if parts}
    return {name: unit_gram(x) for name, x in whole.items() if len(x) == len(split)}

"""Steering: does one push bring the class back? Class means: Turner et al. 2023, arXiv:2308.10248.

    features  z(x) = head(h(x) + α·Tᵀd),  d = mean of h₀ over F₁ − mean of h₀ over R,  h₀ the original's features, T the ridge
              map from h₀ to h fitted on R (features of two models have no common axes); the α of greatest gain on F₁
    input     z(x + δ), one δ for all, |δ| ≤ ε deviations of each input, by sign-gradient steps on −log p(y) over F₁
              (universal perturbations: Moosavi-Dezfooli et al. 2016, arXiv:1610.08401)
    steering, universal = accuracy on F₂ under the push;  `_gain` = that − share of R that the push turns to labels of F

F₁, F₂ halves of the forget set F, R retained examples. A push that turns everything into the class recovers nothing: the
gain is what to look at, beside that of retrained models.
Needs:    forget (≥ 4 examples, classes that were removed entirely), retain, original.     Cost: features of F and R; 20
          steps on F₁.
Verdict:  `steering` is held against the yardstick; the rest is shown.
Limits:   one direction, one size for all; an output that was cut off (row emptied, filter) cannot be pushed to.
Finds:    digits CNN without class 3, eight retrained models 0.00 by either push. `steering`: original 1.00, head fine-tuned to
          another label 0.68 (not found by relearning), sign-gradient ascent 0.74, every example of F taught another label 0.00,
          emptied row 0.00. `universal`: original 1.00 with 0.23 false alarms, sign-gradient ascent 0.51, the others 0.00.
          Tiny MLP on blobs (retrained 0.00): 0.65 for the fine-tuned head, 0.35 for the other label.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.alike import of_classes_that_leave
from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.evidence import Value
from lethe.core.families.headed import HeadedTask
from lethe.core.modules import evaluating
from lethe.core.registry import Metric, audit
from lethe.core.seeds import numpy_generator
from lethe.core.split import Batch, Split, pixels
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.ridge import ridge
from lethe.pools.subject import Subject


@config
class Steering:
    """Options of the steering attack."""

    sizes: tuple[NonNegative, ...] = (0.0, 0.5, 1.0, 2.0)   # α: multiples of the class-mean difference     [ours]
    penalty: Positive = 0.1                                 # of the map between feature spaces             [ours]
    epsilon: Positive = 0.5                                 # bound of δ, in deviations of the inputs        [ours]
    steps: Count = 20                                       # sign-gradient steps of ε/5                    [ours]
    limit: Count = 1000                                     # retained examples at most                      [ours]


@audit(
    metrics={
        "steering": Metric("accuracy on half of F after the best push of the features", aspect="recovery"),
        "steering_gain": Metric("that minus the share of retained examples pushed to F's labels", (-1.0, 1.0), "lower",
                                aspect="recovery"),
        "universal": Metric("accuracy on half of F under one input perturbation found on the other half", better="lower",
                            aspect="recovery"),
        "universal_gain": Metric("that minus the share of retained examples pushed to F's labels", (-1.0, 1.0), "lower",
                                 aspect="recovery"),
    },
    uses={"head", "inputs", "labels", "nll", "outputs"},
    needs={"forget", "retain", "original"},
    depth="standard",
    blind="One push for all examples; knowledge that needs a different push per example is not found.",
)
def measure(cfg: Steering, subject: Subject, panel: Panel) -> list[Value]:
    task = panel.task
    if len(task.forget) < 4 or not of_classes_that_leave(task.forget, task.retain):
        return []
    order = numpy_generator(panel.seed, "steering halves").permutation(len(task.forget))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    known = panel.part(task.retain, cfg.limit)
    return [*_steered(cfg, subject, panel, halves, known), *_universal(cfg, subject, panel, halves, known)]


def _values(name: str, hit: np.ndarray, false: np.ndarray, detail: dict[str, float]) -> list[Value]:
    """The score on F₂ and its excess over false alarms.  [n₂], [r]"""
    score, share = mean_value(name, hit.astype(float)), float(false.mean())
    return [score, Value(f"{name}_gain", score.value - share, n=score.n, detail={"false": share, **detail})]


def _steered(
    cfg: Steering, subject: Subject, panel: Panel, halves: tuple[np.ndarray, np.ndarray], known: Split
) -> list[Value]:
    forget, eye = panel.task.forget, panel.original
    labels, (found, tested) = forget.columns["y"].numpy(), halves
    carry, _ = ridge(eye.features(known), subject.features(known), cfg.penalty)
    push = (eye.features(forget)[found].mean(0) - eye.features(known).mean(0)) @ carry
    head = head_of(subject.model, HeadedTask.of(panel.task).head)

    def predicted(features: np.ndarray, size: float) -> np.ndarray:
        with torch.no_grad():
            pushed = torch.from_numpy(features + size * push).float().to(subject.device)
            labels: np.ndarray = head(pushed).argmax(1).cpu().numpy()
            return labels

    def outcome(rows: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
        return (predicted(subject.features(forget)[rows], size) == labels[rows],
                np.isin(predicted(subject.features(known), size), labels))

    def gain(size: float) -> float:
        hit, false = outcome(found, size)
        return float(hit.mean() - false.mean())

    best = max(cfg.sizes, key=gain)
    return _values("steering", *outcome(tested, best), {"size": best})


def _universal(
    cfg: Steering, subject: Subject, panel: Panel, halves: tuple[np.ndarray, np.ndarray], known: Split
) -> list[Value]:
    task, device, (found, tested) = panel.task, subject.device, halves
    model = subject.model.to(device)

    def pushed(split: Split, rows: np.ndarray, delta: Tensor | float) -> Batch:
        batch = split.batch(rows.tolist())
        x = pixels(batch.x)
        return batch.to(device).replace(x=x.to(device) + delta)

    every = np.arange(len(known))
    bound = cfg.epsilon * pushed(known, every, 0.0).x.std(0).clamp(min=1e-6)
    delta = torch.zeros_like(bound)
    with evaluating(model):
        for _ in range(cfg.steps):
            delta.requires_grad_(True)
            with torch.enable_grad():
                loss = task.nll(model, pushed(task.forget, found, delta)).mean()
            (slope,) = torch.autograd.grad(loss, delta)
            delta = (delta.detach() - bound / 5 * slope.sign()).clamp(-bound, bound)
        hit, false = (task.outputs(model, pushed(split, rows, delta)).argmax(1).cpu().numpy()
                      for split, rows in ((task.forget, tested), (known, every)))
    labels = task.forget.columns["y"].numpy()
    return _values("universal", hit == labels[tested], np.isin(false, labels), {"epsilon": cfg.epsilon})


def head_of(model: nn.Module, name: str) -> nn.Module:
    """The head, also of a model that is wrapped in another."""
    head: nn.Module = next(m for key, m in model.named_modules() if key == name or key.endswith(f".{name}"))
    return head

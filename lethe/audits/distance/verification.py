"""Verification error: how far the unlearned weights are from the retrained twin's. Thudi, Deza, Chandrasekaran & Papernot
2022, arXiv:2109.13398.

    v = ‖θ_u − θ_r‖₂;      ratio = v / ‖θ_o − θ_r‖₂

θ_o a model trained on R ∪ F, θ_r its twin: the same initial weights, the same batches in the same order without the examples
of F; θ_u what the procedure under audit makes of θ_o. Weights of independently seeded networks cannot be compared, so the
audit trains such a pair itself and runs the procedure on it. Ratio 0: exact unlearning; 1: like no change; above 1: the
procedure led away. Averaged over `pairs`. Shown: how small is small enough in weights implies nothing yet about behaviour.
Needs:    forget, retain, recipe, and the procedure that made the model.
Cost:     two trainings per pair for all methods, one run of the procedure per pair.
Limits:   long training separates twins even where F changes nothing: the distance of the twins grows with the steps.
Deviations: an example of F is left out of its batch, whose mean is over the rest; a batch of F alone teaches nothing.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.guard import bare
from lethe.core.registry import Metric, audit
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split, concat
from lethe.core.task import Task, recipe_options
from lethe.errors import NeedsUnmet
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject
from lethe.train.loop import Loop, Settings, Term
from lethe.train.modifiers.where.lora import of_recipe


@config
class Verification:
    """Options of the verification error."""

    pairs: Count = 2      # trained pairs                                                                   [ours]


def weight_distance(a: nn.Module, b: nn.Module) -> float:
    """‖θ_a − θ_b‖₂ over the parameters."""
    there = dict(b.named_parameters())
    return math.sqrt(sum(float((p.detach().cpu().double() - there[name].detach().cpu().double()).pow(2).sum())
                         for name, p in a.named_parameters()))


def without(losses: Tensor, kept: Tensor) -> Tensor:
    """Losses whose mean over the batch is the mean over the kept examples; 0 when none is kept.  [n], [n] bool -> [n]"""
    return losses * kept * (len(kept) / kept.sum().clamp(min=1))


def twins(task: Task, whole: Split, forget: np.ndarray, seed: int, device: str) -> tuple[nn.Module, nn.Module]:
    """(trained on everything, trained on the same batches without the forget examples)."""
    member = torch.from_numpy(forget).to(device)

    def trained(loss: object) -> nn.Module:
        loop = Loop(task, Settings(seed=seed, device=device))
        model = loop.start(task.build(derive(seed, "retrain")), of_recipe(task))
        loop.minimise(model, {"train": Term(whole, loss)}, **recipe_options(task.recipe))   # type: ignore[arg-type]
        return loop.finish(model).model

    def spared(model: nn.Module, batch: Batch) -> Tensor:
        return without(task.nll(model, batch), ~member[batch.index.to(device)])

    return trained(task.nll), trained(spared)


@audit(
    metrics={
        "verification_ratio": Metric("distance of weights to the retrained twin over that before unlearning",
                                     (0.0, math.inf), "lower"),
        "verification_error": Metric("distance of weights to the retrained twin", (0.0, math.inf), "lower"),
    },
    uses={"build", "nll", "weights"},
    needs={"forget", "retain", "recipe", "procedure"},
    depth="deep",
    blind="Weights near the twin's are enough, not necessary. The model itself is not measured, its procedure is repeated.",
)
def measure(cfg: Verification, subject: Subject, panel: Panel) -> list[Value]:
    procedure, task = subject.procedure, panel.task
    if procedure is None or procedure.retrains:   # retrained with a seed of its own: not comparable by weights
        return []
    if task.trains_itself():
        raise NeedsUnmet(f"verification trains twins without some examples' losses, and {task.family} models are trained in "
                         "a way of their own, so no twin can be made. Use the other distances to retrained models.")
    whole = concat([task.retain, task.forget], "train")
    forget = np.arange(len(whole)) >= len(task.retain)
    pairs = panel.once(("verification", cfg), lambda: [
        twins(task, whole, forget, derive(panel.seed, "verification", k), subject.device) for k in range(cfg.pairs)])
    rows = []
    for k, (trained, twin) in enumerate(pairs):
        unlearned = bare(procedure.run(task.replaced(trained), derive(panel.seed, "verification", "run", k)))
        rows.append((weight_distance(unlearned, twin), weight_distance(trained, twin)))
    errors, nothing = np.array(rows).T
    ratios = errors / np.maximum(nothing, 1e-12)
    return [Value("verification_ratio", float(ratios.mean()), n=len(rows), detail={"ratios": ratios.tolist()}),
            Value("verification_error", float(errors.mean()), n=len(rows), detail={"nothing": nothing.tolist()})]

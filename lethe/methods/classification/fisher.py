"""Fisher forgetting: add noise to every weight, the more, the less the retained data need it. Golatkar, Achille & Soatto
(2020), "Eternal Sunshine of the Spotless Net", CVPR 2020, arXiv:1911.04933.

    θ_j ← θ_j + n_j,   n_j ~ N(0, v_j),   v_j = α · min((I_j + 1e-8)^(−q), cap),   I = E_{x∈R} Σ_y p_0(y|x) · (∇ℓ(θ_0; x, y))²

R retain set, ℓ cross-entropy, p_0 the original's probabilities, I diagonal of the Fisher information at the original (exact
over all K labels, not at the labels in the data). q = 1 is the official code; q = ½ is the paper, standard deviation ∝ I^(−¼).
v is averaged over the inputs of a unit (dimension 1), ten times larger for biases, norms and the head, whose cap is a tenth.
Where all of a class is forgotten, its row of the head is set to 0 with variance 1e-4 (official code); its bias too.
Needs:    forget (its labels), retain.     Updates: every trainable parameter.
Cost:     K gradients per retained example, vectorised; no optimisation.
Limits:   α → 0 changes nothing but the head's row of a forgotten class.
Fails by: variance: the same α forgets under one draw and ruins under the next. Noise knows nothing of F: what it forgets of
          single examples it forgets of everything that is held as weakly.
Deviations: the noise is drawn from the run's seed; the official code repeats with fixed seeds to estimate information.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.importance import example_gradients
from lethe.train.loop import Loop


@config
class Fisher:
    """Options of Fisher forgetting."""

    alpha: NonNegative = 1e-6          # α, scale of the variance; the knob                  [official code: 1e-9–3e-6]
    power: Positive = 1.0              # q; 1 official code, 0.5 paper                       [official code]
    cap: Positive = 1e3                # largest (I + 1e-8)^(−q); a tenth for the head       [official code]
    zero_rows: bool = True             # set the head's rows of forgotten classes to 0       [official code]
    batch_size: Count = 32             # examples whose K gradients are held [changes nothing: memory] [ours]


def variance(fisher: Tensor, alpha: float, power: float, cap: float) -> Tensor:
    """v before the factor for biases and head.  [any shape] -> same

    variance([[1, 3]], α=2, q=1, cap=1e3) == [[4/3, 4/3]]: 2·1 and 2·⅓, averaged over the inputs of the unit.
    """
    raw = alpha * (fisher + 1e-8).pow(-power).clamp(max=cap)
    return raw.mean(1, keepdim=True).expand_as(raw) if raw.dim() > 1 else raw


def model_fisher(
    model: nn.Module, params: Mapping[str, nn.Parameter], batches: Iterable[Batch], task: ClassificationTask, classes: int
) -> dict[str, Tensor]:
    """I: E over examples of Σ_y p(y|x)·(∇ℓ(x, y))², with the model's own probabilities.  -> name: [shape of θ]"""
    total, count = {name: torch.zeros_like(p) for name, p in params.items()}, 0
    for batch in batches:
        with evaluating(model):
            weights = task.outputs(model, batch).float().softmax(-1).flatten()
        every = Batch({key: value.repeat_interleave(classes, 0) for key, value in batch.columns.items()},
                      batch.index.repeat_interleave(classes), batch.drawn)
        every = every.replace(y=torch.arange(classes, device=weights.device).repeat(len(batch)))
        for name, found in example_gradients(model, params, every, task.nll).items():
            total[name] += torch.tensordot(weights, found.square(), 1)
        count += len(batch)
    return {name: value / max(count, 1) for name, value in total.items()}


@method(needs={"forget", "retain"}, uses={"class_count", "head", "labels", "nll", "outputs", "vmap"}, mechanism="noise")
def run(cfg: Fisher, task: ClassificationTask, loop: Loop) -> Outcome:
    model = loop.start()
    moving = loop.selected(model)
    classes: int = task.class_count
    head: str = task.head
    found = model_fisher(model, moving, loop.drawn(task.retain, cfg.batch_size, "fisher"), task, classes)
    loop.cost.examples += classes * len(task.retain)
    gone = sorted(set(task.forget.columns["y"].tolist()) - set(task.retain.columns["y"].tolist())) if cfg.zero_rows else []
    values = {}
    for name, p in moving.items():
        last = name.startswith(f"{head}.")
        centre = p.detach().clone()
        v = variance(found[name], cfg.alpha, cfg.power, cfg.cap / 10 if last else cfg.cap).clone()
        if last or p.dim() == 1:
            v *= 10
        if last:
            centre[gone], v[gone] = 0.0, 1e-4
        draw = torch.randn(p.shape, generator=loop.generator("fisher", name)).to(p)
        values[name] = centre + v.sqrt() * draw
    return loop.finish(loop.assign(model, values))

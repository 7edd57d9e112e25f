"""SLUG: change one layer by one gradient step, the layer that matters most to the forgotten data and least to the rest. Cai,
Tan & Asif (2024), "Single Layer Unlearning Gradient", arXiv:2407.11867.

    W_l ← W_l + λ·g_l,    g = ∇ E_{x∈F} u(θ_0; x),  r = ∇ E_{x∈R} u(θ_0; x)
    importance I_l = ‖g_l‖/‖W_l‖,    alignment A_l = |cos(g_l, r_l)|,    λ_0 = ‖W_l‖/(10·‖g_l‖)

F forget set, R retain set, W_l one weight matrix or kernel, u the negative margin log(1/p_y − 1) (`margin`), the negative logit
−z_y (`logit`) or the cross-entropy (`nll`): the step goes up. Candidates l are the Pareto front of large I and small A, at most
`candidates` of it. λ of each: doubled from λ_0 until the accuracy on the checked part of F (not in g) is at most `target`, then
halved between the brackets; `evaluations` looks in all, the smallest λ that was enough is kept. The layer with the highest
score on a part of R wins.
Needs:    forget, retain.     Updates: one weight tensor.
Cost:     one gradient pass over F and one over R, and `evaluations` looks at a part of F per candidate; no optimisation.
Limits:   λ = 0 is the original. Biases, norms and other vectors are never candidates.
Fails by: `nll` of a well-fitted classifier: gradients vanish and mislead the choice of layer. Single examples: their gradients
          are everybody's.
Deviations: the published code lists the candidates; here the score on retained data chooses. Classes are the objective; that of
          image–text similarities of CLIP is `slug_clip`. Combining the edits of several requests is not included.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, config
from lethe.core.families.classification import ClassificationTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.core.words import number
from lethe.errors import RequestError
from lethe.maths.importance import gradient_sum
from lethe.maths.losses import margin
from lethe.maths.one_layer import front, search
from lethe.train.loop import Loop


@config
class SLUG:
    """Options of SLUG."""

    objective: Literal["logit", "margin", "nll"] = "logit"   # u                        [ours, digits CNN; paper: its loss]
    candidates: Count = 5              # layers of the front that are searched               [official code]
    evaluations: Count = 10            # looks at the forget set per layer                   [official code]
    target: Fraction = 0.02            # accuracy on F that is enough                        [ours; official 0]
    checked: Fraction = 0.2            # share of F that the search looks at, not the gradient   [ours]
    batch_size: Count = 256            # examples per gradient [changes nothing: a sum] [ours]


@method(needs={"forget", "retain"}, uses={"labels", "nll", "observe", "outputs"}, mechanism="ascent")
def run(cfg: SLUG, task: ClassificationTask, loop: Loop) -> Outcome:
    model = loop.start()
    weights = {name: p for name, p in loop.selected(model).items() if p.dim() > 1}
    if not weights:
        raise RequestError("no weight matrix or kernel may move, so SLUG has no layer to choose; nothing was started. Widen "
                           "modifiers.where.")
    order = torch.randperm(len(task.forget), generator=loop.generator("slug", "forget"))
    cut = min(max(1, round(cfg.checked * len(order))), len(order) - 1)
    check = task.forget.subset(order[:cut].numpy() if cut else order.numpy(), "forget")
    some = torch.randperm(len(task.retain), generator=loop.generator("slug", "retain"))[:512]
    part = task.retain.subset(some.numpy(), "retain")

    def objective(m: nn.Module, batch: Batch) -> Tensor:
        if cfg.objective == "nll":
            return task.nll(m, batch)
        logits = task.outputs(m, batch)
        return -margin(logits, batch.y) if cfg.objective == "margin" else -logits.gather(1, batch.y.unsqueeze(1)).squeeze(1)

    def gradient(split: Split) -> dict[str, Tensor]:
        loop.cost.examples += len(split)
        total = gradient_sum(model, weights, loop.drawn(split, cfg.batch_size, "slug", split.name), objective)
        return {name: value / len(split) for name, value in total.items()}

    g, r = gradient(task.forget.subset(order[cut:].numpy(), "forget")), gradient(task.retain)
    names = [name for name in weights if g[name].norm() > 0]
    importance = [float(g[n].norm() / weights[n].detach().norm()) for n in names]
    alignment = [abs(float(torch.cosine_similarity(g[n].flatten(), r[n].flatten(), 0))) for n in names]

    def score_at(name: str, size: float) -> float:
        return moved_score(task, loop, model, weights[name], size * g[name], check)

    best: tuple[float, str, float] | None = None
    for place in front(importance, alignment)[: cfg.candidates]:
        name = names[place]
        step = search(partial(score_at, name),
                      float(weights[name].detach().norm() / (10 * g[name].norm())), cfg.target, cfg.evaluations)
        kept = moved_score(task, loop, model, weights[name], step * g[name], part)
        best = max(best, (kept, name, step)) if best else (kept, name, step)
    if best is None:
        loop.notes.append("the gradient on the forget set is zero, so nothing was changed")
        return loop.finish(model)
    kept, name, step = best
    loop.assign(model, {name: weights[name].detach() + step * g[name]})
    loop.notes.append(f"{name} moved by {number(step)} times its gradient; {task.score_name} on {len(part)} retained examples: "
                      f"{number(kept)}")
    return loop.finish(model)


def moved_score(
    task: ClassificationTask, loop: Loop, model: nn.Module, weight: nn.Parameter, change: Tensor, split: Split
) -> float:
    """Mean score on a split with one weight tensor changed, in eval mode; the weight is put back."""
    before = weight.detach().clone()
    with evaluating(model):
        weight.add_(change)
        scores = [task.observe(model, batch)["score"] for batch in loop.drawn(split, 256, "slug-look")]
        weight.copy_(before)
    loop.cost.examples += len(split)
    return float(torch.cat(scores).mean())

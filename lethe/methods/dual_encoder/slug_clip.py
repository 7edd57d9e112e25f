"""SLUG on CLIP: change one layer of one encoder by one gradient step, so that pictures and names no longer meet. Cai, Tan & Asif
(2024), "Single Layer Unlearning Gradient", arXiv:2407.11867.

    W_l ← W_l + λ·g_l,    g = ∇ E_{(x,t)∈F} (1 − cos(u(x), v(t))),    r = ∇ of the contrast of batches of R
    importance I_l = ‖g_l‖/‖W_l‖,    alignment A_l = |cos(g_l, r_l)|,    λ_0 = ‖W_l‖/(10·‖g_l‖)

F forget pairs, R retain pairs, u and v the vectors of picture and caption, W_l a weight matrix or kernel. Candidates are, in each
tower, the Pareto front of large I and small A, at most `candidates` of it. λ of each: doubled from λ_0 until the zero-shot
accuracy (among the `top` classes) on the checked part of F (not in g) is at most `target`, then halved between the brackets;
`evaluations` looks in all, the smallest λ that was enough is kept. The layer with the highest zero-shot accuracy on a part of R
wins among those that reached the target; else the one that came nearest.
Needs:    forget, retain.     Updates: one weight tensor.
Cost:     one gradient pass over F and one over R, and `evaluations` looks at a part of F per candidate; no optimisation.
Limits:   λ = 0 is the original. Embeddings, norms, biases and the scale are never candidates. Beside a language model that
          reads pictures (model.vlm, a LLaVA) only what it reads of the image encoder moves; its other weights stay bit for bit.
Fails by: the other direction: a picture is no longer called by its name, and the name may still find its picture (audit:
          zero_shot, forget_retrieval). Single pairs, whose gradients are everybody's; a large λ, at which a step is no
          first-order change any more: ‖ΔW‖/‖W‖ is noted. One layer carries it, so a few steps of training bring it back.
Deviations: gradients are zeroed between batches, which the published notebook forgets, and retained captions
          stay as they are. λ and the layer are chosen on data granted to the method, not on the test. The accuracy on R chooses
          the layer; the published code lists the candidates. Edits of several requests are not added up.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, config
from lethe.core.families.dual_encoder import DualEncoderTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.core.words import number
from lethe.errors import RequestError
from lethe.maths.importance import gradient_sum
from lethe.maths.one_layer import front, importance_and_alignment, search
from lethe.train.loop import Loop


@config
class SLUGCLIP:
    """Options of SLUG on CLIP."""

    towers: Literal["both", "image", "text"] = "both"   # encoders to choose from [tested in test_slug_clip] [official code]
    candidates: Count = 5              # layers of each front that are searched [tested in test_slug_clip] [official code]
    evaluations: Count = 10            # looks at the forget set per layer                   [official code]
    target: Fraction = 0.0             # zero-shot accuracy on F that is enough              [official code]
    top: Count = 1                     # classes among which the true one counts             [ours; official 5 of 1000]
    checked: Fraction = 0.25           # share of F that the search looks at, not the gradient   [ours]
    batch_size: Count = 64             # pairs of one contrast on R [tested in test_slug_clip] [ours; official 4 up]


def dissimilarity(similarity: Tensor) -> Tensor:
    """1 − cos, the cosine embedding loss of a pair that belongs together.  [n] -> [n]"""
    return 1 - similarity


def hits(logits: Tensor, labels: Tensor, top: int) -> Tensor:
    """Whether the label is among the `top` largest logits.  [n, K], [n] -> [n]

    Logits (3, 2, 1), label 1: not the first, among the first two.
    """
    best = logits.topk(min(top, logits.shape[1]), 1).indices
    return (best == labels.unsqueeze(1)).any(1).float()


@method(needs={"forget", "retain"}, uses={"batch_loss", "labels", "tower_weights", "outputs", "similarity"}, mechanism="ascent")
def run(cfg: SLUGCLIP, task: DualEncoderTask, loop: Loop) -> Outcome:
    model = loop.start()
    towers = movable(cfg, task, loop, model)
    weights = {name: loop.selected(model)[name] for names in towers.values() for name in names}
    order = torch.randperm(len(task.forget), generator=loop.generator("slug_clip", "forget"))
    cut = min(max(1, round(cfg.checked * len(order))), len(order) - 1)
    check = task.forget.subset(order[:cut].numpy() if cut else order.numpy(), "forget")
    some = torch.randperm(len(task.retain), generator=loop.generator("slug_clip", "retain"))[:512]
    part = task.retain.subset(some.numpy(), "retain")
    g = mean_gradient(task, loop, model, weights, task.forget.subset(order[cut:].numpy(), "forget"), cfg.batch_size)
    r = mean_gradient(task, loop, model, weights, task.retain, cfg.batch_size, contrast=True)

    def score(name: str, split: Split, size: float) -> float:
        return moved_score(task, loop, model, weights[name], size * g[name], split, cfg.top)

    found: list[tuple[bool, float, str, float]] = []   # enough, accuracy on R (or what is left on F, negative), name, λ
    for names in towers.values():
        sized = {name: g[name] for name in names if g[name].norm() > 0}
        for place in front(*importance_and_alignment(sized, r, weights))[: cfg.candidates]:
            name = list(sized)[place]
            start = float(weights[name].detach().norm() / (10 * g[name].norm()))
            step = search(partial(score, name, check), start, cfg.target, cfg.evaluations)
            left = score(name, check, step)
            found.append((left <= cfg.target, score(name, part, step) if left <= cfg.target else -left, name, step))
    if not found:
        loop.notes.append("the gradient on the forget set is zero, so nothing was changed")
        return loop.finish(model)
    _, reached, name, step = max(found)
    change = step * g[name]
    loop.notes.append(f"{name} moved by {number(step)} times its gradient, ‖ΔW‖/‖W‖ = "
                      f"{number(float(change.norm() / weights[name].detach().norm()))}; zero-shot accuracy on {len(part)} "
                      f"retained pairs: {number(reached)}" if reached >= 0 else
                      f"no layer brought the zero-shot accuracy on forgotten pairs down to {cfg.target:g}; {name} came nearest")
    loop.assign(model, {name: weights[name].detach() + change})
    return loop.finish(model)


def movable(cfg: SLUGCLIP, task: DualEncoderTask, loop: Loop, model: nn.Module) -> dict[str, list[str]]:
    """The candidate layers by tower that `where` and the options let move; RequestError when none is left."""
    moving = loop.selected(model)
    found = {tower: [name for name in names if name in moving] for tower, names in task.tower_weights(model).items()
             if cfg.towers in ("both", tower)}
    if not any(found.values()):
        raise RequestError("no weight matrix or kernel of an encoder may move, so SLUG has no layer to choose; nothing was "
                           "started. Widen modifiers.where, or set method.towers: both.")
    return found


def mean_gradient(task: DualEncoderTask, loop: Loop, model: nn.Module, weights: Mapping[str, nn.Parameter], split: Split,
                  batch_size: int, contrast: bool = False) -> dict[str, Tensor]:
    """The mean gradient over a split: of 1 − cos of each pair, or of the contrast of whole batches."""
    def loss(m: nn.Module, batch: Batch) -> Tensor:
        return task.batch_loss(m, batch) if contrast else dissimilarity(task.similarity(m, batch))

    loop.cost.examples += len(split)
    total = gradient_sum(model, weights, loop.drawn(split, batch_size, "slug_clip", split.name), loss)
    return {name: value / len(split) for name, value in total.items()}


def moved_score(task: DualEncoderTask, loop: Loop, model: nn.Module, weight: nn.Parameter, change: Tensor, split: Split, top: int
                ) -> float:
    """Mean zero-shot accuracy on a split with one weight tensor changed, in eval mode; the weight is put back."""
    before = weight.detach().clone()
    with evaluating(model):
        weight.add_(change)
        found = [hits(task.outputs(model, batch), batch.y, top) for batch in loop.drawn(split, 256, "slug_clip-look")]
        weight.copy_(before)
    loop.cost.examples += len(split)
    return float(torch.cat(found).mean())

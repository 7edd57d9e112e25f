"""DAMP: remove from every layer the directions that only the forgotten class uses. Hatami, Aalishah & Monosov (2026), "Class
Unlearning via Depth-Aware Removal of Forget-Specific Directions", arXiv:2604.15166.

    d_f = μ_f − R R⁺ μ_f,    Q = orthonormal basis of {d_f},    W ← W (I − s_l Q Qᵀ)
    s_l = max(0, 2·AUC_l − 1) · l/L

For every linear and convolution layer l = 1 … L in the order in which they are called, L the last: μ_f [d] the mean input of the
forgotten class f, R [d, r] those of the retained classes, R R⁺ the projection on their span, W [out, d], AUC_l of a cross-fitted
linear probe that separates inputs of F from inputs of R. Inputs of convolutions are means over positions: directions lie in the
channels and are removed at every place of the kernel; inputs of linear layers are means over tokens. Everything is measured once,
on the original; biases stay.
Needs:    forget, retain; classes that vanish as a whole.     Updates: weights of linear and convolution layers.
Cost:     one forward pass over at most `examples` per class, and a probe for each layer; no gradients.
Limits:   ‖W'd̂‖ = (1 − s_l)·‖Wd̂‖; what is in the span of the retained prototypes is untouched. A layer with fewer inputs
          than retained classes has no direction left and stays (the first convolution of a grey image).
Fails by: single examples of classes that stay: it refuses. Classes whose examples lie wide around their mean.
Deviations: known from the abstract and public summaries, not from code. The paper's depth rule is a probe's separability and
          a ramp; their form (2·AUC − 1, l/L), the pooling of inputs and `examples` are ours. Convolutions in groups stay.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lethe.core.alike import whole_classes
from lethe.core.config import Count, config
from lethe.core.modules import evaluating, hooked
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import numpy_generator
from lethe.core.split import Batch, Split
from lethe.core.task import Task
from lethe.maths.ridge import cross_fitted
from lethe.maths.statistics import auc
from lethe.train.loop import Loop


@config
class DAMP:
    """Options of DAMP. Its strength has none: the probes decide."""

    examples: Count = 100              # of each class, at most, for prototypes and probes   [ours]
    folds: Count = 5                   # of the probe                                        [ours]
    batch_size: Count = 256            # examples per forward pass [changes nothing: one pass] [ours]


def directions(forget: Tensor, retain: Tensor) -> Tensor:
    """Q: orthonormal basis of what of the forgotten prototypes lies outside the span of the retained.  [g, d], [r, d] -> [d, k]

    Forgotten (3, 4, 0), retained (1, 0, 0): Q = (0, 1, 0) up to its sign.
    """
    mu, kept = forget.double().T, retain.double().T
    left = mu - kept @ (torch.linalg.pinv(kept) @ mu)
    size = left.norm(dim=0)
    left = left[:, size > 1e-6 * mu.norm(dim=0)]
    u, scale, _ = torch.linalg.svd(left / left.norm(dim=0), full_matrices=False)
    basis: Tensor = u[:, scale > 1e-6]
    return basis


def deafened(weight: Tensor, basis: Tensor, strength: float) -> Tensor:
    """W(I − sQQᵀ) along the inputs.  [out, d, …], [d, k] -> same as weight

    (3, 4) with Q = (0, 1), s = ½: (3, 2).
    """
    flat = weight.double().movedim(1, -1)
    return (flat - strength * (flat @ basis) @ basis.T).movedim(-1, 1).to(weight.dtype)


def depth_scale(area: float, place: int, depth: int) -> float:
    """s_l.  depth_scale(0.9, 2, 4) == 0.8·½ == 0.4"""
    return max(0.0, 2 * area - 1) * place / depth


def layer_inputs(model: nn.Module, task: Task, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Mean input of each example to every linear and convolution layer, in the order of the calls.  -> name: [n, d]"""
    found: dict[str, list[Tensor]] = {}
    seen: dict[str, list[Tensor]] = {}

    def catch(name: str, module: nn.Module) -> None:
        last = isinstance(module, nn.Linear)

        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach().float()
            pooled = x.reshape(len(x), -1, x.shape[-1]).mean(1) if last else x.flatten(2).mean(2)
            seen.setdefault(name, []).append(pooled.cpu())

        handles.append(module.register_forward_pre_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or (isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and module.groups == 1):
            catch(name, module)
    with hooked(*handles), evaluating(model):
        for batch in batches:
            task.outputs(model, batch)
            for name, calls in seen.items():   # a layer that is called twice is seen as the mean of its calls
                found.setdefault(name, []).append(torch.stack(calls).mean(0))
            seen.clear()
    return {name: torch.cat(parts) for name, parts in found.items()}


def some_of_each(split: Split, limit: int, rng: torch.Generator) -> Split:
    """At most `limit` random examples of every class."""
    y, order = split.columns["y"], torch.randperm(len(split), generator=rng)
    rows = torch.cat([order[y[order] == c][:limit] for c in y.unique()])
    return split.subset(rows.sort().values.numpy(), split.name)


def prototypes(x: Tensor, y: Tensor) -> Tensor:
    """Mean of each class.  [n, d], [n] -> [classes, d]"""
    return torch.stack([x[y == c].mean(0) for c in y.unique()])


@method(needs={"forget", "retain"}, uses={"labels", "outputs", "weights"}, mechanism="closed form")
def run(cfg: DAMP, task: Task, loop: Loop) -> Outcome:
    whole_classes(task.forget, task.retain, "DAMP")   # refused otherwise
    model = loop.start()
    forget, retain = (some_of_each(split, cfg.examples, loop.generator("damp", split.name))
                      for split in (task.forget, task.retain))
    inside, outside = (layer_inputs(model, task, loop.drawn(split, cfg.batch_size, "damp", split.name))
                       for split in (forget, retain))
    loop.cost.examples += len(forget) + len(retain)
    member = torch.cat([torch.ones(len(forget)), torch.zeros(len(retain))]).numpy()
    weights, values = loop.selected(model), {}
    each = [name for name, x in inside.items() if len(x) == len(forget) and len(outside[name]) == len(retain)]
    for place, name in enumerate(each, start=1):   # layers of a text encoder read prompts, not the examples
        basis = directions(prototypes(inside[name], forget.columns["y"]), prototypes(outside[name], retain.columns["y"]))
        if f"{name}.weight" not in weights or not basis.shape[1]:
            continue
        both = torch.cat([inside[name], outside[name]]).double().numpy()
        scores = cross_fitted(both, member, cfg.folds, numpy_generator(loop.seed, "damp", name))
        strength = depth_scale(auc(scores[member == 1], scores[member == 0]), place, len(each))
        weight = weights[f"{name}.weight"].detach()
        values[f"{name}.weight"] = deafened(weight, basis.to(weight.device), strength)
        loop.notes.append(f"{name}: {basis.shape[1]} of {basis.shape[0]} directions scaled by {1 - strength:.2f}")
    return loop.finish(loop.assign(model, values))

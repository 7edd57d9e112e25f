"""MSG, masked small gradients: draw anew the weights that forgotten and retained data use alike, then repair on retained data.
An entry of the NeurIPS 2023 unlearning challenge, as described and compared in Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari &
Haddadi (2024), "Deep Unlearn", arXiv:2410.01276.

    s_j = |∇_j L_R'(θ_0) − ∇_j L_F(θ_0)|,   L_S mean training loss over S;   M = the share ρ of least s_j in every convolution
    θ_j ← N(0, 2/fan-out) for j ∈ M;    then minimise L_R(θ), gradients of the other convolution weights times γ; lr rises, then
    falls linearly

F forget set, R retain set, R' as many examples of R as there are in F, drawn at random.
Needs:    forget, retain.     Updates: every trainable parameter, convolution weights outside M slowly.
Cost:     one gradient pass over F and R', then one forward/backward on R per step.
Limits:   ρ = 0 and γ = 1 is fine-tuning. A model without convolutions has its other weight matrices drawn anew (with a note).
Fails by: too short a repair: utility. Nothing drives what is drawn anew away from F but chance.
Deviations: the rate rises and falls with every step, not with every pass. γ acts on the gradient, so it needs SGD: Adam would
          undo it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, NonNegative, Positive, config
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.maths.importance import gradient_sum, largest
from lethe.train.loop import Loop, Term
from lethe.train.order import batches_per_epoch

Gradients = list[Tensor]


@config
class MSG:
    """Options of MSG."""

    share: Fraction = 0.3              # ρ, of every convolution's weights: drawn anew       [challenge code]
    slow: NonNegative = 0.1            # γ, factor of the other convolution weights' gradient [challenge code]
    lr: Positive = 0.1                 # SGD, its peak                                       [ours, digits CNN; challenge 1e-3]
    epochs: Positive = 5.0             # passes over R                                       [challenge code]
    warmup: Fraction = 0.2             # share of the steps in which lr rises                [ours]
    batch_size: Count = 64             # examples per step                                   [ours]
    weight_decay: NonNegative = 5e-4   # pull towards 0                                      [challenge code]
    clip: Positive | None = None       # largest gradient norm; null: none                   [challenge code: none]


def kernels(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Names of the convolution weights among these."""
    convolutions = {f"{path}.weight".lstrip(".") for path, m in model.named_modules()
                    if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))}
    return [name for name in names if name in convolutions]


def redrawn(theta: Tensor, mask: Tensor, rng: torch.Generator) -> Tensor:
    """He's normal initialisation (arXiv:1502.01852) over outgoing connections where the mask is true.  [out, in, …] -> same"""
    fresh = nn.init.kaiming_normal_(torch.empty(theta.shape), mode="fan_out", nonlinearity="relu", generator=rng)
    return torch.where(mask, fresh.to(theta), theta)


@dataclass(frozen=True)
class Slowed:
    """combine: the gradient times a factor for each entry."""

    factors: Sequence[Tensor]

    def step(
        self, terms: Sequence[str], gradients: Callable[[Sequence[str]], Gradients], apply: Callable[[Gradients], None]
    ) -> None:
        apply([g * f for g, f in zip(gradients(terms), self.factors, strict=True)])


@method(needs={"forget", "retain"}, uses={"nll"}, mechanism="tuning")
def run(cfg: MSG, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    moving = loop.selected(model)

    def mean_gradient(split: Split) -> dict[str, Tensor]:
        loop.cost.examples += len(split)
        summed = gradient_sum(model, moving, loop.drawn(split, cfg.batch_size, "msg", split.name), task.nll)
        return {name: value / len(split) for name, value in summed.items()}

    names = kernels(model, list(moving))
    if not names:
        names = [name for name, p in moving.items() if p.dim() > 1]
        loop.notes.append("no convolution may move, so other weight matrices were drawn anew")
    order = torch.randperm(len(task.retain), generator=loop.generator("msg"))[: len(task.forget)]
    on_retain, on_forget = mean_gradient(task.retain.subset(order, "retain")), mean_gradient(task.forget)
    masks = {name: largest({name: -(on_retain[name] - on_forget[name]).abs()}, cfg.share)[name] for name in names}
    loop.assign(model, {name: redrawn(moving[name].detach(), mask, loop.generator("msg", name)) for name, mask in masks.items()})
    factors = [torch.where(masks[name], 1.0, cfg.slow) if name in masks else torch.ones_like(p) for name, p in moving.items()]
    steps = round(cfg.warmup * cfg.epochs * batches_per_epoch(task.retain, cfg.batch_size))
    loop.minimise(model, {"retain": Term(task.retain, task.nll)}, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser="sgd", weight_decay=cfg.weight_decay, clip=cfg.clip, schedule="linear", warmup=steps,
                  combine=Slowed(factors))
    return loop.finish(model)

"""Influence unlearning (IU): jump by one Newton step to where training without the forget set would have ended. Koh & Liang
(2017), arXiv:1703.04730; inverse by WoodFisher, Singh & Alistarh (2020), arXiv:2004.14340; as in Jia et al. (2023),
arXiv:2304.04934.

    θ = θ_0 + α · H⁻¹ · (1/|R|) · (Σ_{x∈F} ∇ℓ(θ_0; x) + |F|·λ·θ_0),      H = ∇² E_{x∈R} ℓ(θ_0; x) + (λ + ε)·I

F forget set, R retain set, ℓ the family's training loss, λ the ½‖θ‖² penalty of training, ε damping, α = 1 the full step.
solver = woodfisher   H is the empirical Fisher matrix, E g gᵀ over N gradients g of single retained examples, inverted exactly in
                      the space of these gradients (Woodbury); the recursion of the paper gives the same (tested).
solver = newton       H is the true Hessian, inverted by conjugate gradients, which end where curvature is not positive.
Needs:    forget, retain.     Updates: every trainable parameter.
Cost:     woodfisher: N gradients (N·d numbers in memory) and one N×N system. newton: one Hessian-vector product over R per
          iteration. One gradient pass over F; no optimisation.
Limits:   newton with ε = 0, α = 1 is exact where ℓ is quadratic (ridge regression, tested); α = 0 changes nothing.
Fails by: curvature: on networks H is singular without ε, and the step is only right where it is small. Forget gradients of a
          fitted network are near zero, so that α has to be searched: little happens, then everything.
Deviations: the official code keeps two vectors in place of the recursion, which is not H⁻¹; here it is exact. It combines
          gradients of F and of R; at the optimum of training their sum is −|F|·λ·θ_0 and both forms agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from lethe.core.config import Count, NonNegative, config
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.core.task import Task
from lethe.maths.importance import example_gradients, gradient_sum
from lethe.train.loop import Loop

Product = Callable[[Tensor], Tensor]


@config
class WoodFisher:
    """Options of influence unlearning."""

    alpha: NonNegative = 1.0           # α, share of the step that is taken; the knob        [theory: 1; Jia et al. search it]
    solver: Literal["woodfisher", "newton"] = "woodfisher"   # what H is, see above          [Jia et al. 2023]
    damping: NonNegative = 0.1         # ε; larger: smaller step; the other knob             [ours, digits CNN]
    ridge: NonNegative = 0.0           # λ, weight of ½‖θ‖² in the training loss             [ours: none]
    examples: Count = 1000             # N, retained gradients in the Fisher matrix          [Jia et al. code]
    iterations: Count = 100            # of conjugate gradients, newton only [only with solver=newton] [ours]
    batch_size: Count = 256            # examples per gradient or product [changes nothing: sums] [ours]


def woodbury(rows: Tensor, v: Tensor, damping: float) -> Tensor:
    """(δI + (1/N)·Σ g gᵀ)⁻¹ v from the N rows g, in float64.  [N, d], [d] -> [d]

    woodbury([[2]], [10], 1) == [2]: 10 / (1 + 4).
    """
    rows, v = rows.double(), v.double()
    inner = rows @ rows.T + len(rows) * damping * torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
    solved: Tensor = (v - rows.T @ torch.linalg.solve(inner, rows @ v)) / damping
    return solved


def reference_woodbury(rows: Tensor, v: Tensor, damping: float) -> Tensor:
    """The same by the recursion of the paper: one rank after the other, on the dense inverse."""
    inverse = torch.eye(rows.shape[1], dtype=torch.float64) / damping
    for g in rows.double():
        u = inverse @ g
        inverse = inverse - torch.outer(u, u) / (len(rows) + g @ u)
    return inverse @ v.double()


def conjugate_gradients(product: Product, v: Tensor, iterations: int, tolerance: float = 1e-10) -> Tensor:
    """x with product(x) = v, for a positive matrix; the iterate before a direction whose curvature is not positive."""
    x, left = torch.zeros_like(v), v.clone()
    direction, square = left.clone(), left @ left
    for _ in range(iterations):
        if square <= tolerance**2 * (v @ v):
            break
        image = product(direction)
        curvature = direction @ image
        if curvature <= 0:
            break
        x = x + square / curvature * direction
        left = left - square / curvature * image
        square, before = left @ left, square
        direction = left + square / before * direction
    return x


def hessian_product(model: nn.Module, params: list[nn.Parameter], task: Task, batches: Callable[[], Iterator[Batch]]) -> Product:
    """v ↦ ∇²E ℓ · v over the batches, in eval mode, by differentiating twice."""
    def product(v: Tensor) -> Tensor:
        total, count = torch.zeros_like(v), 0
        with evaluating(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):   # fused attention: first derivatives only
            for batch in batches():
                gradient = parameters_to_vector(torch.autograd.grad(task.nll(model, batch).sum(), params, create_graph=True))
                found = torch.autograd.grad(gradient @ v, params, materialize_grads=True)
                total, count = total + torch.cat([one.reshape(-1) for one in found]), count + len(batch)
        return total / count
    return product


@method(needs={"forget", "retain"}, uses={"nll", "vmap"}, mechanism="closed form")
def run(cfg: WoodFisher, task: Task, loop: Loop) -> Outcome:
    model = loop.start()
    moving = loop.selected(model)
    params, number = list(moving.values()), len(task.retain)
    theta = parameters_to_vector(params).detach()
    summed = gradient_sum(model, moving, loop.drawn(task.forget, cfg.batch_size, "influence"), task.nll)
    right = (flat(summed, params) + len(task.forget) * cfg.ridge * theta) / number
    extra = cfg.ridge + cfg.damping
    loop.cost.examples += len(task.forget)
    if cfg.solver == "woodfisher":
        order = torch.randperm(number, generator=loop.generator("influence"))[: cfg.examples]
        step = woodbury(gradients(model, moving, task, loop, task.retain.subset(order.numpy(), "some"), cfg), right, extra)
    else:
        curved = hessian_product(model, params, task, lambda: loop.drawn(task.retain, cfg.batch_size, "influence"))
        step = conjugate_gradients(lambda v: curved(v) + extra * v, right, cfg.iterations)
        loop.cost.examples += number * cfg.iterations
    values = [p.detach().clone() for p in params]
    vector_to_parameters(theta + cfg.alpha * step.to(theta), values)
    return loop.finish(loop.assign(model, dict(zip(moving, values, strict=True))))


def gradients(model: nn.Module, moving: dict[str, nn.Parameter], task: Task, loop: Loop, some: Split, cfg: WoodFisher) -> Tensor:
    """The gradient of every example as a row.  -> [N, d]"""
    loop.cost.examples += len(some)
    rows = []
    for batch in loop.drawn(some, cfg.batch_size, "influence"):
        found = example_gradients(model, moving, batch, task.nll)
        rows.append(torch.cat([found[name].flatten(1) for name in moving], 1))
    return torch.cat(rows)


def flat(tensors: dict[str, Tensor], params: list[nn.Parameter]) -> Tensor:
    """One vector in the order of the parameters.  -> [d]"""
    assert [value.shape for value in tensors.values()] == [p.shape for p in params]
    return torch.cat([value.flatten() for value in tensors.values()])

"""How much each weight matters to some data: summed gradients, diagonal Fisher estimates, masks of the largest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lethe.core.modules import Asked, evaluating
from lethe.core.split import Batch

Loss = Callable[[nn.Module, Batch], Tensor]


def gradient_sum(
    model: nn.Module, params: Mapping[str, nn.Parameter], batches: Iterable[Batch], loss: Loss
) -> dict[str, Tensor]:
    """Σ_i ∇ loss_i over all examples, in eval mode; signed, so batch size does not matter.  -> name: [shape of θ]"""
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    for _, gradients in _gradients(model, params, batches, lambda m, b: loss(m, b).sum()):
        for name, gradient in gradients.items():
            total[name] += gradient
    return total


def squared_batch_gradients(
    model: nn.Module, params: Mapping[str, nn.Parameter], batches: Iterable[Batch], loss: Loss
) -> dict[str, Tensor]:
    """E over batches of (∇ of the batch-mean loss)², weighted by batch size, in eval mode.

    The "diagonal Fisher" of SSD's and SFRon's official code. Not the per-example Fisher: it grows where gradients of a
    batch agree, and depends on the batch size, which must be equal for two estimates that are compared.
    """
    return _over_batches(model, params, batches, loss, torch.square)


def absolute_batch_gradients(
    model: nn.Module, params: Mapping[str, nn.Parameter], batches: Iterable[Batch], loss: Loss
) -> dict[str, Tensor]:
    """E over batches of |∇ of the batch-mean loss|, weighted by batch size, in eval mode: the importance of LFSSD."""
    return _over_batches(model, params, batches, loss, torch.abs)


def squared_example_gradients(
    model: nn.Module, params: Mapping[str, nn.Parameter], batches: Iterable[Batch], loss: Loss
) -> dict[str, Tensor]:
    """E over examples of (∇ loss_i)²: the empirical diagonal Fisher, one backward per example, in eval mode."""
    singles = (piece for batch in batches for piece in batch.pieces(len(batch)))
    return squared_batch_gradients(model, params, singles, loss)


def largest(scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
    """Boolean masks of the round(density·d) largest entries over all tensors together; ties at the threshold are kept."""
    flat = torch.cat([value.detach().flatten().float() for value in scores.values()])
    keep = round(density * flat.numel())
    if keep == 0:
        return {name: torch.zeros_like(value, dtype=torch.bool) for name, value in scores.items()}
    threshold = torch.kthvalue(flat, flat.numel() - keep + 1).values
    return {name: value.float() >= threshold for name, value in scores.items()}


def _over_batches(
    model: nn.Module, params: Mapping[str, nn.Parameter], batches: Iterable[Batch], loss: Loss, size: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """E over batches of `size` of the gradient of the batch-mean loss, weighted by batch size."""
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    count = 0
    for batch, gradients in _gradients(model, params, batches, lambda m, b: loss(m, b).mean()):
        count += len(batch)
        for name, gradient in gradients.items():
            total[name] += len(batch) * size(gradient)
    return {name: value / max(count, 1) for name, value in total.items()}


def _gradients(
    model: nn.Module, params: Mapping[str, nn.Parameter], batches: Iterable[Batch], loss: Loss
) -> Iterable[tuple[Batch, dict[str, Tensor]]]:
    """(batch, name -> gradient) with the model in eval mode; `.grad` and `requires_grad` are left as they were."""
    before = {name: p.requires_grad for name, p in params.items()}
    with evaluating(model), torch.enable_grad():
        for p in params.values():
            p.requires_grad_(True)
        try:
            for batch in batches:
                grads = torch.autograd.grad(loss(model, batch), list(params.values()), allow_unused=True)
                yield batch, {
                    name: torch.zeros_like(p) if g is None else g
                    for (name, p), g in zip(params.items(), grads, strict=True)
                }
        finally:
            for name, p in params.items():
                p.requires_grad_(before[name])


def example_gradients(model: nn.Module, params: Mapping[str, nn.Parameter], batch: Batch, loss: Loss) -> dict[str, Tensor]:
    """∇ loss_i of each example by itself, in eval mode.  -> name: [n, shape of θ]

    Vectorised; one after the other where the model's control flow depends on its input, which vmap cannot follow.
    """
    call = Asked(model, loss)
    values = {f"model.{name}": p.detach() for name, p in params.items()}

    def one(values: dict[str, Tensor], columns: dict[str, Tensor]) -> Tensor:
        single = Batch({key: value.unsqueeze(0) for key, value in columns.items()}, batch.index[:1], batch.drawn)
        total: Tensor = torch.func.functional_call(call, values, (single,)).sum()
        return total

    gradient = torch.func.grad(one)
    with evaluating(model), sdpa_kernel(SDPBackend.MATH):   # fused attention has no rule for vmap
        try:
            found = torch.func.vmap(gradient, in_dims=(None, 0))(values, batch.columns)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            rows = [gradient(values, {key: value[i] for key, value in batch.columns.items()}) for i in range(len(batch))]
            found = {key: torch.stack([row[key] for row in rows]) for key in values}
    return {name: found[f"model.{name}"] for name in params}

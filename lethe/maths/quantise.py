"""Weights in few bits, and with few weights: what a deployment does to a model after it was unlearned. Pure tensors.

Everything here returns float values that a low-bit kernel would compute with ("fake" quantisation), so that it runs on
any device without that kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.modules import copied, hooked

NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)   # Dettmers et al. 2023, arXiv:2305.14314, app. E
EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)   # of the activation scales that `activation_aware` tries


def grouped(w: Tensor, group: int) -> tuple[Tensor, int]:
    """Rows of at most `group` weights of one output, zero-padded, and the padding.  [out, …] -> [out, groups, size]"""
    flat = w.detach().float().flatten(1)
    size = min(group, flat.shape[1])
    pad = -flat.shape[1] % size
    return F.pad(flat, (0, pad)).view(len(flat), -1, size), pad


def ungrouped(x: Tensor, pad: int, like: Tensor) -> Tensor:
    """The inverse of `grouped`, in the shape and type of `like`."""
    flat = x.flatten(1)
    return flat[:, : flat.shape[1] - pad].reshape(like.shape).to(like.dtype)


def codes(w: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor, int]:
    """(c, Δ, padding): c = round(w/Δ), Δ = max|w| / (2^{bits−1} − 1) per group: symmetric, the largest weight is exact."""
    rows, pad = grouped(w, group)
    step = rows.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (rows / step.clamp(min=torch.finfo(rows.dtype).tiny)).round(), step, pad


def nearest(w: Tensor, bits: int, group: int = 64) -> Tensor:
    """Round to nearest in `bits` bits with one scale per `group` weights of an output.  [out, …] -> [out, …]"""
    whole, step, pad = codes(w, bits, group)
    return ungrouped(whole * step, pad, w)


def normal_float(w: Tensor, group: int = 64) -> Tensor:
    """NF4: the nearest of 16 normal quantiles times max|w| of the group.  [out, …] -> [out, …]"""
    rows, pad = grouped(w, group)
    step = rows.abs().amax(-1, keepdim=True)
    table = torch.tensor(NF4, device=w.device)
    middle = (table[1:] + table[:-1]) / 2
    place = torch.bucketize((rows / step.clamp(min=torch.finfo(rows.dtype).tiny)).contiguous(), middle)
    return ungrouped(table[place] * step, pad, w)


def cast(w: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded to a shorter float and back.  [...] -> [...]"""
    return w.detach().to(dtype).to(w.dtype)


def pruned(w: Tensor, share: float) -> Tensor:
    """The ⌊share·n⌋ weights of least magnitude set to 0.  [...] -> [...]"""
    count = int(share * w.numel() + 1e-9)
    if not count:
        return w.detach().clone()
    gone = w.detach().abs().flatten().argsort(stable=True)[:count]
    return w.detach().flatten().index_fill(0, gone, 0.0).view_as(w)


def activation_aware(w: Tensor, x: Tensor, bits: int, group: int = 64) -> Tensor:
    """Q(W·s)/s with the scales s = mean|x|^α that keep ‖(Q(W·s)/s − W)xᵀ‖ least over α.  [out, in], [n, in] -> [out, in]

    After Lin et al. 2023 (AWQ, arXiv:2306.00978): inputs with large activations get finer steps. α = 0 is `nearest`.
    """
    w32, x = w.detach().float(), x.detach().float()
    size = x.abs().mean(0).clamp(min=1e-6)
    best, least = w, float("inf")
    for exponent in EXPONENTS:
        scale = size**exponent
        scale = scale / (scale.max() * scale.min()).sqrt()
        candidate = nearest(w32 * scale, bits, group) / scale
        error = float(((candidate - w32) @ x.T).pow(2).sum())
        if error < least:
            best, least = candidate.to(w.dtype), error
    return best


def equal_codes(a: Tensor, b: Tensor, bits: int, group: int = 64) -> int:
    """How many weights of a and b have the same code when each is quantised with its own scales."""
    mine, _, pad = codes(a, bits, group)
    same = (mine == codes(b, bits, group)[0]).flatten(1)
    return int(same[:, : same.shape[1] - pad].sum())


# -- whole models --------------------------------------------------------------------------------------------------------


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """What weight-only quantisation touches: tensors with at least two dimensions, but no embedding that is only looked up, and
    no codes of a layer that is quantised already."""
    looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    used = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    return {name: p for name, p in model.named_parameters()
            if p.dim() > 1 and p.is_floating_point() and (id(p) in used or id(p) not in looked_up)}


def mapped(model: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A frozen copy with every matrix changed."""
    twin = copied(model, trainable=False)
    with torch.no_grad():
        for p in matrices(twin).values():
            p.copy_(change(p))
    return twin


def calibrated(model: nn.Module, run: Callable[[nn.Module], object], bits: int, group: int = 64, rows: int = 512) -> nn.Module:
    """A frozen copy with `activation_aware` linear layers by the inputs they see in `run`; other matrices `nearest`."""
    twin = copied(model, trainable=False)
    with recorded(twin, rows) as seen, torch.no_grad():
        run(twin)
    by_weight = {id(m.weight): seen[m] for m in twin.modules() if isinstance(m, nn.Linear) and m in seen}
    with torch.no_grad():
        for p in matrices(twin).values():
            p.copy_(activation_aware(p, by_weight[id(p)], bits, group) if id(p) in by_weight else nearest(p, bits, group))
    return twin


@contextmanager
def recorded(model: nn.Module, rows: int) -> Iterator[dict[nn.Module, Tensor]]:
    """The first `rows` input rows of every linear layer while the model runs."""
    seen: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        have = seen.get(module)
        if have is None or len(have) < rows:
            x = args[0].detach().flatten(0, -2)
            seen[module] = (x if have is None else torch.cat([have, x]))[:rows]

    handles = [m.register_forward_pre_hook(keep) for m in model.modules() if isinstance(m, nn.Linear)]
    with hooked(*handles):
        yield seen

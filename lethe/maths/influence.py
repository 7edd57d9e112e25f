"""What a prediction owes to single training examples, without training again: influence functions and TRAK.

    θ without F ≈ θ + |R|⁻¹ (H + λ)⁻¹ Σ_{i∈F} ∇ℓ_i,     H = E_{x∈R} Jᵀ∇²ℓ J  (Gauss–Newton)
    Δf(q; F)    ≈ |R|⁻¹ Σ_{i∈F} ∇f(q)ᵀ (H + λ)⁻¹ ∇ℓ_i

Koh & Liang 2017, arXiv:1703.04730. H is taken per layer in the eigenbasis of its Kronecker factors with corrected eigenvalues
(EK-FAC: George et al. 2018, arXiv:1806.03884; Grosse et al. 2023, arXiv:2308.03296); λ is a share of its mean eigenvalue.
Exact where the loss is quadratic in one linear layer. Weights outside linear and convolution layers (norms, embeddings) count as
fixed. TRAK (Park et al. 2023, arXiv:2303.14186) has random projections of margin gradients in place of H.
Report the `lds` of the estimate beside every number made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lethe.core.modules import evaluating, hooked
from lethe.core.seeds import generator
from lethe.core.split import Batch
from lethe.maths.importance import Loss, gradient_sum
from lethe.maths.losses import margin


class Seen(NamedTuple):
    """What a layer saw and what a scalar of each example owes to it: gradient of the weights = Σ_t delta_t ⊗ a_t."""

    a: Tensor       # [n, T, d] inputs, a 1 behind them where the layer has a bias
    delta: Tensor   # [n, T, o] derivatives by its outputs

    @property
    def gradients(self) -> Tensor:
        """Per example.  [n, o, d]"""
        return torch.einsum("nto,ntd->nod", self.delta, self.a)


@dataclass
class Basis:
    """Eigenbasis of the Kronecker factors of one layer, and the mean square of per-example gradients in it."""

    left: Tensor      # [o, o]
    right: Tensor     # [d, d]
    values: Tensor    # [o, d]
    damping: float    # λ, absolute

    def turned(self, gradients: Tensor) -> Tensor:
        """In the eigenbasis.  [..., o, d]"""
        return self.left.T @ gradients @ self.right

    def whitened(self, gradients: Tensor) -> Tensor:
        """(H + λ)^−½ g in the eigenbasis: products of two of these are influences.  [n, o, d] -> [n, o·d]"""
        return (self.turned(gradients) / (self.values + self.damping).sqrt()).flatten(1)

    def solved(self, gradient: Tensor) -> Tensor:
        """(H + λ)⁻¹ g.  [o, d]"""
        return self.left @ (self.turned(gradient) / (self.values + self.damping)) @ self.right.T


Curvature = Mapping[str, Basis]


def known(outputs: Tensor, y: Tensor) -> Tensor:
    """The scalar f of each example that is attributed: margin of the label, mean output for real targets.  [n, K] -> [n]"""
    return margin(outputs, y).float() if not y.is_floating_point() else outputs.flatten(1).mean(1)


def curvature(
    model: nn.Module, batches: Callable[[], Iterable[Batch]], outputs: Loss, damping: float = 0.1, seed: int = 0
) -> dict[str, Basis]:
    """EK-FAC of the mean loss over the examples; two passes of `batches()`. Labels are drawn from the model's own answers.

    outputs  (model, batch) -> [n, K]: logits where y are class numbers, predictions of a mean squared error where they are real
    """
    def passes() -> Iterator[dict[str, Seen]]:
        rng = generator(seed, "curvature")
        for batch in batches():
            yield traces(model, batch, lambda m, b: sampled(outputs(m, b), b.y, rng))

    factors: dict[str, list[Tensor]] = {}
    for seen in passes():
        for name, (a, delta) in seen.items():
            flat_a, flat_delta = a.flatten(0, 1), delta.flatten(0, 1)
            found = factors.setdefault(name, [torch.zeros(()), torch.zeros(())])
            found[0], found[1] = found[0] + flat_a.T @ flat_a, found[1] + flat_delta.T @ flat_delta
    bases = {name: (torch.linalg.eigh(s.double()).eigenvectors.float(), torch.linalg.eigh(a.double()).eigenvectors.float())
             for name, (a, s) in factors.items()}
    values: dict[str, Tensor] = {}
    count = 0
    for seen in passes():
        count += len(next(iter(seen.values())).a)
        for name, layer in seen.items():
            left, right = bases[name]
            turned = Seen(layer.a @ right, layer.delta @ left).gradients
            values[name] = values.get(name, torch.zeros(())) + turned.square().sum(0)
    return {name: Basis(*bases[name], value / count, damping * float(value.mean()) / count) for name, value in values.items()}


def sampled(outputs: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
    """A scalar per example whose gradient has the Gauss–Newton matrix as second moment.  [n, K] -> [n]

    Classes: cross-entropy of a label drawn from the prediction. Real targets: (2/h)^½ ε·ŷ, ε ~ N(0, I), the square root of
    the mean squared error's second derivative.
    """
    if y.is_floating_point():
        flat = outputs.flatten(1)
        noise = torch.randn(flat.shape, generator=rng).to(flat.device)
        projected: Tensor = (2 / flat.shape[1]) ** 0.5 * (noise * flat).sum(1)
        return projected
    drawn = torch.multinomial(outputs.detach().softmax(-1).cpu(), 1, generator=rng).squeeze(1).to(outputs.device)
    return F.cross_entropy(outputs, drawn, reduction="none")


def traces(model: nn.Module, batch: Batch, scalar: Loss) -> dict[str, Seen]:
    """What every linear and convolution layer contributed to the scalar of each example, from one pass in eval mode."""
    caught: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}

    def hook(name: str) -> Callable[..., Tensor]:
        def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            caught[name] = (module, args[0].detach(), output)
            return output.clone()   # an activation that works in place must not change what is kept

        return keep

    layers = {name: module for name, module in model.named_modules() if counted(module)}
    before = {p: p.requires_grad for module in layers.values() for p in module.parameters()}
    handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    try:
        with hooked(*handles), evaluating(model), torch.enable_grad():
            for p in before:
                p.requires_grad_(True)
            total = scalar(model, batch).sum()
            deltas = torch.autograd.grad(total, [output for _, _, output in caught.values()])
    finally:
        for p, state in before.items():
            p.requires_grad_(state)
    return {name: seen(module, a, delta) for (name, (module, a, _)), delta in zip(caught.items(), deltas, strict=True)}


def counted(module: nn.Module) -> bool:
    """Whether a layer's weights are attributed; grouped convolutions and named paddings count as fixed."""
    plain = isinstance(module, nn.Conv2d) and module.groups == 1 and isinstance(module.padding, tuple)
    return isinstance(module, nn.Linear) or plain


def seen(module: nn.Module, a: Tensor, delta: Tensor) -> Seen:
    """Inputs and output derivatives of a layer as rows; of a convolution, one row per place."""
    if isinstance(module, nn.Conv2d):
        a = F.unfold(a, module.kernel_size, module.dilation, module.padding, module.stride).transpose(1, 2)   # type: ignore[arg-type]
        delta = delta.flatten(2).transpose(1, 2)
    else:
        a, delta = a.reshape(len(a), -1, a.shape[-1]), delta.reshape(len(a), -1, delta.shape[-1])
    if module.bias is not None:
        a = torch.cat([a, a.new_ones(*a.shape[:2], 1)], 2)
    return Seen(a, delta)


def whitened(model: nn.Module, at: Curvature, batches: Iterable[Batch], scalar: Loss) -> Iterator[Tensor]:
    """Gradients of a scalar per example, such that their products are influences.  -> [n, p] per batch"""
    for batch in batches:
        layers = traces(model, batch, scalar)
        yield torch.cat([at[name].whitened(layer.gradients) for name, layer in layers.items()], 1)


def influence(
    model: nn.Module, at: Curvature, count: int, queries: Iterable[Batch], records: Iterable[Batch], f: Loss, loss: Loss
) -> Tensor:
    """Δf(q) when record i is taken out: ∇f(q)ᵀ (H + λ)⁻¹ ∇ℓ_i / count.  -> [queries, records]

    count  examples behind the curvature. The sum over a set of records is the effect of the set.
    """
    kept = torch.cat(list(whitened(model, at, records, loss)))
    return torch.cat([rows @ kept.T for rows in whitened(model, at, queries, f)]) / count


def self_influence(model: nn.Module, at: Curvature, count: int, records: Iterable[Batch], loss: Loss) -> Tensor:
    """How much a record's own loss would rise without it: ∇ℓ_iᵀ (H + λ)⁻¹ ∇ℓ_i / count.  -> [n]"""
    return torch.cat([rows.square().sum(1) for rows in whitened(model, at, records, loss)]) / count


def removal_step(model: nn.Module, at: Curvature, count: int, records: Iterable[Batch], loss: Loss) -> dict[str, Tensor]:
    """Where the weights would go without the records: (H + λ)⁻¹ Σ ∇ℓ_i / count.  -> parameter name: [shape of θ]"""
    params = dict(model.named_parameters())
    total = gradient_sum(model, params, records, loss)
    step = {name: torch.zeros_like(value) for name, value in total.items()}
    for name, basis in at.items():
        weight, bias = f"{name}.weight", f"{name}.bias"
        gradient = total[weight].flatten(1)
        if bias in total:
            gradient = torch.cat([gradient, total[bias][:, None]], 1)
        solved = basis.solved(gradient) / count
        if bias in total:
            step[bias], solved = solved[:, -1].clone(), solved[:, :-1]
        step[weight] = solved.reshape(total[weight].shape).clone()
    return step


def linear_shift(model: nn.Module, step: Mapping[str, Tensor], batches: Iterable[Batch], outputs: Loss) -> Tensor:
    """J(x)·step: how the outputs would follow a step of the weights, to first order.  -> [n, K]"""
    params = [(p, step[name]) for name, p in model.named_parameters() if step[name].any()]
    before = {p: p.requires_grad for p, _ in params}
    shifts = []
    try:
        for p in before:
            p.requires_grad_(True)
        for batch in batches:
            with evaluating(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):   # fused attention: first derivatives only
                answers = outputs(model, batch)
                u = torch.zeros_like(answers, requires_grad=True)   # uᵀJ is linear in u: its derivative along the step is J·step
                back = torch.autograd.grad(answers, list(before), u, create_graph=True, allow_unused=True)
                along = sum((g * v).sum() for g, (_, v) in zip(back, params, strict=True) if g is not None)
                still = torch.zeros_like(answers).detach()
                shifts.append(torch.autograd.grad(along, u)[0] if isinstance(along, Tensor) else still)
    finally:
        for p, state in before.items():
            p.requires_grad_(state)
    return torch.cat(shifts)


# -- TRAK --------------------------------------------------------------------------------------------------------------


def projected(model: nn.Module, batches: Iterable[Batch], f: Loss, size: int = 512, seed: int = 0) -> Tensor:
    """φ = Pᵀ∇f of each example, P Gaussian with variance 1/size, drawn layer by layer.  -> [n, size]"""
    maps: dict[str, Tensor] = {}
    rows = []
    for batch in batches:
        total = torch.zeros(())
        for name, layer in traces(model, batch, f).items():
            flat = layer.gradients.flatten(1)
            if name not in maps:
                maps[name] = torch.randn(flat.shape[1], size, generator=generator(seed, "projection", name)).div(size**0.5)
            total = total + flat @ maps[name].to(flat.device)
        rows.append(total)
    return torch.cat(rows)


def trak(queries: Tensor, train: Tensor, wrong: Tensor, ridge: float = 1.0) -> Tensor:
    """−φ(q)ᵀ (ΦᵀΦ + ridge·mean diagonal)⁻¹ φ_i · (1 − p_i): the change of q's margin without i.  -> [q, n]

    queries [q, k], train [n, k] projected margin gradients; wrong [n] = 1 − p of the true label. −TRAK of one checkpoint.
    """
    phi = train.double()
    gram = phi.T @ phi
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    change: Tensor = -(queries.double() @ torch.linalg.solve(gram, phi.T) * wrong.double()).float()
    return change


# -- one linear layer, exactly -----------------------------------------------------------------------------------------


def head_influence(
    train: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, queries: np.ndarray, ridge: float
) -> np.ndarray:
    """Change of all logits of q when record i is taken out of softmax regression on features: one Newton step.  -> [q, n, K]

    Features [n, d], [q, d] (with a column of ones where there is a bias), probabilities [n, K] probabilities. The fit minimised
    Σ ℓ_i + ridge/2·‖W‖². H = Σ (diag p − ppᵀ) ⊗ aaᵀ + ridge; each record's own part of H is left out by Woodbury, so the step is
    Newton's on the loss of the others.
    """
    d, k = train.shape[1], probabilities.shape[1]
    blocks = np.einsum("nk,kl->nkl", probabilities, np.eye(k)) - np.einsum("nk,nl->nkl", probabilities, probabilities)
    h = np.einsum("nkl,nd,ne->kdle", blocks, train, train, optimize=True).reshape(k * d, k * d)
    h[np.diag_indices_from(h)] += ridge
    inverse = np.linalg.inv(h).reshape(k, d, k, d)
    error = probabilities - np.eye(k)[labels]                                                                  # [n, K] = ∂ℓ/∂z
    hat = np.einsum("nd,kdle,ne->nkl", train, inverse, train, optimize=True)                            # a H⁻¹ aᵀ
    own = np.linalg.solve(np.eye(k) - hat @ blocks, (hat @ error[..., None]))[..., 0]                   # logits of i itself
    pull = error + np.einsum("nkl,nl->nk", blocks, own)                                               # effective ∂ℓ/∂z
    scores: np.ndarray = np.einsum("qd,kdle,ne,nl->qnk", queries, inverse, train, pull, optimize=True)
    return scores


# -- how good an attribution is ----------------------------------------------------------------------------------------


def lds(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Linear datamodelling score of every query: Spearman's correlation over models trained on different subsets.

    [m models, q], [m, q] -> [q]; NaN where one side is constant.
    """
    from scipy.stats import rankdata

    a, b = (rankdata(x, axis=0) for x in (predicted, true))
    a, b = a - a.mean(0), b - b.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0)))

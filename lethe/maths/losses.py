"""Losses and divergences shared by several families, as pure functions of tensors. One value per example, or per
token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """−log softmax(logits)[label], in float32.  [n, K], [n] -> [n]"""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def kl(p_logits: Tensor, q_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T²·KL(softmax(p/T) ‖ softmax(q/T)) in nats.  [..., K], [..., K] -> [...]

    Both sides from log-softmax, never from clamped probabilities; T² keeps the gradient's size (Hinton et al. 2015).
    """
    log_p = F.log_softmax(p_logits.float() / temperature, -1)
    log_q = F.log_softmax(q_logits.float() / temperature, -1)
    # a probability of exactly 0 (masked logit −inf) contributes 0, not 0·(−inf)
    terms = torch.where(log_p.isneginf(), torch.zeros_like(log_p), log_p.exp() * (log_p - log_q))
    return temperature**2 * terms.sum(-1)


def jensen_shannon(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """JS(p, q) in bits, in [0, 1]; symmetric.  [..., K], [..., K] -> [...]"""
    log_p, log_q = F.log_softmax(p_logits.double(), -1), F.log_softmax(q_logits.double(), -1)
    log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0, dtype=torch.float64))

    def half(log_a: Tensor) -> Tensor:
        return torch.where(log_a.isneginf(), torch.zeros_like(log_a), log_a.exp() * (log_a - log_m)).sum(-1)

    return (half(log_p) + half(log_q)).clamp(min=0) / (2 * torch.log(torch.tensor(2.0, dtype=torch.float64)))


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """φ = z_y − logsumexp_{j≠y} z_j = log p_y/(1 − p_y), in float64.  [n, K], [n] -> [n]

    The logit-scaled confidence of LiRA (Carlini et al. 2022, arXiv:2112.03570) and the margin of KLoM. Taken from
    logits, because log(p/(1 − p)) from float32 probabilities saturates.
    """
    logits = logits.double()
    true = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    others = logits.scatter(-1, labels.unsqueeze(-1), float("-inf"))
    return true - others.logsumexp(-1)


def squared_distance(p: Tensor, q: Tensor) -> Tensor:
    """Mean squared difference over all but the first dimension.  [n, ...], [n, ...] -> [n]"""
    return (p.float() - q.float()).pow(2).flatten(1).mean(1)


def uniform_tokens(logits: Tensor) -> Tensor:
    """KL(uniform ‖ softmax(z)) in nats, 0 where the logits are equal.  [..., V] -> [...]

    uniform_tokens([ln 3, 0, 0]) = ln 5 − ln 3 − (ln 3)/3 = 0.144621.
    """
    logp = logits.float().log_softmax(-1)
    return -logp.mean(-1) - torch.tensor(float(logits.shape[-1])).log().to(logp.device)


def npo_loss(logp: Tensor, logp0: Tensor, beta: float) -> Tensor:
    """(2/β)·softplus(β(logp − logp0)), per example.  [n], [n] -> [n]

    npo_loss(−7, −7, 0.1) = 20·ln 2 = 13.8629. d/dlogp = 2σ(β(logp − logp0)) = W lies in (0, 2) and is 1 at θ_0.
    """
    return (2 / beta) * F.softplus(beta * (logp - logp0))


def preference_loss(chosen: Tensor, rejected: Tensor, beta: float, scale: float = 1.0) -> Tensor:
    """(scale/β)·softplus(−β(chosen − rejected)), per example.  [n], [n] -> [n]

    preference_loss(−3, −3, 0.1, 2) = 20·ln 2 = 13.8629.
    """
    return (scale / beta) * F.softplus(-beta * (chosen - rejected))

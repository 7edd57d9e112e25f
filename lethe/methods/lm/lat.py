"""LAT, latent adversarial training: unlearn while hidden states are pushed back towards the forgotten answer. Sheshadri, Ewart,
Guo, Lynch, Wu, Hebbar et al. (2024), arXiv:2407.15549.

    δ* = argmin over ‖δ_ℓ,t‖ ≤ ε of  E_{x∈F} ℓ̄(x; θ, δ)
    L(θ) = γ · E_{x∈F} 1/|y| · Σ_t −log(1 − p_θ,δ*(y_t | x, y_<t))  +  α · E_{x∈R} ℓ̄(x; θ)

F forget set, R retain set, y the answer and |y| its tokens, ℓ̄ mean negative log-probability of an answer's tokens; δ_ℓ,t is added
to the hidden state behind block ℓ at token t of the prompt, for some blocks spread over the depth; δ* by `inner_steps` steps of
Adam from 0, each followed by scaling what is longer than ε back to ε.
Needs:    forget; retain when α > 0.     Updates: every trainable parameter.
Cost:     `inner_steps` + 1 forward/backward on F and one on R per step; nothing of the original is kept.
Limits:   ε = 0 is ascent on −log(1 − p), whose gradient to the logit of y_t is p: it fades with what is forgotten.
Fails by: an ε beyond the size of the hidden states: the adversary then says the answer whatever the weights are, and the language
          is spent on it. Attacks on weights (relearning) are not what it trains against.
Deviations: the official code perturbs the outputs of MLPs, and tunes LoRA for 8 B weights (`modifiers.where`); here the residual
          stream. Plain text has no prompt: all its tokens are perturbed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.core.config import Count, Natural, NonNegative, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.answers import answered, counted, mean_over
from lethe.maths.losses import margin
from lethe.train.loop import Loop
from lethe.train.tuning import Tuned, tuned


@config
class LAT(Tuned):
    """Options of LAT."""

    gamma: NonNegative = 1.0           # weight of the forget term                           [official code]
    radius: NonNegative = 2.0          # ε, longest perturbation of a hidden state           [official code: 0.5–6]
    inner_steps: Natural = 16          # steps of the adversary; 0: none                     [official code: 16]
    inner_lr: Positive = 5e-2          # Adam, of the adversary                              [official code]
    layers: Count = 4                  # blocks that are perturbed, spread over the depth    [official code: 4]
    lr: Positive = 2e-5                # AdamW, for 8 B weights; tiny models need more       [official code]
    clip: Positive | None = 1.0        # largest gradient norm; null: none [only with lr=0.01]   [official code]


def away_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """−log(1 − p_y) from logits, without cancellation.  [..., V], [...] -> [...]

    away_loss([ln 3, 0, 0], 0) = −ln(1 − 3/5) = 0.916291.
    """
    return F.softplus(margin(logits, labels)).float()


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` blocks of `count`, evenly over the depth. spread(32, 4) == [6, 12, 19, 25]."""
    return sorted({(i + 1) * count // (wanted + 1) for i in range(wanted)} - ({count} if count > 1 else set())) or [0]


def within(delta: Tensor, radius: float) -> Tensor:
    """Each vector no longer than `radius`.  [..., d] -> [..., d]

    within([[3, 4], [0, 1]], 2) == [[1.2, 1.6], [0, 1]].
    """
    length: Tensor = delta.norm(dim=-1, keepdim=True)
    return delta * (radius / length.clamp(min=1e-12)).clamp(max=1)


@method(needs={"forget", "retain?"}, uses={"answer_lengths", "hidden_width", "layer_count", "nll", "outputs", "rewriting"},
        mechanism="ascent", instead={"retain": "alpha=0"})
def run(cfg: LAT, task: LanguageTask, loop: Loop) -> Outcome:
    blocks = spread(task.layer_count, cfg.layers)

    def perturbed(m: nn.Module, deltas: dict[int, Tensor], where: Tensor) -> AbstractContextManager[None]:
        return task.rewriting(m, lambda layer, h: h + (deltas[layer] * where).to(h.dtype), blocks)

    def attack(m: nn.Module, b: Batch, where: Tensor) -> dict[int, Tensor]:
        zero = torch.zeros(*b.ids.shape, task.hidden_width, device=b.ids.device)
        deltas = {layer: zero.clone().requires_grad_() for layer in blocks}
        adversary = torch.optim.Adam(list(deltas.values()), lr=cfg.inner_lr, foreach=False)
        for _ in range(cfg.inner_steps):
            with perturbed(m, deltas, where):
                loss = task.nll(m, b).sum()
            for delta, g in zip(deltas.values(), torch.autograd.grad(loss, list(deltas.values())), strict=True):
                delta.grad = g
            adversary.step()
            with torch.no_grad():
                for delta in deltas.values():
                    delta.copy_(within(delta, cfg.radius))
        return {layer: delta.detach() for layer, delta in deltas.items()}

    def push(m: nn.Module, b: Batch) -> Tensor:
        prompt = (b.labels < 0) & counted(b.length, b.ids.shape[1])
        where = (prompt | ~prompt.any(1, keepdim=True)).unsqueeze(2)
        deltas = attack(m, b, where) if cfg.inner_steps and cfg.radius else {}
        if deltas:
            with perturbed(m, deltas, where):
                logits = task.outputs(m, b)
        else:
            logits = task.outputs(m, b)
        count = task.answer_lengths(b)
        return mean_over(away_loss(logits, answered(b.labels, count, logits.shape[1])), count)

    return tuned(cfg, task, loop, push, task.nll, cfg.gamma)

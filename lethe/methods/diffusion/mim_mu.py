"""MiM-MU: teach the model to draw, for prompts with the concept, what the original draws without a prompt. Cheng et al. 2026,
arXiv:2603.00992.

    L(θ) = E_{(x, c)∈F, t, ε} ‖ε_θ(x_t, t, c) − ε_0(x_t, t, ∅)‖²,    x_t = √ᾱ_t x + √(1 − ᾱ_t) ε

F pictures x of the concept with their prompts c, ∅ the empty prompt, ε_0 the original (frozen), ε_θ the edited model.
The equations are our derivation from the paper's abstract and three summaries of it; the full text was not available.
Derivation: the mutual information of the concept's prompts and the picture is at most E_c KL(p_θ(x|c) ‖ q) for any q;
with q = p_0(x|∅), the original's unconditional law, the bound is small only when the concept's prompts yield ordinary
pictures. Along the diffusion chain the KL is a sum of squared differences of noise predictions; the term through x_t,
which needs the original's Jacobian, is dropped, as in score distillation.
Needs:    forget (pictures may come from the original itself), original. No retained data and no retained prompts.
Updates:  cross-attention weights.
Cost:     one forward/backward of θ and one forward of the original per step.
Limits:   equals `esd` at η = 0, on noised pictures instead of sampled points. The concept is still drawn as often as
          the original draws it without a prompt: unlearning accuracy cannot pass 1 − π.
Fails by: moving ε_θ(·, ∅), which shares the weights; the drift is measured and noted when it passes `drift`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Fraction, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.losses import squared_distance
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.where.names import Names


@config
class MiMMU:
    """Options of MiM-MU."""

    lr: Positive = 1e-5           # Adam; tiny models need about 3e-4                   [ours; the paper says small]
    epochs: Positive = 30.0       # passes over F                                       [paper, by a summary]
    batch_size: Count = 8         # pictures per step                                   [ours]
    low: Fraction = 0.0           # timesteps are uniform between these shares of       [ours: all of them]
    high: Fraction = 1.0          # the noise schedule                                  [ours: all of them]
    drift: NonNegative = 0.1      # noted above this share of ‖ε_0(c) − ε_0(∅)‖² [changes the notes] [ours]


def mim_loss(predicted: Tensor, unconditional: Tensor) -> Tensor:
    """Mean squared difference per example.  [n, …] ×2 -> [n]

    predicted (1, 3), unconditional (0, 1): (1 + 4)/2 = 2.5.
    """
    return squared_distance(predicted, unconditional.detach())


@method(needs={"forget", "original"}, uses={"alphas_cumprod", "layers", "outputs", "tokens"}, mechanism="distil")
def run(cfg: MiMMU, task: DiffusionTask, loop: Loop) -> Outcome:
    original = task.original.to(loop.settings.device)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        batch = banded(batch, cfg.low, cfg.high, len(task.alphas_cumprod))
        return mim_loss(task.outputs(model, batch), unconditional(task, original, batch))

    model = loop.start(where=Names(task.layers("cross")))
    loop.minimise(model, {"forget": Term(task.forget, loss)}, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size,
                  optimiser="adam")
    moved = drift(task, model, original, loop)
    if moved > cfg.drift:
        loop.notes.append(f"the prediction without a prompt moved by {moved:.2f} of the distance between prompt and no "
                          f"prompt (more than drift={cfg.drift:g}): other concepts may have suffered")
    return loop.finish(model)


def banded(batch: Batch, low: float, high: float, total: int) -> Batch:
    """The batch with its timesteps mapped from [0, total) to [low·total, high·total)."""
    if (low, high) == (0.0, 1.0):
        return batch
    return batch.replace(t=((low + (high - low) * batch.t / total) * total).long().clamp(max=total - 1))


def unconditional(task: DiffusionTask, model: nn.Module, batch: Batch) -> Tensor:
    """ε(x_t, t, ∅) without gradients.  -> [n, …]"""
    empty = task.tokens([""]).to(batch.tokens.device).expand_as(batch.tokens)
    with evaluating(model):
        return task.outputs(model, batch.replace(tokens=empty))


def drift(task: DiffusionTask, model: nn.Module, original: nn.Module, loop: Loop) -> float:
    """‖ε_θ(∅) − ε_0(∅)‖² over ‖ε_0(c) − ε_0(∅)‖², both summed over the forget set."""
    moved, apart = 0.0, 0.0
    for batch in loop.drawn(task.forget, 64, "drift"):
        before = unconditional(task, original, batch)
        with torch.no_grad():
            apart += float(squared_distance(task.outputs(original, batch), before).sum())
        moved += float(squared_distance(unconditional(task, model, batch), before).sum())
    return moved / max(apart, 1e-12)

"""MCU, minor component unlearning: misdirect the hidden states on forgotten text where they hardly vary, because fine-tuning
undoes changes along their large components first. Xiao, Xu, Chen, Wang, Yang, Hu & Chen (2026), arXiv:2605.11685.

    L(θ) = E_{x∈F} mean_t (P·h_ℓ(x, t; θ) − u)²  +  α · E_{x∈R} mean_t (h_ℓ(x, t; θ) − h_ℓ(x, t; θ_0))²,
    P = 1 − VᵀV,   V an orthonormal basis of the mean and the K − 1 largest principal components of h_ℓ(x, t; θ_0) on F,
    u = c · r/‖r‖,   r uniform in [0, 1)^d, drawn once

F forget text, R retain text, h_ℓ hidden state after block ℓ, t its tokens but the first, which every text has in common (R: all),
(·)² a mean over the d dimensions, θ_0 the original, α ≥ 0: RMU with P before the forgotten states.
Needs:    forget, retain, original.     Updates: the MLPs of the blocks up to ℓ.
Cost:     one pass over F for V; then per step one forward and backward to block ℓ on F and on R.
Limits:   the part of the states in the span of V has no gradient; the part of u in it cannot be reached and adds a constant.
          K = d leaves nothing to move.
Fails by: small models, whose states have no room beside their large components; and K so large that what is left is noise.
Deviations: the official code takes CIR's steps with this loss (`cir` has them); here AdamW as RMU's, so P alone differs from
          RMU. It takes the mean and the components away one after the other; they are not orthogonal, here their span is.
          It also has the same P before CIR's loss. Not to be confused with mode connectivity unlearning, arXiv:2505.10859.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Natural, NonNegative, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.errors import OutOfRange
from lethe.maths.answers import after_the_first, counted
from lethe.maths.steering import control_vector, default_layer, steering_loss
from lethe.maths.subspace import dominant, without
from lethe.train.loop import Loop, Term

MANY = 8192   # tokens that components are taken of                                            [ours]


@config
class MCU:
    """Options of MCU."""

    layer: Natural | None = None       # ℓ from 0; null: 7 of 32 blocks of depth, at least 2 [official code: 11]
    components: Count | None = None    # K, the mean and K − 1 components, left out; null: 32, or fewer   [official code: 32]
    coefficient: Positive = 1.0        # c, length of the control vector                     [official code]
    alpha: NonNegative = 100.0         # weight of the retain term                           [RMU]
    lr: Positive = 5e-5                # AdamW, for 8 B weights; tiny models need more       [RMU]
    steps: Count = 80                  # batches of each term                                [RMU]
    batch_size: Count = 16             # of each term                                        [official code: 16, 32]
    weight_decay: NonNegative = 0.01   # pull towards 0                                      [RMU]


@method(needs={"forget", "retain", "original"}, uses={"down_projections", "hidden_states", "hidden_width", "layer_count"},
        mechanism="features")
def run(cfg: MCU, task: LanguageTask, loop: Loop) -> Outcome:
    layer = default_layer(task.layer_count) if cfg.layer is None else cfg.layer
    width = task.hidden_width
    count = max(1, min(32, width // 8)) if cfg.components is None else cfg.components
    if count >= width:
        raise OutOfRange(f"method.components = {count}, but hidden states have {width} dimensions, so nothing would be "
                         f"left to move; nothing was started. Set a number below {width}, such as {max(1, width // 8)}.")

    def hidden(m: nn.Module, b: Batch) -> Tensor:
        return task.hidden_states(m, b, layer)

    original, seen = task.original.to(loop.device), list[Tensor]()
    with evaluating(original), loop.autocast():
        for batch in loop.drawn(task.forget, cfg.batch_size, "mcu"):
            seen.append(hidden(original, batch)[after_the_first(batch.length, batch.ids.shape[1])].float())
            if sum(map(len, seen)) >= MANY:
                break
    basis = dominant(torch.cat(seen), count)
    before = loop.reference("mcu-retain", hidden, task.retain, draws=cfg.steps * cfg.batch_size)
    u = control_vector(width, cfg.coefficient, loop.generator("mcu")).to(loop.device)
    beside = [name.removesuffix(".weight").rpartition(".")[0] for name in task.down_projections(range(layer + 1))]
    model = loop.start(where={"name": "names", "patterns": tuple(f"{mlp}.*" for mlp in beside)})

    def misdirect(m: nn.Module, b: Batch) -> Tensor:
        return steering_loss(without(hidden(m, b).float(), basis), u, after_the_first(b.length, b.ids.shape[1]))

    def stay(m: nn.Module, b: Batch) -> Tensor:
        return steering_loss(hidden(m, b), before(b)[:, : b.ids.shape[1]], counted(b.length, b.ids.shape[1]))

    terms = {"forget": Term(task.forget, misdirect), "retain": Term(task.retain, stay, cfg.alpha)}
    loop.minimise(model, terms, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size, weight_decay=cfg.weight_decay)
    return loop.finish(model)

"""RMU, representation misdirection for unlearning: replace the hidden states on forgotten text by a fixed random vector, and
keep those on other text. Li et al. (2024, the WMDP benchmark), arXiv:2403.03218.

    L(θ) = E_{x∈F} mean_t (h_ℓ(x, t; θ) − u)²  +  α · E_{x∈R} mean_t (h_ℓ(x, t; θ) − h_ℓ(x, t; θ_0))²,
    u = c · r/‖r‖,   r uniform in [0, 1)^d, drawn once

F forget text, R retain text, h_ℓ hidden state after block ℓ, t its tokens (prompt and answer, or the answer's alone), (·)² a mean
over the d dimensions, θ_0 the original, c the length of the control vector u, α ≥ 0.
Needs:    forget, retain, original.     Updates: the MLP down projections of blocks ℓ−2, ℓ−1, ℓ; nothing else moves.
Cost:     per step one forward to block ℓ and one backward over three blocks on F and on R: later blocks and the head
          are never computed. h_ℓ(·; θ_0) on R is computed once where it fits in `cache_mb` and R is smaller
          than what the steps draw.
Limits:   α → ∞ or no steps is the original. u is a function of the run's seed: `control_vector(d, c, generator)`.
Fails by: shallow forgetting: a few steps of fine-tuning, even on other text, bring the knowledge back.
          c must exceed the usual ‖h_ℓ‖ and α grow with it; ℓ late in the network damages everything.
Deviations: pads do not count and every text weighs the same, whatever its length (the official code counts pads).
          One forget set with one u; the official code alternates two topics, each with its own. OpenUnlearning divides by a
          b × b matrix of lengths, so that a text's weight depends on the others of its batch; nothing here does.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from lethe.core.config import Count, Natural, NonNegative, Parity, Positive, config
from lethe.core.families.language import LanguageTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch
from lethe.maths.answers import counted
from lethe.maths.steering import control_vector, default_layer, steering_loss
from lethe.train.loop import Loop, Term

Tokens = Literal["all", "answer"]


@config
class RMU:
    """Options of RMU."""

    layer: Natural | None = None       # ℓ from 0; null: 7 of 32 blocks of depth, at least 2 [official code: 7]
    coefficient: Positive = 20.0       # c, length of the control vector                     [official code: 6.5–20]
    alpha: NonNegative = 100.0         # weight of the retain term                           [official code: 100–1200]
    lr: Positive = 5e-5                # AdamW, for 7 B weights; tiny models need more       [official code]
    steps: Count = 80                  # batches of each term                                [official code: 80–150]
    batch_size: Count = 4              # of each term                                        [official code]
    weight_decay: NonNegative = 0.01   # pull towards 0                                      [official code]
    tokens: Tokens = "all"             # t; answer: hidden states on the prompt are free     [answer: OpenUnlearning]
    parity: Parity = "none"            # open_unlearning: tokens=answer, whatever it is     [tested in test_parity]


def counting(batch: Batch, tokens: Tokens) -> Tensor:
    """Which tokens count: those of prompt and answer, or the answer's alone; never pads.  -> [n, T] bool"""
    if tokens == "answer":
        return batch.labels >= 0
    return counted(batch.length, batch.ids.shape[1])


@method(needs={"forget", "retain", "original"},
        uses={"down_projections", "hidden_states", "hidden_width", "layer_count"}, mechanism="features")
def run(cfg: RMU, task: LanguageTask, loop: Loop) -> Outcome:
    layer = default_layer(task.layer_count) if cfg.layer is None else cfg.layer
    moving = task.down_projections(range(layer, max(-1, layer - 3), -1))
    model = loop.start(where={"name": "names", "patterns": tuple(moving)})

    def hidden(m: nn.Module, b: Batch) -> Tensor:
        return task.hidden_states(m, b, layer)

    tokens: Tokens = cfg.tokens if cfg.parity == "none" else "answer"
    before = loop.reference("rmu-retain", hidden, task.retain, draws=cfg.steps * cfg.batch_size)
    width: int = task.hidden_width
    u = control_vector(width, cfg.coefficient, loop.generator("rmu")).to(loop.settings.device)

    def misdirect(m: nn.Module, b: Batch) -> Tensor:
        return steering_loss(hidden(m, b), u, counting(b, tokens))

    def stay(m: nn.Module, b: Batch) -> Tensor:
        return steering_loss(hidden(m, b), before(b)[:, : b.ids.shape[1]], counting(b, tokens))

    terms = {"forget": Term(task.forget, misdirect), "retain": Term(task.retain, stay, cfg.alpha)}
    loop.minimise(model, terms, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size, weight_decay=cfg.weight_decay)
    return loop.finish(model)

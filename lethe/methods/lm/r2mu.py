"""R²MU, reasoning-aware misdirection: RMU on what a reasoning model thinks about the forgotten questions, too, while its thinking
about others is held. Wang, Fan, Zhang, Jia, Wei, Ram et al. (2025), "Reasoning model unlearning", arXiv:2506.12963.

    L(θ) = E_{x∈F} D(x; u) + E_{x∈F} D(s(x); u) + α · E_{x∈R} D(x; h_ℓ(θ_0)) + λ · E_{x∈R'} D(s(x); h_ℓ(θ_0)),
    D(x; h) = mean_t (h_ℓ(x, t; θ) − h)²,     s(x) = what the original says to x and a cue that asks it to reason

F forget set, R retain set, R' at most `anchors` of R's prompts, h_ℓ hidden state after block ℓ, t the tokens of prompt and
answer, or of the trace in s(x), u = c·r/‖r‖ with r uniform in [0, 1)^d drawn once, θ_0 the original, α, λ ≥ 0.
Needs:    forget, retain, original; records with prompts.     Updates: the MLP down projections of blocks ℓ−2, ℓ−1, ℓ.
Cost:     the original's traces, once; then twice RMU's: four forwards to block ℓ and backwards over three blocks per step.
Limits:   λ = 0 with traces equal to the answers is RMU with twice the forget term.
Fails by: as RMU does; and where the original does not reason, traces are only more text about the same question.
Deviations: the official code anchors on traces for mathematics (LIMO), the same for every request; here on the original's own
          about R, so no third data set is needed. Its traces stand without their question, and the cue counts; here they
          follow it, and the trace alone counts. Pads do not count, and every text weighs the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Natural, NonNegative, Positive, config
from lethe.core.families.language import LanguageTask, asked_and_answered, prompted
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.maths.answers import counted
from lethe.maths.steering import control_vector, default_layer, steering_loss
from lethe.train.loop import Loop, Term

CUE = "\nLet's reason this step by step.\n<think>"


@config
class R2MU:
    """Options of R²MU."""

    layer: Natural | None = None       # ℓ from 0; null: 7 of 32 blocks of depth, at least 2 [official code: 7]
    coefficient: Positive = 6.5        # c, length of the control vector                     [official code]
    alpha: NonNegative = 1.7           # weight of the retain term                           [official code: 1.5–7]
    reasoning: NonNegative = 1.0       # λ, weight of holding the thinking about R           [official code]
    cue: str = CUE                     # stands behind a prompt to have it reasoned about [e.g. Think:]  [official code]
    longest: Count = 100               # tokens of a trace                                   [official code: 100–150]
    anchors: Count = 512               # prompts of R whose traces are held                  [ours; official code: 2,000]
    lr: Positive = 7.5e-5              # AdamW, for 8 B weights; tiny models need more       [official code]
    steps: Count = 500                 # batches of each term                                [official code]
    batch_size: Count = 4              # of each term                                        [official code]
    weight_decay: NonNegative = 0.01   # pull towards 0                                      [official code]


def traces(cfg: R2MU, task: LanguageTask, original: nn.Module, prompts: Sequence[str], name: str) -> Split:
    """What the original says to the prompts with the cue, as answers to them."""
    asked = [prompt + cfg.cue for prompt in prompts]
    if not task.fits(asked, ["?"] * len(asked)):
        raise RequestError(f"r2mu puts {cfg.cue!r} behind every prompt, and one then exceeds max_length or the model's "
                           "positions, so there is no room for a trace; nothing was trained. Shorten method.cue, or raise "
                           "data.max_length.")
    return task.encode(asked, task.generate(original, asked, cfg.longest), name)


def whole(batch: Batch) -> Tensor:
    """Which tokens are no pads.  -> [n, T] bool"""
    return counted(batch.length, batch.ids.shape[1])


def thought(batch: Batch) -> Tensor:
    """Which tokens are of the trace.  -> [n, T] bool"""
    return batch.labels >= 0


@method(needs={"forget", "retain", "original"},
        uses={"down_projections", "encode", "fits", "generate", "hidden_states", "hidden_width", "layer_count"},
        mechanism="features", check=prompted("r2mu", "retain"))
def run(cfg: R2MU, task: LanguageTask, loop: Loop) -> Outcome:
    layer = default_layer(task.layer_count) if cfg.layer is None else cfg.layer
    moving = task.down_projections(range(layer, max(-1, layer - 3), -1))
    forgotten, _ = asked_and_answered(task.forget, "r2mu")
    kept, _ = asked_and_answered(task.retain, "r2mu")
    some = torch.randperm(len(kept), generator=loop.generator("r2mu-anchors"))[: cfg.anchors].sort().values.tolist()
    original = task.original.to(loop.device)
    model = loop.start(where={"name": "names", "patterns": tuple(moving)})
    u = control_vector(task.hidden_width, cfg.coefficient, loop.generator("r2mu")).to(loop.device)

    def hidden(m: nn.Module, b: Batch) -> Tensor:
        return task.hidden_states(m, b, layer)

    terms = {"forget": Term(task.forget, lambda m, b: steering_loss(hidden(m, b), u, whole(b))),
             "traces": Term(traces(cfg, task, original, forgotten, "traces"),
                            lambda m, b: steering_loss(hidden(m, b), u, thought(b)))}
    if cfg.alpha:
        before = loop.reference("r2mu-retain", hidden, task.retain, draws=cfg.steps * cfg.batch_size)
        terms["retain"] = Term(task.retain, lambda m, b: steering_loss(hidden(m, b), before(b)[:, : b.ids.shape[1]], whole(b)),
                               cfg.alpha)
    if cfg.reasoning:
        held = traces(cfg, task, original, [kept[i] for i in some], "anchors")
        so_far = loop.reference("r2mu-anchors", hidden, held, draws=cfg.steps * cfg.batch_size)
        terms["reasoning"] = Term(held, lambda m, b: steering_loss(hidden(m, b), so_far(b)[:, : b.ids.shape[1]], thought(b)),
                                  cfg.reasoning)
    loop.minimise(model, terms, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size, weight_decay=cfg.weight_decay)
    return loop.finish(model)

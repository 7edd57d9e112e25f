"""TRCE: align the end token of prompts with the concept with that of harmless ones in closed form, then steer the first half
of every trajectory the same way. Chen, Yuan, Guo, Chen, Li, Wang, Xu & Zhang (2025), arXiv:2503.07389 (ICCV 2025).

    1   W = W_0 (1/n Σ α g kᵀ + μ E c cᵀ + λI)(1/n Σ α k kᵀ + μ E c cᵀ + λI)⁻¹          to_k and to_v of cross-attention
    2   L(θ) = ½ Σ_{p∈{k, ∅}} max(0, ‖ε_θ(x_t, p) − ε⁺‖² − ‖ε_θ(x_t, p) − ε⁻‖² + m)  +  μ_2 ‖ε_θ(x', ∅) − ε_1(x', ∅)‖²
        ε⁺ = ε_0(g) + s (ε_0(g) − ε_0(∅)),    ε⁻ = ε_0(k) + s (ε_0(k) − ε_0(∅))        self-attention and to_q of
        cross-attention

k the n prompts with the concept, g their harmless twins (an anchor in the concept's place, or without its words); in 1 their
states at four tokens of weight α: start, first end, last end (times the number of padding tokens), and the last word, which goes
to the last token of g; c the states of prompts to keep and of the empty one. ε_0 the original, ε_1 the model after stage 1 (both
frozen); x_t the first half of the original's trajectories for k, x' of those without a prompt.
Needs:    original, and prompts; no pictures.     Updates: to_k and to_v by stage 1; attn1 and attn2.to_q by stage 2.
Cost:     one solve; two sets of full samplings and five frozen forwards per visited point, once; three forward/backwards per
          step.
Limits:   stage 2 stands still where ε_θ is nearer to ε⁺ than to ε⁻ by m; μ → ∞ leaves what is to be kept as it is.
Fails by: an encoder whose end tokens do not carry the prompt, such as one that was not trained: then α of the first end alone
          changes nothing, and α of the word is what erases; α on the word alone where they do (audit: `paraphrase` of prompts;
          `erasure`). The contrast of stage 2 changes its sign where ε_θ is halfway from ε⁻ to ε⁺, which for large s says
          which of the two guidances is longer, not which prediction ε_θ is near to: some points have nothing to do, others are
          pushed far beyond ε_0(g); with s = 0 it ends halfway to ε_0(g).
Deviations: the moments E c cᵀ come from the prompts to keep, not from 30,000 captions, so λ is not 0; the last word is found
          by the end token, not by counting blanks. The official code multiplies the moments by μ twice, so that its 0.02 is
          our 0.0004; its loop never clears its gradients, and stores x after a step with t before it: both are mended here, and
          ε⁺, ε⁻ computed once. Its β = 1 before the contrast is what μ_2 weighs against.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lethe.core.config import Count, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask, Words
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.maths.linear_edit import map_of_moments
from lethe.maths.losses import squared_distance
from lethe.train.erasing import answered, one_anchor, rests, taken, visited
from lethe.train.loop import Loop, Term
from lethe.train.projections import Projections

STEERED = ("*attn1.*", "*attn2.to_q*")


@config
class TRCE:
    """Options of TRCE."""

    anchor: str = ""                  # words in the concept's place; empty: none [e.g. square]      [paper: safe counterparts]
    start: NonNegative = 0.0          # α of the start token                                         [official code]
    first_end: NonNegative = 1.0      # α of the first end token                                     [official code]
    last_end: NonNegative = 0.0       # α of the last token, for each padding token                  [official code]
    word: NonNegative = 0.0           # α of the last word                                           [official code]
    preserve: Positive = 0.01         # μ, weight of what is to be kept                              [official code]
    lamb: Positive = 1e-3             # λ; larger changes less                                       [ours; official 0]
    guidance: NonNegative = 15.0      # s of the targets                                             [official code]
    margin: NonNegative = 0.01        # m, how much nearer ε_θ is to come                            [official code]
    hold: NonNegative = 100.0         # μ_2, weight of what is drawn without a prompt [only with lr=0.01]  [official code]
    lr: Positive = 1e-6               # AdamW; tiny models need about 3e-4                           [official code]
    epochs: Positive = 3.0            # passes over the points of k [only with lr=0.01]  [official code]
    batch_size: Count = 1             # points of k per step; four times as many of x'               [official code]
    trajectories: Count = 20          # for k over all prompts, and as many without a prompt [only with lr=0.01]  [ours]
    sampler_steps: Count = 50         # of which the first half is used [only with lr=0.01]  [official code]
    start_guidance: NonNegative = 7.5  # guidance of these; 1 for tiny models [tested in test_trce]  [ours]


def tokens_of(old: list[Words], new: list[Words], weights: tuple[float, float, float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """k, g and α at the four tokens of every pair of prompts, in float64.  -> [m, d] ×2, [m]"""
    found: tuple[list[Tensor], ...] = ([], [], [])
    for one, other in zip(old, new, strict=True):
        length = one.states.shape[1]
        for i, (end, twin) in enumerate(zip(one.end.tolist(), other.end.tolist(), strict=True)):
            places = ((0, 0), (end, twin), (length - 1, length - 1), (max(end - 1, 0), length - 1))
            for (here, there), weight, times in zip(places, weights, (1, 1, length - 1 - end, 1), strict=True):
                triple = (one.states[i, here], other.states[i, there], torch.tensor(weight * times))
                for rows, value in zip(found, triple, strict=True):
                    rows.append(value.double())
    return torch.stack(found[0]), torch.stack(found[1]), torch.stack(found[2]).to(found[0][0].device)


def contrast(said: Tensor, good: Tensor, bad: Tensor, margin: float) -> Tensor:
    """max(0, ‖ε − ε⁺‖² − ‖ε − ε⁻‖² + m).  [n, …] ×3 -> [n]     ε = 2, ε⁺ = 0, ε⁻ = 3, m = 1: 4 − 1 + 1 = 4."""
    return (squared_distance(said, good) - squared_distance(said, bad) + margin).clamp(min=0)


@method(needs={"original"}, mechanism="closed form", check=one_anchor, uses={
    "attention_projections", "concepts", "denoise", "predict", "prompts", "rest", "text", "tokens", "words"})
def run(cfg: TRCE, task: DiffusionTask, loop: Loop) -> Outcome:
    if not any("attn1." in name for name, _ in task.original.named_parameters()):
        raise RequestError(f"a {type(task.original).__name__} has no self-attention beside its cross-attention, which is what "
                           "TRCE trains in its second stage; nothing was started. Choose another method, e.g. uce.")
    edit = Projections.of(task, loop, beside=STEERED)
    forget = task.prompts["forget"]
    twins = rests(task, forget, cfg.anchor)
    k, g, weight = tokens_of(task.words(task.tokens(forget)), task.words(task.tokens(twins)),
                             (cfg.start, cfg.first_end, cfg.last_end, cfg.word))
    kept = edit.every(["", *task.prompts.get("keep", [])]).double()
    own, crossed = ((weight.unsqueeze(1) * some).T @ k / len(forget) for some in (k, g))
    edit.multiply(map_of_moments(crossed, own, cfg.preserve * kept.T @ kept / len(kept), cfg.lamb))
    model = edit.model
    moves = frozenset(loop.selected(model)) - frozenset(edit.weights)
    if moves:
        early, free = steered(cfg, task, loop, model, twins)
        empty = task.text(task.tokens([""]).to(loop.settings.device))

        def erase(m: nn.Module, batch: Batch) -> Tensor:
            text = torch.cat([task.text(batch.tokens), empty.expand(len(batch), -1, -1)])
            both = task.predict(m, torch.cat([batch.image] * 2), torch.cat([batch.t] * 2), text)
            one, other = (contrast(said, batch.good, batch.bad, cfg.margin) for said in both.chunk(2))
            return (one + other) / 2

        def hold(m: nn.Module, batch: Batch) -> Tensor:
            return squared_distance(task.predict(m, batch.image, batch.t, task.text(batch.tokens)), batch.before)

        terms = {"erase": Term(early, erase, moves=moves),
                 "hold": Term(free, hold, cfg.hold, batch_size=4 * cfg.batch_size, moves=moves)}
        loop.minimise(model, terms, lr=cfg.lr, epochs=cfg.epochs, batch_size=cfg.batch_size, optimiser="adamw", weight_decay=0.01)
    return loop.finish(model)


def steered(cfg: TRCE, task: DiffusionTask, loop: Loop, first: nn.Module, twins: list[str]) -> tuple[Split, Split]:
    """Points for prompts with the concept with ε⁺ and ε⁻, and points without a prompt with what stage 1 says there."""
    original, seed, count = task.original.to(loop.settings.device), derive(loop.seed, "trce"), cfg.trajectories
    tokens, harmless = taken(task, task.prompts["forget"], count), taken(task, twins, count)
    half = -(-cfg.sampler_steps // 2) * count      # rows of the first half of the steps, which come first
    early = visited(task, original, tokens, seed, cfg.sampler_steps, cfg.start_guidance, twin=harmless)
    early = Split({name: column[:half] for name, column in early.columns.items()}, "early")
    free = visited(task, original, taken(task, [""], count), derive(seed, "free"), cfg.sampler_steps, cfg.start_guidance)
    empty = task.text(task.tokens([""]).to(loop.settings.device))

    def aims(batch: Batch) -> dict[str, Tensor]:
        good, bad, base = (task.predict(original, batch.image, batch.t, text) for text in (
            task.text(batch.twin), task.text(batch.tokens), empty.expand(len(batch), -1, -1)))
        return {"good": good + cfg.guidance * (good - base), "bad": bad + cfg.guidance * (bad - base)}

    def before(batch: Batch) -> dict[str, Tensor]:
        return {"before": task.predict(first, batch.image, batch.t, task.text(batch.tokens))}

    return answered(loop, early, original, aims), answered(loop, free, first, before)

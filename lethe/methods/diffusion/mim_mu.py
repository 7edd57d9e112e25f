"""MiM-MU: erase a concept by taking the information that its words give about the picture, with nothing retained to compensate.
Cheng et al. 2026, arXiv:2603.00992.

    L(θ) = E_{(x, c)∈F, t, ε} ‖ε_θ(x_t, t, c) − ε_q(x_t, t)‖²,      ε_q = ε_0(r) − η_c d⊥
    d = ε_0(c) − ε_0(r),    d⊥ = d − max(0, ⟨d, k⟩/⟨k, k⟩) k,    k = ε_0(r) − ε_0(∅),    x_t = √ᾱ_t x + √(1 − ᾱ_t) ε

F pictures x of the concept with their prompts c, r the prompt without the concept's words ("a red disk" -> "a red") or, where
it has a replacement, with that ("a red square"), ∅ the empty prompt, ε_0 the original (frozen), ε_θ the edited model, η_c ≥ 0.
What must go is I(X; Z | R), Z the concept's words and R the rest: along the diffusion chain KL(p_θ(x|c) ‖ q) is a sum of
squared differences of noise predictions, and q = p_0(x | r, not z), what retraining would give, has ε_q = ε_0(r) − η (ε_0(c) −
ε_0(r)), at high noise with η = π_r/(1 − π_r), π_r the share of pictures for r that show the concept. d⊥: nothing is pushed
against the rest of the prompt. All equations are our derivation from the paper's abstract and three summaries of it: its full
text was not available, and which form it takes is open. The first form, alignment with the empty prompt, is (target: empty,
eta: 0, protect: none).

    W = W_0 (I + S P_∅) + A R,      R = (I + C_V/(λ s))^(−1/2) P_∅,     s = tr C_V/d,   of every to_k and to_v of cross-attention

A is trained, P_∅ projects off the text states of ∅, so that ε_θ(x, ∅) = ε_0(x, ∅) by construction. C_V is the mean of u uᵀ over
the states u of "r + piece" and "piece", for pieces of the tokenizer's vocabulary that end a word: what the edit keeps away
from, known from text alone. I + S is UCE's map from the states of c to those of r that preserves C_V. t is uniform in the band
of noise levels in which d is large. η_c per prompt, in a closed loop: from max(½, 3 π_r/(1 − π_r)); after every `round` steps
pictures are drawn and the original is asked whether they show the concept, i_0 = log p_0(x_1|c)/p_0(x_1|r) > 0, x_1 the picture
under as much noise as signal; where the share exceeds `stop_at`, η_c grows by 1.7 (to 5) and the prompt is drawn twice as
often. It ends when the mean share is within `stop_at` at two rounds in a row.

Needs:    forget (pictures may come from the original itself), original. No retained data and no retained prompts.
Updates:  protect=none: all cross-attention weights; else its to_k and to_v.
Cost:     per step one forward/backward of θ on the batch and one forward of ε_0 on three times the batch (on one, with eta=0);
          closed loop: per round 16 sampled pictures for each prompt and 32 predictions for each.
Limits:   eta=0 with target=empty and protect=none equals `esd` at η = 0 on noised pictures. With η = 0 the concept is drawn as
          often as the original draws it for r: unlearning accuracy cannot pass 1 − π_r.
Fails by: taking neighbours for η above 5; on small models also some kept shapes, and colours of the concept; with protect=none by
          moving ε_θ(·, ∅), which is measured and noted above `drift`.
Deviations: the derived weight of log-SNR is replaced by the band; x_t are noised pictures: trajectories of r and the posterior
          of z were tried and were worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lethe.core.concepts import names
from lethe.core.config import Count, Fraction, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split
from lethe.core.task import Task
from lethe.errors import RequestError
from lethe.maths.information import noise_levels, surprises
from lethe.maths.linear_edit import off_space, shrinking, uce_map
from lethe.maths.losses import squared_distance
from lethe.train.erasing import whole_words
from lethe.train.loop import Loop, Term
from lethe.train.modifiers.average import Average
from lethe.train.modifiers.average.ema import Ema
from lethe.train.modifiers.average.last import Last
from lethe.train.modifiers.where import Draws, Selection
from lethe.train.modifiers.where.names import Names

FEWEST, GROWTH, MOST = 0.5, 1.7, 5.0     # η of the closed loop: at least at its start, its growth, its largest value
DRAWN, LEVELS = 16, 16                   # pictures per prompt and noise levels by which the original judges
RIDGE = 0.1                              # λ of the vocabulary projector, in mean variances
UCE_RIDGE = 0.5                          # λ of the UCE start                                          [official code]


@config
class MiMMU:
    """Options of MiM-MU."""

    target: Literal["rest", "empty"] = "rest"   # what the concept's prompts are aligned with: r or ∅         [ours]
    eta: Literal["closed_loop", "per_prompt"] | NonNegative = "closed_loop"   # η [tested in test_mim_mu]           [ours]
    perpendicular: bool = True    # d⊥ instead of d: never push against the rest of the prompt         [ours]
    protect: Literal["vocabulary", "empty", "none"] = "vocabulary"   # what the edit keeps away from   [ours]
    start: Literal["uce", "original"] = "uce"   # where the edit starts [only with protect=empty]      [ours]
    band: Literal["auto"] | tuple[Fraction, Fraction] = "auto"   # of t, shares of the schedule [tested in test_mim_mu]
    #                               auto: where d is large, for target=empty all of it                 [ours]
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.97   # of the edit, over steps; 0: none [only with protect=empty] [ours]
    stop_at: Fraction = 0.05      # share of pictures with the concept that is tolerated [tested in test_mim_mu]     [ours]
    round: Count = 48             # steps between two looks [tested in test_mim_mu]                    [ours]
    pieces: Count = 256           # of the vocabulary, at random [only with protect=vocabulary]        [ours]
    leave_out: tuple[str, ...] = ()   # words that the vocabulary shall not name [e.g. square]         [ours]
    lr: Positive = 3e-3           # Adam; of protect=none about 3e-4 for tiny models, 1e-5 for large   [ours, n=60]
    steps: Count = 288            # at most                                                            [ours, n=60]
    epochs: Positive | None = None    # passes over F, instead of `steps`                              [ours; paper: 30]
    batch_size: Count = 16        # pictures per step                                                  [ours]
    drift: NonNegative = 0.1   # noted above this share of ‖ε_0(c) − ε_0(∅)‖² [only with protect=none] [changes the notes] [ours]


def mim_target(concept: Tensor, rest: Tensor, empty: Tensor, eta: Tensor, perpendicular: bool) -> Tensor:
    """ε_q = ε_0(r) − η d⊥ per example.  [n, …] ×3, [n] -> [n, …]

    concept (2, 2), rest (1, 0), empty (0, 0), η 1: d = (1, 2), k = (1, 0), d⊥ = (0, 2), so (1, −2); with d itself (0, −2).
    """
    d, k = (concept - rest).flatten(1), (rest - empty).flatten(1)
    if perpendicular:
        size = (k * k).sum(1).clamp(min=1e-12)
        d = d - ((d * k).sum(1) / size).clamp(min=0).unsqueeze(1) * k
    return rest - (eta.to(d).unsqueeze(1) * d).view_as(rest)


def mim_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference per example.  [n, …] ×2 -> [n]

    predicted (1, 3), target (0, 1): (1 + 4)/2 = 2.5.
    """
    return squared_distance(predicted, target.detach())


def check(cfg: MiMMU, task: DiffusionTask) -> None:
    """RequestError for a replacement that the chosen target leaves no place for."""
    replaced = [one for one in task.concepts if one.replacement]
    if replaced and cfg.target == "empty":
        raise RequestError(f"target=empty aligns prompts with the empty one, so the replacement {replaced[0].replacement!r} of "
                           f"{replaced[0].concept!r} would not be drawn; nothing was started. Use target=rest.")


@method(needs={"forget", "original"}, mechanism="distil", uses={
    "alphas_cumprod", "attention_projections", "concepts", "draw_from", "layers", "levels", "noised", "pipeline", "predict",
    "predict_noise", "rest", "text", "tokens", "words"}, check=check)
def run(cfg: MiMMU, task: DiffusionTask, loop: Loop) -> Outcome:
    asked = Asked.of(cfg, task)
    where = Names(task.layers("cross")) if cfg.protect == "none" else Edits(cfg, task, asked, loop)
    model = loop.start(where=where)
    teacher = Teacher(task, model if cfg.protect != "none" else task.original.to(loop.settings.device))
    if cfg.protect != "none" and not teacher.edits:
        raise RequestError(f"where={loop.modifiers.where}, but protect={cfg.protect} moves an edit of its own in to_k and to_v, "
                           "so nothing would be protected; nothing was started. Use where=all, or protect=none.")
    lesson = Lesson(cfg, task, loop, teacher, asked)
    if cfg.eta == "closed_loop":
        lesson.closed_loop(model)
    else:
        lesson.minimise(model, lesson.first_eta(), cfg.steps)
    merge(model)
    if cfg.protect == "none" and (moved := drift(task, model, task.original.to(loop.settings.device), loop)) > cfg.drift:
        loop.notes.append(f"the prediction without a prompt moved by {moved:.2f} of the distance between prompt and no "
                          f"prompt (more than drift={cfg.drift:g}): other concepts may have suffered")
    return loop.finish(model)


# -- prompts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """The concept's prompts and, at the same places, what each says without the concept."""

    prompts: list[str]
    rests: list[str]
    rows: Tensor          # place of every forget picture's prompt, [n]

    @classmethod
    def of(cls, cfg: MiMMU, task: DiffusionTask) -> Asked:
        """The distinct prompts of the forget pictures."""
        captions = task.captions(task.forget)
        prompts = sorted(set(captions))
        rows = torch.tensor([prompts.index(text) for text in captions])
        rests = [task.rest(prompt) if cfg.target == "rest" else "" for prompt in prompts]
        return cls(prompts, rests, rows)


# -- the edit ----------------------------------------------------------------------------------------------------------


class Edit(nn.Module):
    """W ↦ W + start + A R while it is on: the original otherwise."""

    def __init__(self, weight: Tensor, factor: Tensor, space: Tensor) -> None:
        super().__init__()
        self.start, self.space, self.on = weight.detach() @ factor, space, True
        self.a = nn.Parameter(torch.zeros_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.start + self.a @ self.space if self.on else weight


class Edits:
    """A `where` for the loop: keys and values of cross-attention get an edit each, and only these move."""

    def __init__(self, cfg: MiMMU, task: DiffusionTask, asked: Asked, loop: Loop) -> None:
        self.cfg, self.task, self.asked, self.loop = cfg, task, asked, loop

    def select(self, model: nn.Module, task: Task, loop: Draws) -> Selection:
        layers = self.task.attention_projections(model)
        if not layers:
            raise RequestError(f"protect={self.cfg.protect} edits keys and values of cross-attention, and this network has none, "
                               "so nothing could be erased; nothing was started. Use protect=none where it has layers for it.")
        start, space = self.maps()
        for layer in layers.values():
            w = layer.weight
            parametrize.register_parametrization(layer, "weight", Edit(w, start.to(w), space.to(w)))
        edited = {f"{name}.parametrizations.weight.0.a" for name in layers}
        return Selection({name: p for name, p in model.named_parameters() if name in edited})

    def maps(self) -> tuple[Tensor, Tensor]:
        """(S P_∅, R) in float64.  [d, d] ×2"""
        task, cfg = self.task, self.cfg
        off = off_space(self.states([""]))
        if float(off.trace()) < 0.5:   # a projector's trace is its rank
            raise RequestError(f"protect={cfg.protect} edits off the states of the empty prompt, which fill all {len(off)} "
                               "dimensions, so nothing could be erased; nothing was started. Use protect=none.")
        known = self.states(vocabulary(cfg, task, self.asked.rests, self.loop)) if cfg.protect == "vocabulary" else None
        one = torch.eye(len(off), dtype=torch.float64)
        start = torch.zeros_like(one)
        if cfg.start == "uce":
            old, new = self.states(self.asked.prompts), self.states(self.asked.rests)
            kept = self.states([""]) if known is None else known
            start = (uce_map(old, new, kept * (len(old) / len(kept)) ** 0.5, 1.0, 1.0, UCE_RIDGE) - one) @ off
        return start, off if known is None else shrinking(known, RIDGE) @ off

    def states(self, prompts: Sequence[str]) -> Tensor:
        """Text states at all tokens of the prompts, in float64 on the CPU.  -> [m, d]"""
        read = self.task.words(self.task.tokens(list(prompts)))
        return torch.cat([words.states.flatten(0, 1) for words in read]).double().cpu()


def vocabulary(cfg: MiMMU, task: DiffusionTask, rests: Sequence[str], loop: Loop) -> list[str]:
    """"r + piece" and "piece" for pieces of the vocabulary that end a word; none of them names the concept."""
    pieces = [word for word in whole_words(task) if not task.names(word) and not names(word, cfg.leave_out)]
    order = torch.randperm(len(pieces), generator=loop.generator("mim_mu", "vocabulary"))[: cfg.pieces].tolist()
    chosen = [pieces[i] for i in sorted(order)]
    return list(dict.fromkeys([*chosen, *(f"{rest} {piece}".strip() for rest in rests for piece in chosen)]))


def merge(model: nn.Module) -> None:
    """Every edit becomes part of its weight; a model without edits stays as it is."""
    for layer in [m for m in model.modules() if parametrize.is_parametrized(m, "weight")]:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


# -- the lesson --------------------------------------------------------------------------------------------------------


class Teacher:
    """The original's predictions, by the edited model itself with its edits off: no second network is held."""

    def __init__(self, task: DiffusionTask, model: nn.Module) -> None:
        self.task, self.model = task, model
        self.edits = [m for m in model.modules() if isinstance(m, Edit)]

    def __call__(self, x: Tensor, t: Tensor, texts: Sequence[Tensor], noise: bool = False) -> Tensor:
        """What the original says for m conditions, or the ε in it, in one pass, without gradients.
        [n, …], [n], [n, L, d] ×m -> [m, n, …]"""
        ask, m = self.task.predict_noise if noise else self.task.predict, len(texts)
        with self.original() as model, evaluating(model):
            said = ask(model, x.repeat(m, *[1] * (x.dim() - 1)), t.repeat(m), torch.cat(list(texts)))
        return said.view(m, *x.shape)

    @contextmanager
    def original(self) -> Iterator[nn.Module]:
        """The original network for a while."""
        for edit in self.edits:
            edit.on = False
        try:
            yield self.model
        finally:
            for edit in self.edits:
                edit.on = True


class Lesson:
    """What is minimised, and the original as the judge of what has come of it."""

    def __init__(self, cfg: MiMMU, task: DiffusionTask, loop: Loop, teacher: Teacher, asked: Asked) -> None:
        self.cfg, self.task, self.loop, self.teacher, self.asked = cfg, task, loop, teacher, asked
        self.tokens = {text: task.tokens([text]) for text in {"", *asked.prompts, *asked.rests}}
        self.band = cfg.band if cfg.band != "auto" else self.decisive() if cfg.target == "rest" else (0.0, 1.0)

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Token ids.  -> [n, L]"""
        return torch.cat([self.tokens[prompt] for prompt in prompts])

    # -- minimising ----------------------------------------------------------------------------------------------------

    def minimise(self, model: nn.Module, eta: Tensor, steps: int, twice: Tensor | None = None) -> None:
        """So many steps with η by prompt [k]; `twice`: which prompts are drawn twice as often."""
        cfg, rows = self.cfg, self.asked.rows
        forget = self.task.forget
        index = torch.arange(len(forget))
        if twice is not None:
            index = torch.cat([index, index[twice[rows]]])
        rests = self.ids(self.asked.rests)
        columns = {"image": forget.columns["image"][index], "tokens": forget.columns["tokens"][index],
                   "rest": rests[rows[index]], "eta": eta[rows[index]].float()}
        averaged: Average = Ema(cfg.ema) if cfg.ema and cfg.protect != "none" else Last()
        self.loop.minimise(model, {"forget": Term(Split(columns, "forget"), self.loss)}, lr=cfg.lr, optimiser="adam",
                           batch_size=cfg.batch_size, average=averaged,
                           **{"epochs": cfg.epochs} if cfg.epochs else {"steps": steps})

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """‖ε_θ(c) − ε_q‖² per picture.  -> [n]"""
        task, batch = self.task, banded(batch, *self.band, len(self.task.alphas_cumprod))
        x, c, r = task.noised(batch), task.text(batch.tokens), task.text(batch.rest)
        if bool((batch.eta == 0).all()):
            target = self.teacher(x, batch.t, [r])[0]
        else:
            empty = task.text(self.tokens[""].to(batch.tokens.device)).expand_as(c)
            concept, rest, free = self.teacher(x, batch.t, [c, r, empty])
            target = mim_target(concept, rest, free, batch.eta, self.cfg.perpendicular)
        return mim_loss(task.predict(model, x, batch.t, c), target)

    def decisive(self, looks: int = 24, pictures: int = 64) -> tuple[float, float]:
        """The shares of the schedule between which (1 − ᾱ)‖ε_0(c) − ε_0(r)‖² on forget pictures stays above half of its peak."""
        task, total, sizes = self.task, len(self.task.alphas_cumprod), []
        chosen = torch.randperm(len(task.forget), generator=self.loop.generator("mim_mu", "band"))[:pictures]
        batch = Batch({"image": task.forget.columns["image"][chosen]}, chosen).to(self.loop.settings.device)
        c, r = (task.text(self.ids([texts[i] for i in self.asked.rows[chosen].tolist()]).to(batch.image.device))
                for texts in (self.asked.prompts, self.asked.rests))
        for t in ((torch.arange(looks) + 0.5) / looks * total).long().tolist():
            noise = torch.randn(batch.image.shape, generator=self.loop.generator("mim_mu", "band", t)).to(batch.image)
            when = torch.full((len(chosen),), t, device=noise.device)
            x = task.noised(batch.replace(t=when, noise=noise))
            concept, rest = self.teacher(x, when, [c, r], noise=True)
            sizes.append(float((1 - task.alphas_cumprod[t]) * squared_distance(concept, rest).mean()))
        low, high = peak(sizes)
        return low / looks, high / looks

    # -- judging -------------------------------------------------------------------------------------------------------

    def first_eta(self) -> Tensor:
        """η of every prompt at the start.  -> [k]"""
        if not isinstance(self.cfg.eta, str):
            return torch.full((len(self.asked.prompts),), float(self.cfg.eta))
        with self.teacher.original() as model:
            share = self.shares(model, self.asked.rests, "rest").clamp(max=0.9)
        return (3 * share / (1 - share)).clamp(FEWEST, MOST)

    def closed_loop(self, model: nn.Module) -> None:
        """Rounds of steps; η grows where the concept is still seen, until it is seen no more."""
        cfg, eta, within, done, share = self.cfg, self.first_eta(), 0, 0, torch.zeros(0)
        first, left, twice = eta, cfg.steps, None
        while left > 0 and within < 2:
            self.minimise(model, eta, min(cfg.round, left), twice)
            left, done = left - cfg.round, done + 1
            share = self.shares(model, self.asked.prompts, "concept", done)
            within = within + 1 if float(share.mean()) <= cfg.stop_at else 0
            twice = share > cfg.stop_at
            eta = torch.where(twice, (GROWTH * eta).clamp(max=MOST), eta)
        told = "; ".join(f"{p!r} {s:.0%} (η {a:.2g} to {b:.2g})" for p, s, a, b in
                         zip(self.asked.prompts, share.tolist(), first.tolist(), eta.tolist(), strict=True))
        self.loop.notes.append(f"{done} rounds of {cfg.round} steps; the original still sees the concept in {told}")

    def shares(self, model: nn.Module, prompts: Sequence[str], *purpose: object) -> Tensor:
        """Share of pictures drawn for each of the prompts that show the concept: i_0(x_1; z | r) > 0.  -> [k]"""
        task, device = self.task, self.loop.settings.device
        seed = derive(self.loop.seed, "mim_mu", *purpose)
        repeated = [i for i in range(len(prompts)) for _ in range(DRAWN)]
        c, r = (task.text(self.ids([texts[i] for i in repeated]).to(device)) for texts in (self.asked.prompts, self.asked.rests))
        x = task.draw_from(model, task.text(self.ids([prompts[i] for i in repeated]).to(device)), seed).to(device)
        known = surprises(lambda x_t, t, part: self.teacher(x_t, t, [r[part], c[part]], noise=True), task.mixed, x,
                          task.alphas_cumprod, noise_levels(task.alphas_cumprod, LEVELS, loudest=0.0), derive(seed, "judge"))
        return (known[0] > known[1]).float().view(len(prompts), DRAWN).mean(1)


def peak(sizes: Sequence[float]) -> tuple[int, int]:
    """The places [low, high) around the largest value that are at least half of it; 1, 0, 3, 4, 2, 1: (2, 5)."""
    low = high = max(range(len(sizes)), key=sizes.__getitem__)
    half = 0.5 * sizes[low]
    while low > 0 and sizes[low - 1] >= half:
        low -= 1
    while high < len(sizes) and sizes[high] >= half:
        high += 1
    return low, high


def banded(batch: Batch, low: float, high: float, total: int) -> Batch:
    """The batch with its timesteps mapped from [0, total) to [low·total, high·total)."""
    if (low, high) == (0.0, 1.0):
        return batch
    return batch.replace(t=((low + (high - low) * batch.t / total) * total).long().clamp(max=total - 1))


def unconditional(task: DiffusionTask, model: nn.Module, batch: Batch) -> Tensor:
    """ε(x_t, t, ∅) without gradients.  -> [n, …]"""
    empty = task.tokens([""]).to(batch.tokens.device).expand_as(batch.tokens)
    with evaluating(model):
        return task.predict(model, task.noised(batch), batch.t, task.text(empty))


def drift(task: DiffusionTask, model: nn.Module, original: nn.Module, loop: Loop) -> float:
    """‖ε_θ(∅) − ε_0(∅)‖² over ‖ε_0(c) − ε_0(∅)‖², both summed over the forget set."""
    moved, apart = 0.0, 0.0
    for batch in loop.drawn(task.forget, 64, "drift"):
        before = unconditional(task, original, batch)
        with torch.no_grad():
            concept = task.predict(original, task.noised(batch), batch.t, task.text(batch.tokens))
        apart += float(squared_distance(concept, before).sum())
        moved += float(squared_distance(unconditional(task, model, batch), before).sum())
    return moved / max(apart, 1e-12)

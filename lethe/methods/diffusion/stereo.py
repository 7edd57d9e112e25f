"""STEREO: search the words that bring the concept back, round by round, then erase them all at once. Srivatsan, Shamshad,
Naseer, Patel & Nandakumar (2024), arXiv:2408.16807 (CVPR 2025).

    search, K rounds, θ_0 the original, v_0 the concept's own words:
        θ_i = argmin_θ ‖ε_θ(x_t, c(v_{i−1})) − [ε_{i−1}(x_t, ∅) − η (ε_{i−1}(x_t, c(v_{i−1})) − ε_{i−1}(x_t, ∅))]‖²
        v_i = argmin_v E_{x∈F, t, ε} ‖ε_i(x_t, c(v)) − ε‖²
    erase, from the original again, with v drawn from v_0 … v_K:
        L(θ) = ‖ε_θ(x_t, c(v)) − [ε_0(x_t, ∅) + p (ε_0(x_t, a) − ε_0(x_t, ∅)) − q mean_i (ε_0(x_t, c(v_i)) − ε_0(x_t, ∅))]‖²

c(v) a prompt in which the vector v stands for the embedding of every token of the concept, ∅ the empty prompt, a a kept prompt,
ε_i the network at θ_i (frozen). x_t are points of trajectories for c(v): of θ_{i−1} in the search, of the original in the end.
Needs:    forget, original, and prompts, with the concept and (p > 0) to keep.
Updates:  x: cross-attention; u: everything else; all: everything. The text encoder stays, and no vector goes out.
Cost:     per round trajectories, `steps` forward/backwards for θ and `word_steps` for v; in the end K + 3 frozen forwards per
          point, once.
Limits:   rounds = 0 and p = 0 is `esd` with η = q.
Fails by: the words that are found are those of these rounds, and text states that no word has are not searched (audit:
          `concept_inversion`). Prompts near the concept suffer, the more the larger q (audit: `erasure`, kept accuracy).
Deviations: the official code writes its guidance w = 2 as p = w − 1 = 1 and, with −w in the place of w, as q = w + 1 = 3, where
          its help speaks of 1 for both; the code's are the defaults here. Its normalisation of parallel parts weighs them by 1,
          which changes nothing, and is not here. It takes x_t from the model that is edited, at every step anew, and another a at
          every step; here both belong to the point. Its v stands alone or in templates; here in the prompts and captions of
          the concept.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lethe.core.config import Count, Natural, NonNegative, Positive, config
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import derive
from lethe.core.split import Batch, Split, concat
from lethe.errors import RequestError
from lethe.maths.losses import squared_distance
from lethe.train.erasing import answered, esd_target, looked_at, moved, taken, visited
from lethe.train.loop import Loop, Term
from lethe.train.vectors import written

WORD = "found_word"   # what stands in the model while it is searched


@config
class STEREO:
    """Options of STEREO."""

    rounds: Natural = 4                # K, of erasing and searching                                [official code]
    eta: NonNegative = 0.0             # η, negative guidance in a round                            [official code: w − 2]
    keep: NonNegative = 1.0            # p, towards kept prompts                                    [official code: w − 1]
    away: NonNegative = 3.0            # q, away from all words for the concept                     [official code: w + 1]
    begin: str = "object"              # word at which a search begins; person, art [e.g. red]      [official code]
    variant: Literal["x", "u", "all"] = "u"   # which weights move; paper: x for styles             [paper]
    word_steps: Count = 3000           # steps of a search                                          [official code]
    word_lr: Positive = 5e-3           # AdamW; tiny models need about 0.05                         [official code]
    word_batch_size: Count = 1         # pictures per step of a search                              [official code]
    steps: Count = 200                 # optimiser steps of a round, and of the end                 [official code]
    round_lr: Positive = 5e-6          # AdamW, in a round; tiny models need about 3e-4             [official code]
    lr: Positive = 2e-5                # AdamW, in the end; tiny models need about 3e-4             [official code]
    batch_size: Count = 1              # points per step                                            [official code]
    trajectories: Count = 20           # of every round, and for every word in the end              [ours]
    sampler_steps: Count = 50          # steps of a trajectory                                      [official code]
    start_guidance: NonNegative = 3.0  # guidance of the trajectories; 1 for tiny models            [official code]


def composed(free: Tensor, kept: Tensor, words: Tensor, p: float, q: float) -> Tensor:
    """ε_∅ + p (ε_a − ε_∅) − q · mean_i (ε_i − ε_∅).  [n, …], [n, …], [k, n, …] -> [n, …]

    ε_∅ = 1, ε_a = 2, ε_i = 3 and 5, p = 1, q = 3: 1 + 1 − 3 · (2 + 4)/2 = −7; as the official code with w = 2:
    1 + (2 − 1) · 1 + [(−2 − 1) · 2 + (−2 − 1) · 4]/2 = −7.
    """
    return free + p * (kept - free) - q * (words - free).mean(0)


def check(cfg: STEREO, task: DiffusionTask) -> None:
    """RequestError where words cannot be searched, or nothing is there to keep."""
    if not task.has("encoder"):
        raise RequestError("stereo searches words for the one text encoder of CLIP that a UNet reads, and this is a "
                           f"{type(task.original).__name__} that reads more or none; nothing was started. Choose another method, "
                           "e.g. race.")
    if cfg.keep and not task.prompts.get("keep"):
        raise RequestError("stereo leads the concept towards the prompts of data.keep, and there are none; nothing was started. "
                           "Provide some in data.keep, or set method.keep=0.")


@method(needs={"forget", "original"}, mechanism="distil", check=check, uses={
    "concepts", "denoise", "layers", "named_tokens", "noised", "pipeline", "predict", "prompts", "target", "text", "tokens"})
def run(cfg: STEREO, task: DiffusionTask, loop: Loop) -> Outcome:
    model = loop.start(where=moved(task, cfg.variant))
    start = {name: p.detach().clone() for name, p in loop.selected(model).items()}
    words = Words(cfg, task, loop)
    with loop.damage():   # a search, not a result
        for number in range(cfg.rounds):
            points = words.asked(model, number, "round")
            loop.minimise(model, {"erase": Term(points, words.loss)}, lr=cfg.round_lr, steps=cfg.steps,
                          batch_size=cfg.batch_size, optimiser="adamw", weight_decay=0.01)
            words.search(model)
    loop.assign(model, start)
    points = concat([words.asked(task.original, number, "end") for number in range(len(words.found) + 1)], "trajectories")
    loop.minimise(model, {"erase": Term(points, words.loss)}, lr=cfg.lr, steps=cfg.steps, batch_size=cfg.batch_size,
                  optimiser="adamw", weight_decay=0.01)
    return loop.finish(model)


class Words:
    """The words for the concept: its own, and the vectors that were found so far.

    found  v_1, v_2, …  [d] each
    """

    def __init__(self, cfg: STEREO, task: DiffusionTask, loop: Loop) -> None:
        self.cfg, self.task, self.loop = cfg, task, loop
        self.encoder = task.pipeline.text_encoder
        self.found: list[Tensor] = []
        self.empty = task.text(task.tokens([""]).to(loop.device))

    def text(self, batch: Batch) -> Tensor:
        """Text states of prompts with the words that they ask for.  -> [n, L, d]"""
        mask = batch.looked_at & (batch.word > 0).unsqueeze(1)
        if not self.found or not bool(mask.any()):
            return self.task.text(batch.tokens)
        chosen = torch.stack(self.found)[(batch.word - 1).clamp(min=0)]
        with torch.no_grad():
            return written(self.encoder, batch.tokens, mask, chosen.unsqueeze(1).expand(*mask.shape, -1)[mask])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The distance from what is to be said at points that were visited before.  -> [n]"""
        return squared_distance(self.task.predict(model, batch.image, batch.t, self.text(batch)), batch.target)

    def asked(self, model: nn.Module, word: int, purpose: Literal["round", "end"]) -> Split:
        """Points of a model's trajectories for v_word, and what is to be said there: of a round, or in the end."""
        cfg, task, loop = self.cfg, self.task, self.loop
        prompts = [task.prompts["forget"][i % len(task.prompts["forget"])] for i in range(cfg.trajectories)]
        columns = {"looked_at": task.named_tokens(prompts), "word": torch.full((len(prompts),), word)}
        tokens = task.tokens(prompts)
        text = self.text(Split({"tokens": tokens, **columns}, "prompts").batch(range(len(prompts))).to(loop.device))
        points = visited(task, model, tokens, derive(loop.seed, "stereo", purpose, word), cfg.sampler_steps, cfg.start_guidance,
                         text=text, **columns)
        if purpose == "end" and cfg.keep:
            points = Split({**points.columns, "anchor": taken(task, task.prompts["keep"], len(points))}, points.name)
        return answered(loop, points, model, lambda batch: {
            "target": self.target(model, batch) if purpose == "round" else self.whole_target(model, batch)})

    def target(self, model: nn.Module, batch: Batch) -> Tensor:
        """What a round is to teach.  -> [n, …]"""
        return esd_target(self.said(model, batch, self.text(batch)), self.said(model, batch, self.empty), self.cfg.eta)

    def whole_target(self, model: nn.Module, batch: Batch) -> Tensor:
        """What is to be taught in the end.  -> [n, …]"""
        free = self.said(model, batch, self.empty)
        every = [self.said(model, batch, self.text(batch.replace(word=torch.full_like(batch.word, i))))
                 for i in range(len(self.found) + 1)]
        kept = self.said(model, batch, self.task.text(batch.anchor)) if self.cfg.keep else free
        return composed(free, kept, torch.stack(every), self.cfg.keep, self.cfg.away)

    def said(self, model: nn.Module, batch: Batch, text: Tensor) -> Tensor:
        """What a model predicts at points, for these text states.  -> [n, …]"""
        return self.task.predict(model, batch.image, batch.t, text.expand(len(batch), -1, -1))

    def search(self, model: nn.Module) -> None:
        """One more word under which the model explains the forgotten pictures."""
        cfg, task = self.cfg, self.task
        begin = self.encoder.get_input_embeddings().weight[int(task.tokens([cfg.begin])[0, 1])]
        model.register_parameter(WORD, nn.Parameter(begin.detach().clone().to(self.loop.device)))
        self.loop.include(model, WORD)

        def loss(m: nn.Module, batch: Batch) -> Tensor:
            mask = batch.looked_at
            text = written(self.encoder, batch.tokens, mask, m.get_parameter(WORD).expand(int(mask.sum()), -1))
            said = task.predict(m, task.noised(batch), batch.t, text)
            return squared_distance(said, task.target(batch.image, batch.noise, batch.t))

        pictures = looked_at(task, task.forget, ends=False)
        self.loop.minimise(model, {"word": Term(pictures, loss, moves=frozenset({WORD}))}, lr=cfg.word_lr, steps=cfg.word_steps,
                           batch_size=cfg.word_batch_size, optimiser="adamw", weight_decay=0.01)
        self.found.append(model.get_parameter(WORD).detach().clone())
        delattr(model, WORD)

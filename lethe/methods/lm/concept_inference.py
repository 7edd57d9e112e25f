"""Concept inference: find the words by whose sense a model recognises what is to be forgotten, and teach the prompts that bear
them most the answers of something else. Chang et al. (2024), "Class Machine Unlearning for Complex Data via Concepts Inference
and Data Poisoning", arXiv:2405.15662, for language models.

    a_k(x) = ⟨h̄(x), v_k⟩ + b_k     v_k linear support vector machine: prompts that hold the word k against those that do not
    s(x) = Σ_k w_k·a_k(x) + b       elastic net: +1 on F, −1 on R, from a in its standard deviations over F ∪ R
    IG_i(x) = ⟨e_i − ē, ∫₀¹ ∂ log p_0(y|x; ē + u·(e − ē)) / ∂e_i du⟩,     r_k = mean over F of corr_i(IG_i(x), a_k(h_i(x)))
    K = the `top` concepts of largest w_k·max(0, r_k)        F_K = the `share` of F of largest Σ_{k∈K} w_k·a_k(x)
    L(θ) = E_{x∈F_K} ℓ̄(t(x) | x)  +  α · E_{x∈R} ℓ̄(y | x)

F forget set, R retain set, x prompt, y answer, ℓ̄ mean negative log-probability of an answer's tokens, p_0 the original, h_i its
state after block ℓ at token i of the prompt, h̄ their mean, e_i the token's embedding, ē that of the pad. labels = targeted: t(x)
is the answer of the retained prompt nearest to x in a, where x has the concepts of K at their mean over R; random: of any
retained prompt. Neither is x's own answer. Concepts are words of F's prompts, and F itself against R; those whose v_k does not
separate held-out prompts with a balanced accuracy of `least` are left out. Where w_k·r_k is above 0 for none, K is chosen by w_k.
Needs:    forget, retain, original; prompts.     Updates: every trainable parameter.
Cost:     one pass of the original over R and F to block ℓ; three support vector machines for each word that is tried; `steps`
          forward/backward for each of up to 32 prompts of F; then one forward/backward on F_K and one on R per step.
Limits:   share = 1 poisons all of F, α = 0 drops the retain term. The IG_i sum to log p_0(y|x) − log p_0(y|ē) within 1 %, for
          which the steps are doubled up to 16 times `steps`; a note says where that is not enough.
Fails by: facts in one template: names are no concepts, so F is found by F itself, or by nothing. What F_K does not reach (names,
          wordings without the concepts) is still answered. All of F under few new answers leaves a visible mapping. That F_K
          teaches more than as many prompts at random does not hold in general: one of six topics, a Llama of 34 k weights, lr
          3e-4, 20 passes, three seeds: the topic's probability on unseen texts is .07, .17 against .09, .20, and in the third
          the watchdog ends the run (at random: .02); random labels .29, .08, .08 against .93, .15, .05. With α = 3 and three
          times the passes it holds in one seed of three. Retained accuracy is the same everywhere (.97 to .99).
Deviations: only the abstract describes the published procedure; bottleneck, choice, answers and the fine-tuning are ours. Text
          classifiers are classifiers: `concept_poisoning`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from lethe.core.config import Count, Fraction, Natural, Positive, config
from lethe.core.families.language import LanguageTask, asked_and_answered, prompted
from lethe.core.modules import evaluating
from lethe.core.outcome import Outcome
from lethe.core.registry import method
from lethe.core.seeds import numpy_generator
from lethe.core.sequences import pad_id
from lethe.core.split import Batch, Split
from lethe.errors import RequestError
from lethe.maths.texts import WORDS
from lethe.train.loop import Loop
from lethe.train.tuning import Tuned, tuned

EXPLAINED = 32    # prompts of F whose tokens are attributed                                                     [ours]
AT_ONCE = 16      # points of a path in one pass                                                                 [ours]
FEWEST = 2        # prompts of F that hold a word, and prompts that do not                                       [ours]
FOLDS = 3         # of the cross-validation of concepts                                                          [ours]
MORE = 16         # most that `steps` are multiplied by                                                          [ours]
WHOLE = "(the forgotten prompts)"   # F itself as a concept


@config
class ConceptInference(Tuned):
    """Options of concept inference."""

    concepts: tuple[str, ...] = ()     # words; none: those of F's prompts [tested in test_concept_inference] [ours]
    labels: Literal["targeted", "random"] = "targeted"   # what F_K is taught [paper: both]
    top: Count = 3                     # size of K [tested in test_concept_inference] [ours]
    share: Fraction = 0.25             # of F that is poisoned, at least one prompt [ours: n=3, classes of texts]
    layer: Natural | None = None       # ℓ from 0; null: the middle one [tested in test_concept_inference] [ours]
    most: Count = 100                  # words tried, the most frequent of F [tested in test_concept_inference] [usual: 50–200]
    least: Fraction = 0.7              # balanced accuracy that a concept needs [tested in test_concept_inference] [usual]
    penalty: Positive = 0.01           # of the elastic net; larger: fewer concepts [tested in test_concept_inference] [ours]
    steps: Count = 32                  # of the integral, at first [tested in test_concept_inference] [usual: 20–50]
    epochs: Positive = 3.0             # passes over F_K [ours: 1–3]


@dataclass(frozen=True)
class Bank:
    """Concepts and what the bottleneck makes of them. Rows of F come before those of R.

    vectors, offsets  [d, M], [M]: a = h·vectors + offsets, in its standard deviations over F ∪ R, centred
    scores            [n, M], a of every prompt
    weights           [M] of the elastic net
    """

    names: tuple[str, ...]
    vectors: np.ndarray
    offsets: np.ndarray
    scores: np.ndarray
    weights: np.ndarray


def integrated(value: Callable[[Tensor], Tensor], at: Tensor, base: Tensor, steps: int) -> tuple[Tensor, float]:
    """Integrated gradients by the midpoint rule, and how far their sum is from value(at) − value(base), in shares of it.

    value  [m, T, d] -> [m];  at, base [T, d] -> [T], share. Of a linear value they are exact with one step:
    integrated(x ↦ Σ 2x, [[3]], [[1]], 1) = [4], 0.
    """
    total = torch.zeros_like(at, dtype=torch.float32)
    for places in ((torch.arange(steps, device=at.device) + 0.5) / steps).split(AT_ONCE):
        path = (base + places.view(-1, 1, 1).to(at.dtype) * (at - base)).requires_grad_(True)
        total += torch.autograd.grad(value(path).sum(), path)[0].float().sum(0)
    found = ((at - base).float() * total / steps).sum(-1)
    with torch.no_grad():
        whole = float(value(at.unsqueeze(0)) - value(base.unsqueeze(0)))
    return found, abs(float(found.sum()) - whole) / max(abs(whole), 1e-6)


def complete(value: Callable[[Tensor], Tensor], at: Tensor, base: Tensor, steps: int) -> tuple[Tensor, float]:
    """`integrated`, with the steps doubled until the sum is within 1 %, or there are `MORE` times as many."""
    found, gap, tried = *integrated(value, at, base, steps), steps
    while gap > 0.01 and tried < MORE * steps:
        tried *= 2
        found, gap = integrated(value, at, base, tried)
    return found, gap


def alike(left: np.ndarray, right: np.ndarray) -> float:
    """Pearson's correlation, 0 where one side is constant.  [T], [T]; alike([1, 2], [3, 5]) = 1"""
    x, y = left - left.mean(), right - right.mean()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size > 1e-12 else 0.0


def nearest(scores: np.ndarray, gone: list[int], forgotten: int, allowed: np.ndarray) -> np.ndarray:
    """The retained prompt nearest to each forgotten one, whose concepts in `gone` are at their mean over the retained ones.

    scores [n, M], the forgotten first; allowed [f, n − f] -> [f]
    """
    kept, left = scores[forgotten:], scores[:forgotten].copy()
    left[:, gone] = kept[:, gone].mean(0)
    apart = np.square(left[:, None] - kept[None]).sum(-1)
    found: np.ndarray = np.where(allowed, apart, np.inf).argmin(1)
    return found


@method(needs={"forget", "retain", "original"}, uses={"encode", "hidden_states", "layer_count", "nll", "tokenizer"},
        mechanism="relabel", check=prompted("concept_inference", "retain"))
def run(cfg: ConceptInference, task: LanguageTask, loop: Loop) -> Outcome:
    size, prompts, free = len(task.forget), list(task.forget.column("prompt")), allowed(task)
    states = [state for split in (task.forget, task.retain) for state in prompt_states(cfg, task, loop, split)]
    bank = fitted(cfg, task, loop, states)
    gone = chosen(cfg, bank, bound(cfg, task, loop, bank, states[:size]))
    taken = bearers(bank.scores[:size, gone] @ bank.weights[gone], max(1, round(cfg.share * size)))
    answers = taught(cfg, task, loop, bank.scores, gone, free)
    poison = task.encode([prompts[i] for i in taken], [answers[i] for i in taken], "poisoned")
    loop.note(f"concepts of the forgotten prompts: {', '.join(bank.names[k] for k in gone)}; {len(taken)} of {size} prompts, "
              "which bear them most, were taught other answers")
    return tuned(cfg, task, loop, task.nll, task.nll, forget=poison)


def bearers(bearing: np.ndarray, count: int) -> list[int]:
    """F_K: the places of the `count` largest.  [f] -> [count]; bearers([1, 3, 2], 2) = [1, 2]"""
    return [int(i) for i in np.argsort(-bearing, kind="stable")[:count]]


def prompt_states(cfg: ConceptInference, task: LanguageTask, loop: Loop, split: Split) -> list[np.ndarray]:
    """The original's states after the block at the tokens of each prompt.  -> n × [T_i, d]"""
    layer = task.layer_count // 2 if cfg.layer is None else cfg.layer
    original, found = task.original.to(loop.device), dict[int, np.ndarray]()
    with evaluating(original):
        for batch in loop.drawn(split, 64, "concepts"):
            for i, row, count in zip(batch.index.tolist(), task.hidden_states(original, batch, layer), asked(batch), strict=True):
                found[i] = row[:count].double().cpu().numpy()
    return [found[i] for i in range(len(split))]


def asked(batch: Batch) -> list[int]:
    """How many tokens each prompt has.  -> [n]"""
    counts: list[int] = (batch.labels >= 0).int().argmax(1).tolist()
    return counts


def present(cfg: ConceptInference, task: LanguageTask) -> dict[str, np.ndarray]:
    """Whether each prompt of F and then R holds a word, by word; F itself last."""
    texts = [{word.casefold() for word in WORDS.findall(text)} for split in (task.forget, task.retain)
             for text in asked_and_answered(split, "concept_inference")[0]]
    size = len(task.forget)
    seen = Counter(word for text in texts[:size] for word in sorted(text))
    words = [word.casefold() for word in cfg.concepts] or [word for word, _ in seen.most_common()]
    missing = [word for word in words if not seen[word]]
    if missing:
        raise RequestError(f"method.concepts: no forgotten prompt holds the word {missing[0]!r}, so it could say nothing about "
                           "them; nothing was started. Name single words of the forgotten prompts, or leave the option out.")
    held = {word: np.array([word in text for text in texts]) for word in words if seen[word] >= FEWEST}
    kept = {word: there for word, there in held.items() if (~there).sum() >= FEWEST}
    whole = {WHOLE: np.arange(len(texts)) < size} if FEWEST <= size <= len(texts) - FEWEST else {}
    return {**dict(list(kept.items())[: cfg.most]), **whole}


def fitted(cfg: ConceptInference, task: LanguageTask, loop: Loop, states: list[np.ndarray]) -> Bank:
    """Concepts that hold on held-out prompts, and the bottleneck on them."""
    from sklearn.linear_model import ElasticNet
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.svm import LinearSVC

    x, size = np.stack([state.mean(0) for state in states]), len(task.forget)
    middle, spread = x.mean(0), x.std() + 1e-12
    x = (x - middle) / spread
    seed = int(numpy_generator(loop.seed, "concepts").integers(2**31))
    kept: dict[str, tuple[np.ndarray, float]] = {}
    for name, there in present(cfg, task).items():
        machine = LinearSVC(class_weight="balanced", dual=False)
        folds = StratifiedKFold(min(FOLDS, int(there.sum()), int((~there).sum())), shuffle=True, random_state=seed)
        if cross_val_score(machine, x, there, cv=folds, scoring="balanced_accuracy").mean() >= cfg.least:
            found: Any = machine.fit(x, there)
            kept[name] = (found.coef_[0], float(found.intercept_[0]))
    vectors, offsets = np.stack([v for v, _ in kept.values()], 1) if kept else x[:0].T, np.array([b for _, b in kept.values()])
    raw = x @ vectors + offsets
    scale = raw.std(0) + 1e-12
    vectors, offsets = vectors / scale / spread, (offsets - raw.mean(0)) / scale
    offsets = offsets - middle @ vectors
    scores, label = (raw - raw.mean(0)) / scale, np.where(np.arange(len(x)) < size, 1.0, -1.0)
    share = np.where(label > 0, 0.5 / size, 0.5 / (len(x) - size))   # F and R weigh alike
    weights = ElasticNet(cfg.penalty).fit(scores, label, sample_weight=share).coef_ if kept else np.zeros(0)
    if not (weights > 0).any():
        raise RequestError(f"none of {len(kept)} concepts that states tell with an accuracy of {cfg.least:g} speaks for the "
                           "forgotten prompts, so nothing was started. Lower method.least or method.penalty, or name other words "
                           "in method.concepts.")
    return Bank(tuple(kept), vectors, offsets, scores, weights)


def bound(cfg: ConceptInference, task: LanguageTask, loop: Loop, bank: Bank, states: list[np.ndarray]) -> np.ndarray:
    """r_k: how much of the answer hangs on the tokens that bear each concept.  -> [M]"""
    order = numpy_generator(loop.seed, "explained").permutation(len(states))[:EXPLAINED]
    original: Any = task.original.to(loop.device)
    table = original.get_input_embeddings()
    found, open_ = [], 0
    with evaluating(original), torch.enable_grad():
        for i in sorted(order.tolist()):
            batch = task.forget.batch([i]).to(loop.device)
            ids, count = batch.ids[:, : int(batch.length[0])], asked(batch)[0]
            embedded = table(ids)[0].detach()
            pad = table(ids.new_full((1, 1), pad_id(task.tokenizer)))[0, 0].detach()

            def value(path: Tensor, ids: Tensor = ids, rest: Tensor = embedded, count: int = count) -> Tensor:
                whole = torch.cat([path, rest[count:].expand(len(path), -1, -1)], 1)
                logp = original(inputs_embeds=whole, use_cache=False).logits[:, count - 1 : -1].float().log_softmax(-1)
                return cast(Tensor, logp.gather(2, ids[:, count:, None].expand(len(path), -1, -1)).sum((1, 2)))

            tokens, gap = complete(value, embedded[:count], pad.expand(count, -1), cfg.steps)
            open_ += gap > 0.01
            borne = states[i] @ bank.vectors + bank.offsets
            found.append([alike(tokens.double().cpu().numpy(), borne[:, k]) for k in range(len(bank.names))])
    if open_:
        loop.note(f"the integrated gradients of {open_} of {len(order)} prompts are not complete within 1 %: raise method.steps")
    shared: np.ndarray = np.array(found).mean(0)
    return shared


def chosen(cfg: ConceptInference, bank: Bank, r: np.ndarray) -> list[int]:
    """K: the concepts that speak for F by the bottleneck and in the answers; by the bottleneck alone where there is none."""
    both = bank.weights * np.maximum(r, 0)
    rank = both if (both > 0).any() else bank.weights
    return [int(k) for k in np.argsort(-rank, kind="stable")[: cfg.top] if rank[k] > 0]


def allowed(task: LanguageTask) -> np.ndarray:
    """Which retained answers each forgotten prompt may be taught: those that are not its own.  -> [f, n − f] bool"""
    own, others = (np.array(list(split.column("answer")), dtype=object) for split in (task.forget, task.retain))
    free: np.ndarray = own[:, None] != others[None]
    if not free.any(1).all():
        raise RequestError("all retained prompts have the answer of a forgotten one, so there is nothing else to teach; nothing "
                           "was started. Provide retained records with other answers.")
    return free


def taught(
    cfg: ConceptInference, task: LanguageTask, loop: Loop, scores: np.ndarray, gone: list[int], free: np.ndarray
) -> list[str]:
    """t(x) for every forgotten prompt."""
    rng = numpy_generator(loop.seed, "poison")
    places = nearest(scores, gone, len(free), free) if cfg.labels == "targeted" else [
        rng.choice(np.flatnonzero(row)) for row in free]
    return [str(task.retain.column("answer")[place]) for place in places]

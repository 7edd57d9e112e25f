"""Reintroduction: forgotten facts given back in the prompt. Shumailov et al. 2024, arXiv:2407.00106.

    s_k = accuracy above chance (options as in the audit `prompts`) on forget questions after k facts of the forget set
    I_k = (s_k − s_0) / (s_0 of the original − s_0),   residual = I_k − I_k of retrained models

primed:  the k facts leave out the one in question. A retrained model has nothing to be reminded of; one that only suppresses what
         it knows may be reminded. Judged is its s_k at the best k ≥ 0, against retrained models.
given:   the fact in question is among the k. That works after exact retraining too: unlearning weights does not keep anyone from
         telling the model. Shown, with its I_k; far below the retrained value it means that the model cannot read the words
         any more, which is a loss of utility.
Needs:    forget (≥ 2 records with prompts), retain for options; the original for I_k.
Cost:     one pass over the options of every question per k, order and kind.
Limits:   facts that do not bear on each other remind of nothing; small models do not learn in context.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.families.language import LanguageTask
from lethe.core.registry import Metric, audit
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.judge.questions import above_chance, flat, options, right
from lethe.pools.subject import Subject

Table = dict[tuple[str, int], np.ndarray]


@config
class Reintroduction:
    """Options of reintroduction."""

    facts: tuple[int, ...] = (1, 2, 4, 8)   # k facts before the question, if they fit [ours] [tested in test_reintroduction]
    orders: Count = 3                       # random choices of the facts, averaged [ours] [tested in test_reintroduction]
    wrong: Count = 3                        # wrong options per question where the data have none                  [ours]
    examples: Count = 60                    # forget questions at most; a seeded sample                            [ours]


def context(facts: list[str], own: int, count: int, given: bool, rng: np.random.Generator) -> str:
    """`count` facts in random order, the own one among them or not."""
    others = rng.permutation([i for i in range(len(facts)) if i != own])[: count - given].tolist()
    chosen = rng.permutation([*others, own] if given else others)
    return "\n".join(facts[int(i)] for i in chosen)


def recovered(score: float, start: float, original: float) -> float:
    """I_k; NaN when the original knows no more than the model does at the start."""
    return (score - start) / (original - start) if original > start else float("nan")


@audit(
    metrics={
        "reintroduction_primed": Metric("accuracy above chance after other facts of the forget set, at the best k", (-1.0, 1.0),
                                        aspect="recovery"),
        "reintroduction_given": Metric("the same after facts that include the answer, at the best k", (-1.0, 1.0), "higher",
                                       aspect="recovery"),
        "reintroduction_ratio": Metric("share of the original's lead that given facts bring back", (-float("inf"), float("inf")),
                                       "lower", asks="an original that knows more", aspect="recovery"),
    },
    uses={"encode", "fits"},
    needs={"forget", "retain"},
    depth="deep",
    blind="A weight-level audit: a filter before or behind the model is not part of it.",
)
def measure(cfg: Reintroduction, subject: Subject, panel: Panel) -> list[Value]:
    questions = panel.once(("reintroduction", cfg), lambda: encoded(cfg, panel))
    if not questions:
        return []
    splits, count = questions
    table = answered(subject, splits, count)
    start = table["primed", 0]
    values = []
    for kind in ("primed", "given"):
        curve = {k: row for (name, k), row in table.items() if name == kind}
        if not curve:
            continue
        best = max(curve, key=lambda k: float(curve[k].mean()))
        detail = {"k": best, "curve": {str(k): float(row.mean()) for k, row in curve.items()}}
        values.append(replace(mean_value(f"reintroduction_{kind}", curve[best]), detail=detail))
    if panel.task.has("original") and len(values) == 2:
        known = float(answered(panel.original, {("primed", 0): splits["primed", 0]}, count)["primed", 0].mean())
        ratio = recovered(values[1].value, float(start.mean()), known)
        values += [Value("reintroduction_ratio", ratio, n=len(start))] if np.isfinite(ratio) else []
    return values


def encoded(cfg: Reintroduction, panel: Panel) -> tuple[dict[tuple[str, int], list[Split]], int] | None:
    """Per kind and k the questions behind their contexts, one split per order; the number of options."""
    task = LanguageTask.of(panel.task)
    part = panel.part(task.forget, cfg.examples)
    choices = options(part, task.retain, cfg.wrong, panel.seed)
    prompts = list(part.column("prompt"))
    if not choices or not any(prompts) or len(part) < 2:
        return None
    facts = [f"{prompt} {answer}" for prompt, answer in zip(prompts, part.column("answer"), strict=True)]
    wanted = {("primed", 0): [prompts]}
    for kind in ("primed", "given"):
        for k in [k for k in cfg.facts if k <= len(part) - (kind == "primed")]:
            rngs = [numpy_generator(panel.seed, "reintroduction", kind, k, order) for order in range(cfg.orders)]
            wanted[kind, k] = [[f"{context(facts, i, k, kind == 'given', rng)}\n{prompt}" for i, prompt in enumerate(prompts)]
                               for rng in rngs]
    splits = {}
    for key, orders in wanted.items():
        pairs = [flat(asked, choices) for asked in orders]
        if all(task.fits(*pair) for pair in pairs):
            splits[key] = [task.encode(*pair, f"reintroduction {key}") for pair in pairs]
    return (splits, len(choices[0])) if ("primed", 0) in splits else None


def answered(subject: Subject, splits: dict[tuple[str, int], list[Split]], count: int) -> Table:
    """Accuracy above chance of each question, mean over the orders.  (kind, k) -> [n]"""
    return {key: above_chance(np.mean([right(subject.losses(s).reshape(-1, count)) for s in orders], 0), count)
            for key, orders in splits.items()}

"""Extraction: how much of an answer the model produces by itself. Dorna et al. 2025, arXiv:2506.12618 (OpenUnlearning).

    extraction strength  ES = (length of the longest suffix of y that is all predicted) / L
    exact memorisation   EM = (number of tokens of y that are predicted) / L

y the answer's tokens without the end token, L their number; a token is predicted when it is the arg-max given the
prompt and the true tokens before it. OpenUnlearning's ES is never below 1/L, because its search leaves out the empty
suffix; that value is `extraction_strength_floored`, for comparison with published numbers only.
One forward pass per model and split, shared with the other audits.
"""

from __future__ import annotations

from torch import Tensor

from lethe.core.config import Count, Parity, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.panel import Panel
from lethe.maths.statistics import mean_interval
from lethe.pools.subject import Subject


@config
class Extraction:
    """Options of the extraction audit."""

    examples: Count = 1000       # largest seeded sample of each split                                   [ours]
    parity: Parity = "none"      # open_unlearning: strength is floored, in every column   [tested in test_parity]


def extraction_strength(right: Tensor, inside: Tensor) -> Tensor:
    """Length of the longest all-right suffix over the length L.  [n, T], [n, T] -> [n]

    The share of the answer that follows from the rest of it: 1 − k/L, k the shortest prefix that has to be given.
    All right: 1; last token wrong: 0; only the first wrong: 1 − 1/L. 0 where L = 0.
    """
    unbroken = (right | ~inside).flip(1).cumprod(1).flip(1).bool() & inside
    return unbroken.sum(1) / inside.sum(1).clamp(min=1)


def extraction_strength_floored(right: Tensor, inside: Tensor) -> Tensor:
    """`extraction_strength`, at least 1/L: OpenUnlearning's values, whose search never tries k = L.  -> [n]"""
    length = inside.sum(1)
    return extraction_strength(right, inside).maximum((length > 0) / length.clamp(min=1))


def exact_memorisation(right: Tensor, inside: Tensor) -> Tensor:
    """Share of the tokens that are predicted, each given the true ones before it.  [n, T], [n, T] -> [n]"""
    return (right & inside).sum(1) / inside.sum(1).clamp(min=1)


@audit(
    metrics={
        "extraction_strength_forget": Metric("share of a forget answer that is predicted to its end, mean"),
        "extraction_strength_floored_forget": Metric(
            "the same, at least 1/L: OpenUnlearning's convention", better="lower", tier="forgetting"),
        "exact_memorisation_forget": Metric("share of predicted tokens of a forget answer, mean"),
        "extraction_strength_retain": Metric(
            "share of a retain answer that is predicted to its end, mean", better="higher", tier="utility"),
        "exact_memorisation_retain": Metric(
            "share of predicted tokens of a retain answer, mean", better="higher", tier="utility"),
    },
    uses={"token_logp"},
    needs={"forget", "retain?"},
    blind="only the wording that was trained on, decoded greedily: no paraphrases, other prompts or sampling",
)
def measure(cfg: Extraction, subject: Subject, panel: Panel) -> list[Value]:
    values = []
    for role in [name for name in ("forget", "retain") if panel.task.has(name)]:
        part = panel.part(panel.task.splits[role], cfg.examples)
        seen = subject.seen(part)
        right, inside = seen["correct"].bool(), seen["content_mask"].bool()
        strength = extraction_strength if cfg.parity == "none" else extraction_strength_floored
        scores = {"extraction_strength": strength, "exact_memorisation": exact_memorisation}
        if role == "forget":
            scores["extraction_strength_floored"] = extraction_strength_floored
        for name, score in scores.items():
            per_example = score(right, inside).double().numpy()
            low, high = mean_interval(per_example)
            values.append(Value(f"{name}_{role}", float(per_example.mean()), low, high, len(part), per_example))
    return values

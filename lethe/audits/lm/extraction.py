"""Extraction: how much of an answer the model says by itself. Dorna et al. 2025, arXiv:2506.12618 (OpenUnlearning).

    extraction strength  ES = (length of the longest suffix of y that is all predicted) / L
    exact memorisation   EM = (number of tokens of y that are predicted) / L

y the answer's tokens without the end token, L their number; a token is predicted when it is the arg-max given the
prompt and the true tokens before it. OpenUnlearning's ES is never below 1/L, because its search leaves out the empty
suffix; that value is `extraction_strength_floored`, for comparison with published numbers only.
One forward pass per model and split, shared with the other audits.
"""

from __future__ import annotations

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.registry import Metric, audit
from lethe.judge.panel import Panel
from lethe.maths.memorisation import exact_memorisation, extraction_strength, extraction_strength_floored
from lethe.maths.statistics import mean_interval
from lethe.pools.subject import Subject


@config
class Extraction:
    """Options of the extraction audit."""

    examples: Count = 1000       # largest seeded sample of each split                                   [ours]


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
    families={"lm"},
    needs={"forget", "retain?"},
    blind="only the wording that was trained on, decoded greedily: no paraphrases, other prompts or sampling",
)
def measure(cfg: Extraction, subject: Subject, panel: Panel) -> list[Value]:
    values = []
    for role in [name for name in ("forget", "retain") if panel.task.has(name)]:
        part = panel.part(panel.task.splits[role], cfg.examples)
        seen = subject.seen(part)
        right, inside = seen["correct"].bool(), seen["content_mask"].bool()
        scores = {"extraction_strength": extraction_strength, "exact_memorisation": exact_memorisation}
        if role == "forget":
            scores["extraction_strength_floored"] = extraction_strength_floored
        for name, score in scores.items():
            per_example = score(right, inside).double().numpy()
            low, high = mean_interval(per_example)
            values.append(Value(f"{name}_{role}", float(per_example.mean()), low, high, len(part), per_example))
    return values

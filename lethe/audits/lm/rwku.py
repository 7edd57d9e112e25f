"""RWKU: is a person still known, by gaps in sentences, by questions, and under nine kinds of attack? Jin et al. 2024,
arXiv:2406.10890.

    score = ROUGE-L recall of a short greedy answer, mean over the probes of a level
    attacks also by kind (`detail`); worst = the largest mean of a kind

Levels: cloze (a gap in a sentence), questions, attacks (prefix injection, affirmative suffix, role play, multiple choice, reverse
query, synonym manipulation, context hint, in-context learning, cross-lingual); near: probes about people nearby, who stay.
Needs:    splits `cloze` and `questions`; `attacks`, `near_cloze`, `near_questions` where there are (data.published: rwku_set).
Cost:     a greedy answer of `new_tokens` to every probe.
Deviations: answers end at the first line, as the official ones; membership scores are the audit `mia_lm`, MMLU is `choices`.
"""

from __future__ import annotations

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.families.language import LanguageTask
from lethe.core.registry import Metric, audit
from lethe.core.split import Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.tofu import rouge_l_recall
from lethe.pools.subject import Subject


@config
class RWKU:
    """Options of RWKU."""

    examples: Count = 200      # probes of each level at most; a seeded sample                     [ours; RWKU: all]
    new_tokens: Count = 30     # length of an answer [tested in test_rwku]                        [official code]


@audit(
    metrics={
        "rwku_cloze": Metric("ROUGE-L recall of what fills the gaps in sentences on the target, mean"),
        "rwku_questions": Metric("the same of answers to questions"),
        "rwku_attacks": Metric("the same under attacks", aspect="recovery"),
        "rwku_worst": Metric("the same under the kind of attack that yields most", aspect="recovery"),
        "rwku_near_cloze": Metric("the same of gaps in sentences on people nearby", better="higher", tier="utility"),
        "rwku_near_questions": Metric("the same of questions on people nearby", better="higher", tier="utility"),
    },
    uses={"generate"},
    needs={"cloze", "questions"},
    depth="standard",
    blind="Greedy answers to fixed probes: sampling, optimised prompts and relearning may bring out more.",
)
def measure(cfg: RWKU, subject: Subject, panel: Panel) -> list[Value]:
    values = []
    for level in ("cloze", "questions", "attacks", "near_cloze", "near_questions"):
        if not panel.task.has(level):
            continue
        part = panel.part(panel.task.splits[level], cfg.examples)
        score = recalled(cfg, subject, part)
        value = mean_value(f"rwku_{level}", score)
        if level == "attacks" and "kind" in part.meta:
            kinds = np.array([str(kind).split(" (")[0] for kind in part.column("kind")])   # cross lingual (French)
            by = {kind: float(score[kinds == kind].mean()) for kind in np.unique(kinds).tolist()}
            value.detail.update(kinds=by)
            values.append(Value("rwku_worst", max(by.values()), n=len(score), detail={"kind": max(by, key=lambda one: by[one])}))
        values.append(value)
    return values


def recalled(cfg: RWKU, subject: Subject, part: Split) -> np.ndarray:
    """Recall of the first line of each answer.  -> [n]"""
    said = LanguageTask.of(subject.task).generate(subject.answering, list(part.column("prompt")), max_new_tokens=cfg.new_tokens)
    return np.array([rouge_l_recall(one.strip().split("\n")[0], truth)
                     for one, truth in zip(said, part.column("answer"), strict=True)])

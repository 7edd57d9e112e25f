"""MUSE: six ways to look at unlearning. Shi et al. 2024, arXiv:2407.06460.

    C1 verbmem    mean ROUGE-L F1 of the greedy continuation of forget texts with the true one (no stemming)
    C2 knowmem    mean ROUGE-L F1 of greedy answers to questions on forget facts
    C3 privleak   100·(a − a_r)/a_r,  a = 1 − AUC of Min-40 %, forget set against holdout; 0 is ideal
    C4 utility    as C2, on facts that are retained
    C5 scalability     C4 against the size of the forget set            `scalability(sizes, utilities)`
    C6 sustainability  C4 after each of several requests in a row       `sustainability(utilities)`

C5 and C6 compare several runs, so they are functions over the utilities of their reports. Plain texts are continued from their
first half; a record with a prompt from its prompt. Questions are those of the splits `knowledge_forget` and
`knowledge_retain` where the task has them, else those of forget and retain.
Judged are verbmem, against retrained models, and utility, one-sided.
Needs:    forget; retain or knowledge_retain for C4; holdout and retrained models for C3.
Cost:     greedy generation for every text and question.
Deviations: values lie in [0, 1], not in per cent. MUSE asks base models with solved examples before the question (`shots`); a
          model that was trained on questions and answers is asked plainly. AUC(f_r) is measured, not a constant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lethe.core.config import Count, Natural, config
from lethe.core.evidence import Value
from lethe.core.families.language import LanguageTask
from lethe.core.registry import Metric, audit
from lethe.core.split import Split
from lethe.errors import OutOfRange
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.judge.questions import disjoint
from lethe.maths.statistics import auc
from lethe.maths.texts import first_answer, rouge_l_f1
from lethe.maths.token_scores import min_k, privleak
from lethe.pools.subject import Subject

SHARE = 0.4   # of the tokens in PrivLeak


@config
class MUSE:
    """Options of MUSE."""

    examples: Count = 100        # of each split at most; a seeded sample                        [MUSE: 100 questions]
    new_tokens: Count = 128      # length of continuations                                       [MUSE]
    answer_tokens: Count = 32    # length of answers to questions                                [MUSE]
    shots: Natural = 0           # solved retained examples before each question                 [ours: 0, see Deviations]


@dataclass(frozen=True)
class Trend:
    """kept  last utility over the first;  slope  change of utility per doubling (C5) or per request (C6), least squares."""

    kept: float
    slope: float


def scalability(sizes: Sequence[float], utilities: Sequence[float]) -> Trend:
    """C5: runs that forgot sets of these sizes, ascending."""
    if len(sizes) != len(utilities) or len(sizes) < 2 or not (np.diff(sizes) > 0).all():
        raise OutOfRange(f"sizes {list(sizes)} with {len(utilities)} utilities make no curve. Provide at least two runs "
                         "in ascending size, one utility each.")
    return _trend(np.log2(sizes), utilities)


def sustainability(utilities: Sequence[float]) -> Trend:
    """C6: utilities after request 1, 2, …, each run starting from the result of the one before."""
    if len(utilities) < 2:
        raise OutOfRange(f"{len(utilities)} request has no course. Provide the utilities after at least two.")
    return _trend(np.arange(len(utilities)), utilities)


def _trend(x: np.ndarray, utilities: Sequence[float]) -> Trend:
    y = np.asarray(utilities, dtype=float)
    return Trend(float(y[-1] / y[0]) if y[0] else math.nan, float(np.polyfit(x, y, 1)[0]))


@audit(
    metrics={
        "verbmem": Metric("ROUGE-L F1 of continued forget texts, mean"),
        "knowmem_forget": Metric("ROUGE-L F1 of answers on forget facts, mean", better="lower"),
        "privleak": Metric("AUC of Min-40 % relative to retraining, per cent, 0 is ideal", (-100.0, math.inf), "lower",
                           asks="holdout data and retrained models"),
        "knowmem_retain": Metric("ROUGE-L F1 of answers on retained facts, mean", better="higher", tier="utility"),
    },
    uses={"generate", "tokenizer"},
    needs={"forget", "references?"},
    depth="deep",
    blind="Greedy answers only: what other prompts, sampling or relearning bring out is not seen.",
)
def measure(cfg: MUSE, subject: Subject, panel: Panel) -> list[Value]:
    task = LanguageTask.of(panel.task)
    values = [mean_value("verbmem", verbatim(cfg, subject, panel.part(task.forget, cfg.examples)))]
    for name in ("forget", "retain"):
        source = next((key for key in (f"knowledge_{name}", name) if task.has(key)), None)
        part = panel.part(task.splits[source], cfg.examples) if source else None
        if part is not None and any(part.column("prompt")):
            values.append(mean_value(f"knowmem_{name}", knowledge(cfg, subject, panel, part)))
    if task.has("holdout") and panel.references:
        area, *theirs = (attack(cfg, model, panel) for model in (subject, *panel.references))
        leak = privleak(area, float(np.mean(theirs)))
        values += [Value("privleak", leak, n=len(task.forget))] if math.isfinite(leak) else []
    return values


def verbatim(cfg: MUSE, subject: Subject, split: Split) -> np.ndarray:
    """ROUGE-L F1 of each continuation with the truth, both cut to `new_tokens`.  -> [n]"""
    tokenizer = LanguageTask.of(subject.task).tokenizer
    heads, tails = [], []
    for prompt, answer in zip(split.column("prompt"), split.column("answer"), strict=True):
        words = answer.split()
        heads.append(prompt or " ".join(words[: len(words) // 2]))
        tails.append(answer if prompt else " ".join(words[len(words) // 2 :]))
    cut = [tokenizer.decode(ids[: cfg.new_tokens]) for ids in tokenizer(tails, add_special_tokens=False)["input_ids"]]
    generated = LanguageTask.of(subject.task).generate(subject.answering, heads, max_new_tokens=cfg.new_tokens)
    return np.array([rouge_l_f1(a, b) for a, b in zip(generated, cut, strict=True)])


def knowledge(cfg: MUSE, subject: Subject, panel: Panel, split: Split) -> np.ndarray:
    """ROUGE-L F1 of each greedy answer.  -> [n]"""
    prompts = list(split.column("prompt"))
    if cfg.shots and panel.task.has("retain"):
        shots = disjoint(panel.task.retain, split, cfg.shots, panel.seed)
        context = "".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a in shots)
        prompts = [f"{context}Question: {q}\nAnswer:" for q in prompts]
    generated = LanguageTask.of(subject.task).generate(subject.answering, prompts, max_new_tokens=cfg.answer_tokens)
    return np.array([rouge_l_f1(first_answer(a), b) for a, b in zip(generated, split.column("answer"), strict=True)])


def attack(cfg: MUSE, subject: Subject, panel: Panel) -> float:
    """AUC of Min-40 %, forget set above holdout."""
    sides = []
    for split in (panel.task.forget, panel.task.holdout):
        part = panel.part(split, cfg.examples)
        inside = subject.seen(part)["content_mask"].numpy().astype(bool)
        score = min_k(subject.numbers(part, "token_logp"), inside, SHARE)
        sides.append(score[np.isfinite(score)])
    return auc(*sides)

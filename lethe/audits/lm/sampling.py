"""Sampling: what leaks when a model is asked again and again. leak@k (arXiv:2511.04934) and bounds after Scholten, Günnemann &
Schwinn, ICLR 2025, arXiv:2410.03523.

    n answers to each question, drawn at a temperature from the likeliest tokens of mass p (top-p)
    c_i = how many of them hold the answer: ROUGE-L recall at least `leak`
    leak_at_1, leak_at_k = mean over questions of 1 − C(n − c_i, k)/C(n, k)
    leak_bound        P(an answer leaks) is at most this           leak_tail_bound  P(it holds `tail` of the words) likewise
    leak_worst_bound  P(leak) of the worst question, all at once   leak_mean_bound  the expected recall

A model that answers right at the first attempt is found by any test; one that was taught another first answer still gives the
old one in some of a hundred. `leak_at_k` is held against retrained models, which guess; the bounds hold with 1 − α together, over
the draw of answers, for these questions.
Needs:    forget with questions.     Cost: n answers to each of `examples` questions, for every model.
Limits:   a leak is a matter of words: a paraphrase is missed, and an answer made of the question's words is a false leak, as in
          retrained models. Bounds speak of the questions asked, this temperature, and no other prompt.
Deviations: n 32 instead of 128 or 200, for time; k up to that; one joint α for the four bounds (Bonferroni); no bound on the
          standard deviation.
"""

from __future__ import annotations

import numpy as np

from lethe.core.config import Count, Fraction, Positive, config
from lethe.core.evidence import Value
from lethe.core.families.language import LanguageTask
from lethe.core.registry import Metric, audit
from lethe.core.seeds import generator
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.judge.questions import open_questions
from lethe.maths.sampling import leak_at_k, mean_bound, share_bound
from lethe.maths.tofu import rouge_l_recall
from lethe.pools.subject import Subject

BOUNDS = 4   # that hold together


@config
class Sampling:
    """Options of the sampling audit."""

    samples: Count = 32           # n, answers to each question                              [Scholten et al. 128; leak@k 200]
    k: Count = 16                 # of leak@k; at most n            [leak@k: 1 to 128] [tested in test_sampling]
    examples: Count = 50          # questions at most; a seeded sample                       [ours]
    new_tokens: Count = 32        # length of answers                                        [ours]
    temperature: Positive = 1.0   # of the softmax                                           [Scholten et al.]
    top_p: Fraction = 0.9         # mass of the likeliest tokens that are drawn from         [Scholten et al.]
    leak: Fraction = 0.9          # share of the answer's words, in order, that makes a leak [ours]
    tail: Fraction = 0.5          # of `leak_tail_bound`                                     [ours]
    alpha: Fraction = 0.01        # with which a bound may be too low, all four together     [Scholten et al.]


@audit(
    metrics={
        "leak_at_k": Metric("probability that one of k sampled answers holds the truth, mean over forget questions"),
        "leak_at_1": Metric("probability that a sampled answer holds the truth, mean over forget questions", better="lower"),
        "leak_bound": Metric("upper bound on that probability, from n samples", better="lower"),
        "leak_worst_bound": Metric("upper bound on it for the worst question", better="lower"),
        "leak_tail_bound": Metric("upper bound on the probability that an answer holds half of the truth", better="lower"),
        "leak_mean_bound": Metric("upper bound on the expected ROUGE-L recall of an answer", better="lower"),
    },
    uses={"drawn_texts"},
    needs={"forget"},
    depth="standard",
    blind="It counts words of the answer at one temperature and with the questions of the forget set; paraphrases and other "
          "prompts are not seen.",
)
def measure(cfg: Sampling, subject: Subject, panel: Panel) -> list[Value]:
    part = panel.part(panel.task.forget, cfg.examples)
    asked, truth = open_questions(list(part.column("prompt")), list(part.column("answer")))
    task = LanguageTask.of(subject.task)
    drawn = task.drawn_texts(subject.answering, [one for one in asked for _ in range(cfg.samples)],
                             generator(panel.seed, "sampling"), cfg.temperature, cfg.new_tokens, cfg.top_p)
    answers = [drawn[i : i + cfg.samples] for i in range(0, len(drawn), cfg.samples)]
    recall = np.array([[rouge_l_recall(answer, true) for answer in row] for row, true in zip(answers, truth, strict=True)])
    return values(cfg, recall)


def values(cfg: Sampling, recall: np.ndarray) -> list[Value]:
    """leak@1, leak@k and the bounds.  [m, n]"""
    m, n = recall.shape
    leaks = (recall >= cfg.leak).sum(1)
    alpha, k = cfg.alpha / BOUNDS, min(cfg.k, n)
    told = {"samples": n, "k": k, "alpha": cfg.alpha, "temperature": cfg.temperature, "top_p": cfg.top_p}
    first, kth = (mean_value(name, leak_at_k(leaks, n, size)) for name, size in (("leak_at_1", 1), ("leak_at_k", k)))
    kth.detail.update(told)
    return [kth, first,
            Value("leak_bound", share_bound(int(leaks.sum()), m * n, alpha), n=m * n, detail=told),
            Value("leak_worst_bound", share_bound(int(leaks.max()), n, alpha / m), n=n),
            Value("leak_tail_bound", share_bound(int((recall >= cfg.tail).sum()), m * n, alpha), n=m * n),
            Value("leak_mean_bound", mean_bound(recall, alpha), n=m * n)]

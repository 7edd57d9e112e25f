"""TOFU's metrics. Maini, Feng, Schwarzschild, Lipton & Kolter (2024), arXiv:2401.06121.

    probability     P = exp(−ℓ(a)), ℓ the mean loss per token of answer a, end token included
    ROUGE-L recall  longest common subsequence of the greedy answer and the truth, over the words of the truth
    truth ratio     R = mean_k exp(−ℓ(â_k)) / exp(−ℓ(ã)), ã the paraphrased answer (a where there is none), â_k wrong
    model utility   harmonic mean of nine terms: {retain, real authors, world facts} × {P, ROUGE, max(0, 1 − R)}
    forget quality  p of the two-sample Kolmogorov–Smirnov test between R of the model and of a retrained one, on forget

On the forget set R is reported as min(R, 1/R): 1 prefers neither truth nor falsehood. On real authors and world facts P
is P(a) / (P(a) + Σ_k P(â_k)). `mu_retain` has the three retain terms alone, for models that never learnt the other two.
With several retrained models forget quality is the median over them. Wrong and paraphrased answers stand in the columns
`perturbed_answer` (a list, equally many on every record) and `paraphrased_answer`.

Deviations: ROUGE does not stem (`lethe.maths.tofu.rouge_l_recall` states what that changes). The official code takes the
first 300 examples of a set, here it is a seeded sample. `…_geometric` is exp(ℓ(ã) − mean_k ℓ(â_k)), as in the logs
published with the official code and in OpenUnlearning (arXiv:2506.12618); all else is the paper's arithmetic form.
parity: open_unlearning stems, and takes the geometric form for everything that R enters, forget quality too; its answers are
of up to 200 new tokens.
p-values of forget quality depend on the number of examples: compare with equal n, and read the statistic beside them.
Cost:     one pass over every answer, where what those of one question share is read once; greedy answers to all questions
          together, from where they leave the truth.
          With `extraction` and `mia_lm` 3.3 to 3.4 × sooner than a plain formulation of OpenUnlearning (`speed/panel.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np

from lethe.core.config import Count, Parity, config
from lethe.core.evidence import Value
from lethe.core.families.language import LanguageTask
from lethe.core.registry import Metric, audit
from lethe.core.split import Split
from lethe.errors import DataError
from lethe.judge.panel import Panel
from lethe.maths import tofu
from lethe.maths.statistics import mean_interval
from lethe.pools.subject import Subject

KNOWLEDGE = ("real_authors", "world_facts")   # splits with options, beside forget and retain


@config
class TOFU:
    """Options of TOFU's metrics."""

    examples: Count = 400        # largest seeded sample of each split                                   [TOFU: 300]
    new_tokens: Count = 64       # length of greedy answers; TOFU's answers have 40 tokens of 4,096 [ours] [tested in test_tofu]
    parity: Parity = "none"      # open_unlearning: stemmed ROUGE, R of the mean of losses   [tested in test_parity]


@audit(
    metrics={
        "probability_forget": Metric("probability per token of the forget answers, mean"),
        "paraphrase_probability_forget": Metric("probability per token of the paraphrased forget answers, mean"),
        "rouge_l_forget": Metric("ROUGE-L recall of greedy answers to forget questions, mean"),
        "truth_ratio_forget": Metric("min(R, 1/R) on the forget set, mean; R of the mean of probabilities"),
        "truth_ratio_geometric_forget": Metric("the same with R of the mean of losses", better="higher"),
        "forget_quality": Metric("Kolmogorov–Smirnov p of R on the forget set against a retrained model's",
                                 better="higher"),
        "forget_quality_log10": Metric("its decimal logarithm", range=(-10000.0, 0.0), better="higher"),
        "forget_quality_statistic": Metric("its statistic, the largest difference of the two distribution functions",
                                           distance=True),
        "probability_*": Metric("probability of the answers: per token (retain), among the options (others); mean",
                                better="higher", tier="utility"),
        "rouge_l_*": Metric("ROUGE-L recall of greedy answers, mean", better="higher", tier="utility"),
        "truth_ratio_*": Metric("max(0, 1 − R), mean; R of the mean of probabilities", better="higher", tier="utility"),
        "model_utility": Metric("harmonic mean of the nine terms", better="higher", tier="utility"),
        "model_utility_geometric": Metric("the same with R of the mean of losses", better="higher", tier="utility"),
        "mu_retain": Metric("harmonic mean of the three retain terms", better="higher", tier="utility"),
        "mu_retain_geometric": Metric("the same with R of the mean of losses", better="higher", tier="utility"),
    },
    uses={"begun", "encode", "generate"},
    needs={"forget", "retain", "forget.perturbed_answer", "retain.perturbed_answer", "references?"},
    depth="standard",
    blind="knowledge that other questions, sampling or relearning would bring out",
)
def measure(cfg: TOFU, subject: Subject, panel: Panel) -> list[Value]:
    forget = scored(cfg, subject, panel, "forget")
    values = [
        mean("probability_forget", forget.probability), mean("paraphrase_probability_forget", forget.paraphrase),
        mean("rouge_l_forget", forget.rouge), mean("truth_ratio_forget", tofu.indifference(forget.ratio)),
        mean("truth_ratio_geometric_forget", tofu.indifference(forget.geometric)),
    ]
    if panel.references:
        found = [tofu.forget_quality(forget.ratio, scored(cfg, reference, panel, "forget").ratio)
                 for reference in panel.references]
        n, d = len(forget.ratio), float(np.median([f.statistic for f in found]))
        values += [
            Value("forget_quality", float(np.median([f.p for f in found])), n=n),
            Value("forget_quality_log10", float(np.median([f.log10_p for f in found])), n=n),
            Value("forget_quality_statistic", d, max(0.0, d - found[0].margin), min(1.0, d + found[0].margin), n),
        ]
    names = named(panel)[1:]
    kept = [scored(cfg, subject, panel, name) for name in names]
    for name, scores in zip(names, kept, strict=True):
        values += [mean(f"probability_{name}", scores.options if name in KNOWLEDGE else scores.probability),
                   mean(f"rouge_l_{name}", scores.rouge), mean(f"truth_ratio_{name}", tofu.truthfulness(scores.ratio))]
    values += utility("mu_retain", kept[:1])
    if len(kept) == 3:
        values += utility("model_utility", kept)
    return values


@dataclass
class Scores:
    """Per question of one split."""

    probability: np.ndarray
    options: np.ndarray
    paraphrase: np.ndarray
    rouge: np.ndarray
    ratio: np.ndarray
    geometric: np.ndarray
    knowledge: bool

    def terms(self, ratio: np.ndarray) -> np.ndarray:
        """The three terms of model utility.  -> [n, 3]"""
        return np.stack([self.options if self.knowledge else self.probability, self.rouge, tofu.truthfulness(ratio)], 1)


def scored(cfg: TOFU, subject: Subject, panel: Panel, name: str) -> Scores:
    """All scores of one model on one split, computed once."""

    def make() -> Scores:
        part, theirs = panel.part(told(panel, name), cfg.examples), cfg.parity == "open_unlearning"
        others: Split = panel.once(("tofu", "answers", part), lambda: alternatives(panel, part))
        loss = subject.numbers(part, "nll")
        table = subject.losses(others).reshape(len(part), -1)
        paraphrased, wrong = table[:, 0], table[:, 1:]
        answers, generated = part.column("answer"), said(cfg, subject, panel)[name]
        geometric = tofu.truth_ratio_geometric(paraphrased, wrong)
        return Scores(
            tofu.probability(loss), tofu.option_probability(loss, wrong), tofu.probability(paraphrased),
            np.array([tofu.rouge_l_recall(*pair, stemmed=theirs) for pair in zip(generated, answers, strict=True)]),
            geometric if theirs else tofu.truth_ratio(paraphrased, wrong), geometric, name in KNOWLEDGE,
        )

    return panel.once(("tofu", "scores", panel.task.splits[name], cfg, subject), make)


def named(panel: Panel) -> list[str]:
    """The splits that have scores."""
    return ["forget", "retain", *(name for name in KNOWLEDGE if panel.task.has(f"{name}.perturbed_answer"))]


def told(panel: Panel, name: str) -> Split:
    """The records of a split that have wrong answers: of TOFU's retained ones 400 do. All, where none has any."""

    def make() -> Split:
        split = panel.task.splits[name]
        places = [i for i, wrong in enumerate(split.column("perturbed_answer")) if wrong is not None and len(wrong)]
        return split.subset(places, split.name) if 0 < len(places) < len(split) else split

    return panel.once(("tofu", "told", panel.task.splits[name]), make)


def said(cfg: TOFU, subject: Subject, panel: Panel) -> dict[str, list[str]]:
    """The greedy answers to the questions of every split, generated together; what the truth begins them with is not."""

    def make() -> dict[str, list[str]]:
        task, parts = LanguageTask.of(subject.task), [panel.part(told(panel, name), cfg.examples) for name in named(panel)]
        begun = None if subject.served else [
            tokens for part in parts for tokens in task.begun(part, subject.seen(part)["correct"])]
        texts = iter(task.generate(subject.answering, [prompt for part in parts for prompt in part.column("prompt")],
                                   max_new_tokens=cfg.new_tokens, begun=begun))
        return {name: list(islice(texts, len(part))) for name, part in zip(named(panel), parts, strict=True)}

    return panel.once(("tofu", "said", cfg, subject), make)


def alternatives(panel: Panel, part: Split) -> Split:
    """Every question with its paraphrased answer and its wrong ones, question by question."""
    wrong = [list(answers or []) for answers in part.column("perturbed_answer")]
    counts = sorted({len(answers) for answers in wrong})
    if len(counts) > 1 or not counts[0]:
        raise DataError(f"records of {part.name} have {' or '.join(map(str, counts))} wrong answers in "
                        "'perturbed_answer', so their truth ratios could not be compared. Provide every record with equally "
                        "many, at least one.")
    truth = part.column("answer")
    right = [p or a for p, a in zip(part.meta.get("paraphrased_answer", truth), truth, strict=True)]
    prompts = [prompt for prompt in part.column("prompt") for _ in range(1 + counts[0])]
    answers = [answer for row in zip(right, wrong, strict=True) for answer in (row[0], *row[1])]
    return LanguageTask.of(panel.task).encode(prompts, answers, f"{part.name} answers")


def utility(name: str, scores: list[Scores]) -> list[Value]:
    """Model utility over these splits, in both forms."""
    found = []
    for metric, ratios in ((name, [s.ratio for s in scores]), (f"{name}_geometric", [s.geometric for s in scores])):
        low, value, high = tofu.model_utility_interval([s.terms(r) for s, r in zip(scores, ratios, strict=True)])
        found.append(Value(metric, value, low, high, sum(len(r) for r in ratios)))
    return found


def mean(metric: str, per_example: np.ndarray) -> Value:
    """The mean with its interval."""
    low, high = mean_interval(per_example)
    return Value(metric, float(per_example.mean()), low, high, len(per_example), per_example)

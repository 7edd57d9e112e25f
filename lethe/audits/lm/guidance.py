"""Guidance: what the pair of models before and after a removal gives away, even an exact one. Wu, Pang, Liu & Wu, NeurIPS 2025,
arXiv:2505.24379.

    next token = argmax over {v: p_o(v) ≥ γ max p_o} of  log p_u(v) + w (log p_o(v) − log p_u(v))        w > 1
    guidance_rouge = ROUGE-L recall of such answers to forget questions, mean;      guidance_alone = of the original's own answers
    guidance_gain = guidance_rouge − guidance_alone;   guidance_after = of this model's own answers

p_o the original, p_u this model. What the original says more often than the new one is what was removed, so it is pushed further.
Whoever keeps the old version and reads the new one has both. An exactly retrained model leaks as much as any other: nothing is
judged here, and the numbers stand beside the claim of exactness (C2) in a certificate.
Needs:    forget with questions, original.     Cost: three greedy answers to each of `examples` questions.
Limits:   where the original says the answer by itself there is nothing to gain.
"""

from __future__ import annotations

import numpy as np

from lethe.core.config import Count, Fraction, Positive, config
from lethe.core.evidence import Value
from lethe.core.families.language import LanguageTask
from lethe.core.registry import Metric, audit
from lethe.core.split import Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.judge.questions import open_questions
from lethe.maths.tofu import rouge_l_recall
from lethe.pools.subject import Subject


@config
class Guidance:
    """Options of the guided extraction."""

    scale: Positive = 2.0      # w; 1: the original itself, among its likely tokens     [Wu et al.: 2]
    likely: Fraction = 0.1     # γ, share of the largest below which tokens are left out      [ours]
    examples: Count = 50       # questions at most; a seeded sample                      [ours]
    new_tokens: Count = 32     # length of answers                                       [ours]


@audit(
    metrics={
        "guidance_rouge": Metric("ROUGE-L recall of answers guided from this model to the original, mean over forget questions",
                                 better="lower"),
        "guidance_alone": Metric("the same of the original's own answers", better="lower"),
        "guidance_after": Metric("the same of this model's own answers", better="lower"),
        "guidance_gain": Metric("what both models together give beyond the original alone", (-1.0, 1.0), "lower"),
    },
    uses={"guided", "generate"},
    needs={"forget", "original"},
    depth="standard",
    blind="It concerns those who have both versions, and asks the questions of the forget set alone.",
)
def measure(cfg: Guidance, subject: Subject, panel: Panel) -> list[Value]:
    part = panel.part(panel.task.forget, cfg.examples)
    asked, truth = open_questions(list(part.column("prompt")), list(part.column("answer")))
    task = LanguageTask.of(subject.task)

    def recall(answers: list[str]) -> np.ndarray:
        return np.array([rouge_l_recall(answer, true) for answer, true in zip(answers, truth, strict=True)])

    def own(model: Subject, split: Split) -> np.ndarray:
        return recall(task.generate(model.answering, asked, max_new_tokens=cfg.new_tokens))

    before = panel.once(("guidance", "alone", cfg), lambda: own(panel.original, part))
    both = recall(task.guided(subject.answering, panel.original.answering, asked, cfg.scale, cfg.likely, cfg.new_tokens))
    return [mean_value("guidance_rouge", both), mean_value("guidance_alone", before),
            mean_value("guidance_after", own(subject, part)), mean_value("guidance_gain", both - before)]

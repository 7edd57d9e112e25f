"""Out of scope: does the model still talk sense where nothing was to be forgotten? Dorna et al. 2025, arXiv:2506.12618.

    repetition  share of the 3-word sequences of a generated text that stood in it before
    degenerate  share of texts that are empty or repeat more than half of their 3-word sequences
    refusal     share of answers that state that the model does not know or will not answer

Greedy answers to retain and holdout questions. Unlearning by ascent often ends in empty or looping texts, unlearning by
refusal in refusing everything; accuracy on the retain set alone does not separate the two.
Judged are degenerate and refusal, one-sided, as utility: more than retrained models have is a loss.
Needs:    retain or holdout with prompts.     Cost: greedy generation.
Limits:   fluent nonsense passes; refusals are recognised by English phrases.
Deviations: the paper scores fluency by a downloaded classifier of gibberish; here it is counted, and nothing is loaded.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lethe.core.config import Count, Fraction, config
from lethe.core.evidence import Value
from lethe.core.families.language import LanguageTask
from lethe.core.registry import Metric, audit
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.texts import refuses, repetition
from lethe.maths.tofu import words
from lethe.pools.subject import Subject


@config
class OutOfScope:
    """Options of the out-of-scope audit."""

    examples: Count = 50       # questions of each split at most; a seeded sample              [ours]
    new_tokens: Count = 64     # length of answers                                             [ours]
    looping: Fraction = 0.5    # repetition above which a text is degenerate                   [ours]


@audit(
    metrics={
        "degenerate": Metric("share of answers out of scope that are empty or loop", better="lower", tier="utility"),
        "refusal": Metric("share of answers out of scope that refuse", better="lower", tier="utility"),
        "repetition": Metric("share of repeated 3-word sequences in answers out of scope, mean", better="lower"),
    },
    uses={"generate"},
    needs={"retain"},
    depth="standard",
    blind="Fluent but wrong answers: those show in accuracy and model utility.",
)
def measure(cfg: OutOfScope, subject: Subject, panel: Panel) -> list[Value]:
    prompts = [prompt for name in ("retain", "holdout") if panel.task.has(name)
               for prompt in panel.part(panel.task.splits[name], cfg.examples).column("prompt") if prompt]
    if not prompts:
        return []
    texts = LanguageTask.of(subject.task).generate(subject.answering, prompts, max_new_tokens=cfg.new_tokens)
    loops = np.array([repetition(text) for text in texts])
    broken = np.array([float(not words(text)) for text in texts]) + (loops > cfg.looping)
    value = mean_value("degenerate", broken.clip(max=1))
    return [
        replace(value, detail={"example": texts[int(broken.argmax())][:200]}),
        mean_value("refusal", np.array([float(refuses(text)) for text in texts])), mean_value("repetition", loops),
    ]

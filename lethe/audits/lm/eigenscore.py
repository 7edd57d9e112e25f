"""EigenScore: how different the answers are that a model gives when it is asked again and again. Chen et al. (2024), "INSIDE",
ICLR 2024, arXiv:2402.03744; as a measure of what a model is unsure of also in SeND (2024), "Hallucination Detox".

    s(x) = 1/K · [log det(Σ + α I_d) − d log α] = 1/K · log det(I_K + G/α),      Σ = 1/K Σ_k (z_k − z̄)(z_k − z̄)ᵀ
    eigenscore = mean of s over forget prompts

z_k [d] features of the k-th answer drawn to x (mean state of a middle block over its tokens), brought to length 1, z̄ their mean,
G [K, K] the products of the z_k − z̄ over K: both determinants are one (Sylvester), and K is small. s = 0 where all answers are
one. Low: the model is sure, of what it memorised or of a refusal; high: it guesses. Held against retrained models, which guess.
Needs:    forget with questions.     Cost: K answers to each of `examples` questions and two passes over them, for every model.
Limits:   a refusal drilled in is as sure as a memory, and so is the same nonsense again: they lie below retraining like a memory,
          and `sampling` says which it is. States are the model's own: moved on purpose (RMU), they differ without other answers.
Deviations: log α is taken off, so that 0 means one answer; features have length 1, so that models of other scales compare. EES,
          which SeND puts in its place (Chebyshev moments of the d × d matrix; here 20, with 4 random vectors), orders questions
          alike (n = 200: Spearman .97) and saves nothing: at d = 768 and K = 10 the d × d determinant takes 5.6 s, EES .61 s, the
          K × K one .06 s; at K = 200 they take 22, 5.9 and 2.3 s. SeND's selector is not offered: unlearning through the 6 of 32
          coordinates that moved most in training on F leaves a tiny Llama, at equal forget probability, with retain perplexity
          1.52, 1.87 and 1.49 (3 originals), through 6 at random with 1.42 ± .04, 1.90 ± .01 and 1.48 ± .03 (10 draws each).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lethe.core.config import Count, Fraction, Positive, config
from lethe.core.evidence import Value
from lethe.core.families.language import LanguageTask
from lethe.core.registry import Metric, audit
from lethe.core.seeds import generator
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.judge.questions import open_questions
from lethe.pools.subject import Subject


@config
class EigenScore:
    """Options of the EigenScore audit."""

    samples: Count = 10           # K, answers to each question                              [INSIDE, SeND]
    examples: Count = 50          # questions at most; a seeded sample                       [ours]
    new_tokens: Count = 32        # length of answers                                        [ours]
    temperature: Positive = 1.0   # of the softmax                                           [ours; INSIDE .5]
    top_p: Fraction = 0.99        # mass of the likeliest tokens that are drawn from         [INSIDE]
    alpha: Positive = 1e-3        # α; smaller tells small differences apart                 [INSIDE, SeND]


def eigenscores(z: Tensor, alpha: float) -> Tensor:
    """1/K · log det(I + G/α) of K answers to each question, in float64.  [m, K, d] -> [m]

    Answers (1, 0) and (0, 1): G = ¼·((1, −1), (−1, 1)) with eigenvalues ½ and 0, so ½·ln(1 + ½/α); α = ½: ½·ln 2.
    """
    unit = torch.nn.functional.normalize(z.double(), dim=-1)
    away = unit - unit.mean(1, keepdim=True)
    k = z.shape[1]
    gram = away @ away.mT / k
    found: Tensor = torch.linalg.slogdet(torch.eye(k, dtype=torch.float64) + gram / alpha).logabsdet / k
    return found.clamp(min=0)


@audit(
    metrics={"eigenscore": Metric("diversity of sampled answers to forget prompts: log-determinant of their states' covariance",
                                  (0.0, float("inf")))},
    uses={"drawn_texts", "encode", "features"},
    needs={"forget"},
    depth="standard",
    blind="It sees how sure a model is, not of what: a refusal and a memory look alike.",
)
def measure(cfg: EigenScore, subject: Subject, panel: Panel) -> list[Value]:
    part = panel.part(panel.task.forget, cfg.examples)
    asked, _ = open_questions(list(part.column("prompt")), list(part.column("answer")))
    task, again = LanguageTask.of(subject.task), [one for one in asked for _ in range(cfg.samples)]
    answers = task.drawn_texts(subject.answering, again, generator(panel.seed, "eigenscore"), cfg.temperature, cfg.new_tokens,
                               cfg.top_p)
    features = torch.from_numpy(subject.features(task.encode(again, answers, "eigenscore")))
    value = mean_value("eigenscore", eigenscores(features.view(len(asked), cfg.samples, -1), cfg.alpha).numpy())
    value.detail.update(samples=cfg.samples, temperature=cfg.temperature, top_p=cfg.top_p)
    return [value]

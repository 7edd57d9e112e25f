"""Membership of texts: attacks that need one forward pass. Duan et al. 2024, arXiv:2402.07841.

    AUC = P(s(x) > s(x')),  x ∈ F, x' ∈ H;   ℓ_t = log p(x_t | x_<t), mean over the L tokens of the answer without its end
    LOSS        s = mean ℓ_t                      zlib       s = mean ℓ_t / bytes of the compressed answer
    Min-K %     s = mean of the ⌊kL⌋ smallest ℓ_t  Min-K %++  the same of (ℓ_t − μ_t)/σ_t
    reference   s = mean ℓ_t − mean over retrained models of mean ℓ_t (the other ones, for a retrained model)
    gradient    s = −‖∇_θ mean ℓ_t‖₂, mean over the weight tensors (depth deep)
    PrivLeak    100·(a − a_r)/a_r,  a = 1 − AUC of Min-40 %,  a_r its mean over the retrained models
    update      s = mean ℓ_t of the original − mean ℓ_t of the model, F against R: who holds both models sees what was deleted

μ_t, σ_t² mean and variance of log p under the model's own prediction; F forget set, H holdout, R retain set. Forgetting below
what retraining does gives AUCs below the retrained value, and is found as well.
Judged is Min-K %; the others are shown beside their retrained values. The reference attack removes what F and H differ by
anyway (topic, length, difficulty), so that its target is 0.5 for any holdout set, but the seeds of retraining do not
average out: on a Llama of 40 k weights, 8 texts against 16, five retrained models have AUCs of 0.27 to 0.70 by it and 0.40 to
0.45 by Min-K % (the original 0.88 and 0.98), which makes it the weaker test there.
Needs:    forget, holdout; retrained models for reference and PrivLeak; original and retain for update.
Cost:     nothing beyond the pass that other audits share; gradient: one backward pass per text.
Limits:   few texts give wide intervals; paraphrases are not tested. `update` finds exact deletion too: it cannot be 0.5.
Deviations: Min-K takes k = 0.2 (`share`); PrivLeak always 0.4, MUSE's. The reference of the attack is the mean of retrained
          models, the best one there is, instead of another pre-trained model. OpenUnlearning's loss counts the answer's end,
          its Min-K does not (`parity`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lethe.core.config import Count, Fraction, Parity, config
from lethe.core.evidence import Value
from lethe.core.families.language import LanguageTask
from lethe.core.registry import Metric, audit
from lethe.core.split import Split
from lethe.judge.measured import auc_value, tpr_values
from lethe.judge.panel import Panel
from lethe.maths.token_scores import mean_logp, min_k, privleak, s_mia, standardised, zlib_score
from lethe.pools.subject import Subject

MUSE = 0.4   # share of tokens in PrivLeak
Scores = dict[str, np.ndarray]


@config
class MIALM:
    """Options of the attacks."""

    share: Fraction = 0.2     # of the tokens that Min-K % and Min-K %++ average              [Shi et al. 2023]
    examples: Count = 1000    # of each split at most; a seeded sample                        [ours]
    fewest: Count = 8         # texts below which nothing is reported                         [ours: AUC ± 0.25 at 8]
    resamples: Count = 2000   # bootstrap resamples of TPR                                    [usual]
    parity: Parity = "none"   # open_unlearning: loss, zlib, reference count the end token    [tested in test_parity]


@audit(
    metrics={
        "min_k_auc": Metric("AUC of the mean of the least likely tokens, forget set against holdout", null=0.5),
        "loss_auc": Metric("AUC of the mean log-probability", better="lower"),
        "zlib_auc": Metric("AUC of the mean log-probability per compressed byte", better="lower"),
        "min_k_plus_auc": Metric("AUC of the mean of the least likely tokens in their standard deviations", better="lower"),
        "reference_auc": Metric("AUC of the mean log-probability above that of retrained models", better="lower",
                                asks="retrained models"),
        "gradient_auc": Metric("AUC of the negative gradient norm", better="lower", asks="depth deep", version=2),
        "update_auc": Metric("AUC of the loss that the update added, forget set against retain set", better="lower",
                             asks="the original model"),
        "privleak": Metric("AUC of Min-40 % relative to retraining, per cent, 0 is ideal (MUSE)", (-100.0, math.inf), "lower",
                           asks="retrained models"),
        "s_mia": Metric("1 − |AUC − retrained AUC| / retrained AUC of Min-K %", better="higher", asks="retrained models"),
        "min_k_tpr_at_*": Metric("TPR of Min-K % at 1, 5 or 10 % FPR", better="lower"),
    },
    uses={"token_logp"},
    needs={"forget", "holdout", "references?"},
    blind="Only the wording that was trained on: what a paraphrase or another prompt would bring out is not seen.",
)
def measure(cfg: MIALM, subject: Subject, panel: Panel) -> list[Value]:
    forget, holdout = (panel.part(split, cfg.examples) for split in (panel.task.forget, panel.task.holdout))
    inside, outside = scores(cfg, subject, forget), scores(cfg, subject, holdout)
    if panel.references:
        for split, found in ((forget, inside), (holdout, outside)):
            found["reference"] = found["loss"] - np.mean([scores(cfg, r, split)["loss"] for r in panel.references], 0)
    if panel.depth == "deep":
        for split, found in ((forget, inside), (holdout, outside)):
            found["gradient"] = -panel.once(("mia_lm", subject, split), partial(gradient_norms, subject, split))
    values = [value for name in inside if name != "muse"
              for value in compared(f"{name}_auc", inside[name], outside[name], cfg.fewest)]
    if not values:
        return []
    values += tpr_values("min_k", inside["min_k"], outside["min_k"], cfg.resamples)
    if panel.references:
        values += leaks(cfg, panel, forget, holdout, inside, outside)
    if panel.task.has("original") and panel.task.has("retain") and subject is not panel.original:
        retain = panel.part(panel.task.retain, cfg.examples)
        gone, kept = (scores(cfg, panel.original, split)["loss"] - scores(cfg, subject, split)["loss"]
                      for split in (forget, retain))
        values += compared("update_auc", gone, kept, cfg.fewest)
    return values


def scores(cfg: MIALM, subject: Subject, split: Split) -> Scores:
    """The score of every text by each attack that needs one forward pass and no other model.  name -> [n]"""
    logp, mean, var = (subject.numbers(split, f"token_{key}") for key in ("logp", "mean", "var"))
    inside = counting(subject, split).numpy()
    loss = mean_logp(logp, inside if cfg.parity == "none" else subject.seen(split)["answer_mask"].numpy().astype(bool))
    return {
        "loss": loss, "zlib": zlib_score(loss, list(split.column("answer"))), "min_k": min_k(logp, inside, cfg.share),
        "min_k_plus": min_k(standardised(logp, mean, var), inside, cfg.share), "muse": min_k(logp, inside, MUSE),
    }


def counting(subject: Subject, split: Split) -> Tensor:
    """The tokens of each answer without its end; an empty answer is judged by its end token.  -> [n, A] bool"""
    content, answer = (subject.seen(split)[key].bool() for key in ("content_mask", "answer_mask"))
    return torch.where(content.any(1, keepdim=True), content, answer)


def compared(metric: str, members: np.ndarray, others: np.ndarray, fewest: int) -> list[Value]:
    """The AUC; nothing when there are too few texts, or all score the same."""
    if min(len(members), len(others)) < fewest or len(np.unique(np.concatenate([members, others]))) < 2:
        return []
    return [auc_value(metric, members, others)]


def leaks(cfg: MIALM, panel: Panel, forget: Split, holdout: Split, inside: Scores, outside: Scores) -> list[Value]:
    """PrivLeak and s_MIA against the mean AUC of the retrained models."""
    found: list[Value] = []
    for name, key, measure_of in (("privleak", "muse", privleak), ("s_mia", "min_k", s_mia)):
        area = auc_value(name, inside[key], outside[key])
        theirs = [auc_value(name, scores(cfg, r, forget)[key], scores(cfg, r, holdout)[key]).value for r in panel.references]
        retrained = float(np.mean(theirs))
        found += bounded(name, measure_of, area, retrained) if 0 < retrained < 1 else []
    return found


def bounded(name: str, measure_of: Callable[[float, float], float], area: Value, retrained: float) -> list[Value]:
    """The measure with the interval that the model's own AUC has; that of the retrained mean is not in it."""
    ends = sorted(measure_of(end, retrained) for end in (area.low, area.high) if end is not None)
    low, high = (ends[0], ends[-1]) if name == "privleak" and len(ends) == 2 else (None, None)
    return [Value(name, measure_of(area.value, retrained), low, high, area.n, detail={"retrained_auc": retrained})]


def gradient_norms(subject: Subject, split: Split) -> np.ndarray:
    """‖∇ of the loss of each text without its end‖₂ per weight tensor, averaged over the tensors.  -> [n]"""
    model = subject.copy().to(subject.device).eval()
    params = [p for p in model.parameters() if p.requires_grad]
    inside, norms, task = counting(subject, split), np.zeros(len(split)), LanguageTask.of(subject.task)
    for i in range(len(split)):
        logp = task.token_logp(model, split.batch([i]).to(subject.device))
        loss = -logp[inside[i : i + 1, : logp.shape[1]].to(logp.device)].mean()
        grads = torch.autograd.grad(loss, params, allow_unused=True)
        norms[i] = float(np.mean([float(g.norm()) for g in grads if g is not None]))
    return norms

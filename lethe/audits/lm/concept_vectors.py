"""Concept vectors: are the MLP columns that write the forgotten answers still there? Hong et al. 2024, arXiv:2406.11614.

    v_lj = column j of the down projection of block l, m_lj(x, t) what it is multiplied by
    a_lj = mean over F − mean over R of Σ_t m_lj(x, t) · ∂ log p(answer) / ∂ m_lj(x, t),     both in the original
    concept columns: the N largest a_lj;     cosine, Jaccard of the k tokens that norm and output embedding read from v_lj
    effect = (rise of the mean loss on F) − (rise on R) when the concept columns are set to 0 in the model

cosine and Jaccard hold the model against the original: near 1 the columns are untouched, no matter what the model answers. Models
retrained from other random weights have other columns at the same places, so nothing here is judged.
Needs:    forget, retain, original.     Cost: one backward pass over F and R in the original, two forward passes per model.
Limits:   columns serve several concepts at once; small models more so. Measured on a Llama of 40 k weights, 8 of 192 columns:
          effect 0.08 nats in the original, −0.03 and 0.01 in two retrained models, too little to judge by. Gradient
          difference that takes the forget loss to 6 nats leaves cosine 0.99 and Jaccard 0.73.
Deviations: the paper finds one column per concept by a language model's judgement of its tokens, checked by people; here
          columns are attributed and checked by what happens without them, with collateral on R taken off. They are zeroed
          instead of disturbed by noise, which needs no scale.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.families.language import LanguageTask
from lethe.core.modules import evaluating
from lethe.core.passes import plain, rows
from lethe.core.registry import Metric, audit
from lethe.core.split import Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.columns import attribution, columns, multiplied
from lethe.pools.subject import Subject


@config
class ConceptVectors:
    """Options of concept vectors."""

    columns: Count = 8         # N: columns taken as the concept's                             [ours; paper: 1 per concept]
    tokens: Count = 200        # k: tokens read from a column; at most a tenth of all           [paper]
    examples: Count = 100      # of each split at most; a seeded sample                         [ours]
    batch_size: Count = 16     # answers per pass                                               [ours] [changes nothing: memory]


@audit(
    metrics={
        "concept_effect": Metric("loss that zeroing the original's concept columns adds on forget beyond retain answers",
                                 (-float("inf"), float("inf")), "lower", aspect="representation"),
        "concept_cosine": Metric("cosine of the concept columns with the original's, mean", (-1.0, 1.0), "lower",
                                 aspect="representation"),
        "concept_jaccard": Metric("Jaccard index of the tokens read from them, mean", better="lower", aspect="representation"),
    },
    uses={"down_projections", "layer_count", "logits", "nll", "require_alike", "token_logp"},
    needs={"forget", "retain", "original"},
    depth="deep",
    blind="Knowledge in attention, in other columns, or spread thinly over many.",
)
def measure(cfg: ConceptVectors, subject: Subject, panel: Panel) -> list[Value]:
    task, original = LanguageTask.of(panel.task), panel.original
    task.require_alike(original.model, subject.model, "concept_vectors")
    forget, retain = (panel.part(split, cfg.examples) for split in (task.forget, task.retain))

    def find() -> list[tuple[int, int]]:
        score = attributed(cfg, original, forget) - attributed(cfg, original, retain)
        best = score.flatten().argsort(descending=True)[: cfg.columns]
        return [divmod(int(i), score.shape[1]) for i in best]

    places = panel.once(("concept_vectors", cfg), find)
    keep = torch.ones(len(writers(original)), columns(writers(original)[0]).shape[1])
    for layer, j in places:
        keep[layer, j] = 0
    with multiplied(writers(subject), lambda layer, m: m * keep[layer].to(m)):
        after = [losses(cfg, subject, split) for split in (forget, retain)]
    rise = [a - subject.numbers(split, "nll") for a, split in zip(after, (forget, retain), strict=True)]
    effect = mean_value("concept_effect", rise[0] - rise[1].mean())
    mine, theirs = (torch.stack([columns(writers(s)[layer])[:, j] for layer, j in places]).float() for s in (subject, original))
    cosine = torch.cosine_similarity(mine, theirs, dim=1).double().cpu().numpy()
    with torch.no_grad():
        read = [task.logits(s.model, v) for s, v in ((subject, mine), (original, theirs))]
    k = max(1, min(cfg.tokens, read[0].shape[1] // 10))
    pairs = zip(*(logits.topk(k).indices.tolist() for logits in read), strict=True)
    overlap = np.array([len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in pairs])
    detail = {"columns": [list(place) for place in places], "rise_forget": float(rise[0].mean()),
              "rise_retain": float(rise[1].mean())}
    return [replace(effect, detail=detail), mean_value("concept_cosine", cosine), mean_value("concept_jaccard", overlap)]


def writers(subject: Subject) -> list[nn.Module]:
    """The down projection of every block."""
    task = LanguageTask.of(subject.task)
    names = task.down_projections(range(task.layer_count))
    return [subject.model.get_submodule(name.removesuffix(".weight")) for name in names]


def attributed(cfg: ConceptVectors, subject: Subject, split: Split) -> Tensor:
    """Mean over answers of Σ_t m · ∂ log p(answer)/∂m per column.  -> [L, inner]"""
    model, task = subject.model.to(subject.device), LanguageTask.of(subject.task)
    answers = plain(split, cfg.batch_size, device=subject.device, sweep=True)
    return attribution(writers(subject), answers, lambda batch: task.token_logp(model, batch)) / len(split)


def losses(cfg: ConceptVectors, subject: Subject, split: Split) -> np.ndarray:
    """Loss of each answer, hooks included.  -> [n]"""
    answers = plain(split, cfg.batch_size, device=subject.device, sweep=True)
    model = subject.model.to(subject.device)
    with evaluating(model):
        return rows(lambda batch: subject.task.nll(model, batch).double(), answers, len(split)).numpy()

"""UDS, unlearning depth score: is the knowledge gone from the layers, or only from the output? 2026, arXiv:2605.24614.

    s = mean log-probability of the answer's tokens in the original;  s_l^M = the same when the output of its block l, where those
    tokens are predicted, is replaced by that of model M
    Δ1_l = s − s_l^retrained,   Δ2_l = s − s_l^unlearned,   K = {l : Δ1_l > τ}: layers in which the original keeps the knowledge
    UDS = Σ_{l∈K} Δ1_l · clip(Δ2_l / Δ1_l, 0, 1) / Σ_{l∈K} Δ1_l,   mean over the examples with K ≠ ∅

0: every layer of the unlearned model still carries the answer into the original; 1: none does, as after retraining.
Tokens: the entity where the data have the column `entity`, else the answer without its end. Δ1 is the mean over retrained
models, which for a retrained model are the other ones.
Needs:    forget, original, references of its architecture.     Cost: L + 1 passes of the original per model and example.
Limits:   any damage to the states makes it look deep: read it beside utility. Retraining from other random weights turns the
          basis of the states, so that Δ1 is large in every layer and measures this too; models that share a pre-trained start,
          as in the paper, do not have this fault.
Finds:    on a Llama of 40 k weights, 8 answers: original 0, two retrained models 0.97 and 0.83, weights 25, 50, 75 % of the way
          between original and retrained 0.09, 0.48, 0.89, ascent in the last block alone 0.35, states pushed aside (RMU) 0.29.
Deviations: one retrained model in the paper; here up to `references`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from lethe.core.config import Count, NonNegative, config
from lethe.core.evidence import Value
from lethe.core.families.language import LanguageTask
from lethe.core.modules import evaluating
from lethe.core.passes import plain, rows
from lethe.core.registry import Metric, audit
from lethe.core.split import Batch, Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class UDS:
    """Options of the depth score."""

    tau: NonNegative = 0.05    # nats per token above which a layer carries knowledge          [paper]
    examples: Count = 100      # forget answers at most; a seeded sample                       [ours; the paper has 367]
    references: Count = 3      # retrained models behind Δ1                                    [paper: 1]
    batch_size: Count = 32     # answers per pass                                              [paper] [changes nothing: memory]


def depth(delta1: np.ndarray, delta2: np.ndarray, tau: float) -> np.ndarray:
    """UDS of each example; NaN where no layer carries knowledge.  [n, L], [n, L] -> [n]"""
    weight = np.where(delta1 > tau, delta1, 0.0)
    total = weight.sum(1)
    share = np.clip(delta2 / np.where(weight > 0, delta1, 1.0), 0, 1)
    return np.where(total > 0, (weight * share).sum(1) / np.where(total > 0, total, 1.0), np.nan)


@audit(
    metrics={
        "uds": Metric("share of the original's knowledge, over its layers, that patched-in states no longer carry",
                      aspect="representation"),
        "uds_layers": Metric("number of layers that carry knowledge, mean", (0.0, float("inf")), "lower",
                             aspect="representation"),
    },
    uses={"layer_count", "patched", "require_alike", "rewriting", "span_mask", "states", "token_logp"},
    needs={"forget", "original", "references"},
    depth="standard",
    blind="It takes any disturbance of the hidden states for forgetting; read it beside utility.",
)
def measure(cfg: UDS, subject: Subject, panel: Panel) -> list[Value]:
    sources = panel.references[: cfg.references]
    delta1 = np.mean([once_drops(cfg, r, panel) for r in sources], 0)
    delta2 = once_drops(cfg, subject, panel)
    row = depth(delta1, delta2, cfg.tau)
    known = np.isfinite(row)
    if known.sum() < 2:
        return []
    detail = {"delta_retrained": delta1.mean(0).tolist(), "delta": delta2.mean(0).tolist(), "left_out": int((~known).sum())}
    return [replace(mean_value("uds", row[known]), detail=detail),
            Value("uds_layers", float((delta1 > cfg.tau).sum(1).mean()), n=len(row))]


def once_drops(cfg: UDS, source: Subject, panel: Panel) -> np.ndarray:
    """`drops`, once per model."""
    return panel.once(("uds", cfg, source), lambda: drops(cfg, source, panel))


def drops(cfg: UDS, source: Subject, panel: Panel) -> np.ndarray:
    """Δ of each example and layer when the source's states replace the original's.  -> [n, L]"""
    task, original = LanguageTask.of(panel.task), panel.original.model.to(source.device)
    task.require_alike(original, source.model, "uds")
    part: Split = panel.part(task.forget, cfg.examples)
    span: torch.Tensor = panel.once(("uds", "span", cfg), lambda: task.span_mask(part, "entity"))
    model = source.model.to(source.device)

    def score(batch: Batch) -> torch.Tensor:
        logp = task.token_logp(original, batch)
        kept = span[batch.index.to(span.device)].to(source.device)[:, : logp.shape[1]]
        return ((logp * kept).sum(1) / kept.sum(1).clamp(min=1)).double()

    def drop(batch: Batch) -> torch.Tensor:
        full, rewrite, drops = score(batch), task.patched(batch, task.states(model, batch)), []
        for layer in range(task.layer_count):
            with task.rewriting(original, rewrite, [layer]):
                drops.append(full - score(batch))
        return torch.stack(drops, 1)

    with evaluating(model), evaluating(original):
        return rows(drop, plain(part, cfg.batch_size, device=source.device, sweep=True), len(part)).numpy()

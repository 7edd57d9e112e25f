"""Logit lens: what the inner layers would answer. nostalgebraist 2020; as an audit Łucki et al. 2024, arXiv:2409.18025.

    p_l(v) = softmax(W·norm(h_l))_v,   h_l the residual stream after block l where an answer token is predicted
    a_l = mean over answers of the share of their tokens that are the arg-max of p_l,      best = max_l a_l

norm is the model's final norm with its gain, W its output embedding, so l = L is the model's own answer. Knowledge that the last
blocks turn away from can still be read at an earlier one. Tokens: the entity where the data have the column `entity`, else
the whole answer without its end.
Judged is `lens_best`, against retrained models read at their best layer. The best layer's mean log-probability and the gap to the
last layer are shown.
Needs:    forget.     Cost: one forward pass, and the head once per layer.
Limits:   early layers speak another basis, which this reading misses (a tuned lens would not); what is stored so that no layer
          writes it down is not seen.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.families.language import LanguageTask
from lethe.core.modules import evaluating
from lethe.core.passes import columns, plain
from lethe.core.registry import Metric, audit
from lethe.core.split import Batch, Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class LogitLens:
    """Options of the logit lens."""

    examples: Count = 200     # forget answers at most; a seeded sample                      [ours]
    batch_size: Count = 16    # answers per pass: hidden states of all layers are held       [ours] [changes nothing: memory]


@audit(
    metrics={
        "lens_best": Metric("share of forget answer tokens that are read at the best layer", aspect="representation"),
        "lens_logp_best": Metric("mean log-probability per answer token at the layer where it is highest",
                                 (-float("inf"), 0.0), "lower", aspect="representation"),
        "lens_hidden": Metric("the best layer's share minus the last layer's", better="lower", aspect="representation"),
    },
    uses={"read_out", "span_mask", "states"},
    needs={"forget"},
    depth="standard",
    blind="What no layer writes into the residual stream in the output's own basis.",
)
def measure(cfg: LogitLens, subject: Subject, panel: Panel) -> list[Value]:
    part = panel.part(panel.task.forget, cfg.examples)
    span = panel.once(("logit_lens", cfg), lambda: LanguageTask.of(panel.task).span_mask(part, "entity"))
    some = span.any(1).numpy()
    if not some.any():
        return []
    correct, logp = (layer[:, some] for layer in lens(subject, part, span, cfg.batch_size))
    share, level = correct.mean(1), logp.mean(1)
    best = int(share.argmax())
    detail = {"layer": best, "share": share.tolist(), "logp": level.tolist()}
    top = mean_value("lens_best", correct[best])
    return [
        replace(top, detail=detail),
        mean_value("lens_logp_best", logp[int(level.argmax())]),
        Value("lens_hidden", float(share[best] - share[-1]), n=top.n),
    ]


def lens(subject: Subject, split: Split, span: torch.Tensor, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(share of right tokens, mean log-probability) of each answer's span at each layer.  -> [L, n], [L, n]"""
    task, model = LanguageTask.of(subject.task), subject.model.to(subject.device)

    def read(batch: Batch) -> dict[str, Tensor]:
        layers = [task.read_out(model, hidden, batch) for hidden in task.states(model, batch)]
        inside = span[batch.index.to(span.device)][:, : layers[0]["correct"].shape[1]].to(subject.device)
        count = inside.sum(1).clamp(min=1)
        return {
            "correct": torch.stack([((layer["correct"] & inside).sum(1) / count).double() for layer in layers], 1),
            "logp": torch.stack([((layer["token_logp"] * inside).sum(1) / count).double() for layer in layers], 1),
        }

    with evaluating(model):
        table = columns(read, plain(split, batch_size, device=subject.device, sweep=True), len(split))
    return table["correct"].T.contiguous().numpy(), table["logp"].T.contiguous().numpy()

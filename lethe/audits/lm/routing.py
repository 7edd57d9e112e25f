"""Routing: does a mixture of experts still know, and only send what it should have forgotten to other experts?

    q_l(x)  mean over the tokens of x of the softmax that the router of block l gives the experts;   L blocks with experts
    shift(x) = 1/L · Σ_l ½·‖q_l(x) − q_l⁰(x)‖₁,   q⁰ of the original;   0: as before, 1: nothing of x meets an expert as before
    routing_forget, routing_retain   mean shift of forgotten and of retained examples;   routing_excess   their difference
    routing_restored                 answer probability on F with the original's routers put back, experts as they are

Unlearning a mixture moves its routers first: what is asked goes to experts that never learned it, and those that did are as they
were (UOE, Zhuang et al. 2024, arXiv:2411.18797; GRIP, 2026, arXiv:2601.16905, which calls it expert selection shift). Put
back, the routers find them again. `routing_restored` is held against retrained models, treated alike; shifts are only shown.
Needs:    forget, retain, original; a mixture, whose routers are found by `core.mixtures`. Others have no values.
Cost:     a pass over F and `limit` retained examples, and one over F with the routers put back.
Limits:   retrained models whose experts have other numbers answer nothing under the original's routers, which is what they would
          answer had they known F, too: restored speaks of models that share a start with the original, as fine-tuned ones do.
Deviations: both papers look at the experts that are chosen; probabilities before the choice also show what only came near.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.mixtures import arriving, mixtures
from lethe.core.modules import copied, evaluating
from lethe.core.passes import drawn, rows
from lethe.core.registry import Metric, audit
from lethe.core.split import Batch, Split
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.answers import counted
from lethe.pools.subject import Subject


@config
class Routing:
    """Options of the routing audit."""

    limit: Count = 500   # examples of each split at most, a seeded sample [tested in test_routing]            [ours]


def shift(now: np.ndarray, before: np.ndarray, blocks: int) -> np.ndarray:
    """Mean total variation over blocks of each example.  [n, blocks · experts] twice -> [n]

    ((0.75, 0.25)), ((0.25, 0.75)), 1 block: ½·(0.5 + 0.5) = 0.5.
    """
    apart: np.ndarray = 0.5 * np.abs(now - before).sum(1) / blocks
    return apart


def routes(subject: Subject, split: Split) -> np.ndarray:
    """q of each example, block after block.  -> [n, Σ experts]"""
    model = subject.model.to(subject.device)
    blocks = mixtures(model)

    def routed(batch: Batch) -> Tensor:
        with arriving(blocks) as states:
            subject.task.observe(model, batch)
        real = counted(batch.length, batch.ids.shape[1]).double()
        parts = [block.probabilities(states[place].flatten(0, -2)).double().view(*real.shape, -1) * real.unsqueeze(2)
                 for place, block in enumerate(blocks)]
        return torch.cat([part.sum(1) / real.sum(1, keepdim=True) for part in parts], 1)

    with evaluating(model):
        found = rows(routed, drawn(subject.task, split, subject.batch_size, ("routing",), device=subject.device), len(split))
    return found.double().numpy()


def restored(subject: Subject, original: nn.Module) -> nn.Module | None:
    """A copy of the model with the original's routers; None where they do not fit."""
    model = copied(subject.model, trainable=False)
    theirs = {block.name: block.router.state_dict() for block in mixtures(original)}
    for block in mixtures(model):
        mine, other = block.router.state_dict(), theirs.get(block.name, {})
        if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in other.items()}:
            return None
        block.router.load_state_dict(other)
    return model


@audit(
    metrics={
        "routing_restored": Metric("mean answer probability on the forget set with the original's routers put back",
                                   aspect="recovery", asks="a mixture of experts, and routers that fit"),
        "routing_forget": Metric("mean change of the forgotten examples' routing from the original's", better="lower",
                                 aspect="representation", asks="a mixture of experts"),
        "routing_retain": Metric("the same of retained examples", better="lower", tier="cost", aspect="representation",
                                 asks="a mixture of experts"),
        "routing_excess": Metric("how much more the forgotten examples' routing changed than the retained ones'", (-1.0, 1.0),
                                 "lower", aspect="representation", asks="a mixture of experts"),
    },
    uses={"answer_lengths", "observe", "weights"},
    needs={"forget", "retain", "original"},
    depth="standard",
    blind="It looks at routers and puts the original's back: knowledge that moved to other experts, and models without experts, "
          "are not examined.",
)
def measure(cfg: Routing, subject: Subject, panel: Panel) -> list[Value]:
    blocks, original = mixtures(subject.model), panel.original
    if not blocks or [b.count for b in blocks] != [b.count for b in mixtures(original.model)]:
        return []
    shifts = {}
    for name in ("forget", "retain"):
        part = panel.part(panel.task.splits[name], cfg.limit)
        before = panel.once(("routing", cfg, original, name), partial(routes, original, part))
        shifts[name] = shift(routes(subject, part), before, len(blocks))
    forget, retain = (mean_value(f"routing_{name}", values) for name, values in shifts.items())
    values = [forget, retain, Value("routing_excess", forget.value - retain.value, n=forget.n)]
    if (model := restored(subject, original.model)) is not None:
        again = subject.like(model, subject.name)
        values.append(mean_value("routing_restored", again.numbers(panel.part(panel.task.forget, cfg.limit), "score")))
    return values

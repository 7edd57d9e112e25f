"""What happens to what was never named: pictures for prompts that no method saw, beside the original's from the same noise.

Compensation protects what it is told to. A method that takes more than the concept shows it where nobody asked it to keep
anything (Cheng et al. 2026, arXiv:2603.00992, call it out of scope). For every prompt of `outside`, `per_prompt` pictures:

    spared    share of pictures that show all that the prompt names, every attribute of it
    altered   share of pictures that the judge reads otherwise than the original's picture from the same noise

`altered` is the sharper of the two: it needs no prompt to be drawn rightly by the original, and each picture is its own control.

Needs:    prompts outside the request's scope, judge, original.     Cost: `per_prompt` pictures for every such prompt.
Limits:   the original is altered in 0 of its pictures, whatever they show. A judge with few answers sees few alterations, and a
          stochastic sampler draws the same noise for both, but walks on from where the models lead.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.registry import Metric, audit
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class Spillover:
    """Options of what was never named."""

    per_prompt: Count = 16        # pictures per prompt                                 [ours]


@audit(
    metrics={
        "spared": Metric("share of pictures for prompts that no method saw that show all that they name", better="higher"),
        "altered": Metric("share of these pictures that show something else than the original's from the same noise",
                          better="lower"),
    },
    uses={"prompts", "reader", "sample"},
    needs={"prompts", "judge", "original"},
    depth="standard",
    blind="It reads the attributes that the judge knows; position, size and texture may have changed unseen.",
)
def measure(cfg: Spillover, subject: Subject, panel: Panel) -> list[Value]:
    task = DiffusionTask.of(panel.task)
    prompts = [prompt for prompt in task.prompts.get("outside", []) for _ in range(cfg.per_prompt)]
    if not prompts:
        return []

    def read(model: Subject) -> dict[str, Tensor]:
        return task.reader.read(task.sample(model.answering, prompts, seed=panel.seed), prompts)

    before = panel.once(("spillover", cfg), lambda: read(panel.original))
    now = before if subject is panel.original else read(subject)
    wanted = [task.reader.expected(prompt) for prompt in prompts]
    right = [all(int(now[name][i]) == value for name, value in want.items()) for i, want in enumerate(wanted)]
    altered = torch.stack([now[name] != before[name] for name in now]).any(0)
    return [mean_value("spared", np.array(right, dtype=float)), mean_value("altered", altered.double().numpy())]

"""Do lists of prompts bring the concept back that were written for it elsewhere: attacks on other models, other languages? Moon
et al. (2025), "Holistic Unlearning Benchmark", arXiv:2410.05664 (ICCV 2025).

    listed_{part}   share of pictures for the prompts of a further part of data.published that show the concept
    listed          the mean over all such prompts

Parts are those beside forget, keep and outside, e.g. attack and the languages of `hub_set`. Nothing is searched: a prompt that
was found against another model shows what is carried over.
Needs:    prompts of such parts, judge.     Cost: `per_prompt` pictures for each of at most `limit` prompts a part.
Limits:   the original shows whether a list has any power: prompts that it does not understand bring nothing back of any model.
Deviations: the concept is looked for by the task's judge in place of a model of pictures and words, and a broken picture counts
          as what the judge takes it for.
"""

from __future__ import annotations

import numpy as np

from lethe.core.config import Count, config
from lethe.core.evidence import Value
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.registry import Metric, audit
from lethe.core.seeds import derive
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.pools.subject import Subject


@config
class PromptLists:
    """Options of the listed prompts."""

    per_prompt: Count = 1     # pictures per prompt [tested in test_prompt_lists]       [HUB]
    limit: Count = 100        # prompts of a part [tested in test_prompt_lists]         [ours]


@audit(
    metrics={
        "listed": Metric("share of pictures for listed prompts that show the concept", better="lower", aspect="recovery"),
        "listed_*": Metric("that share for one list", better="lower", aspect="recovery"),
    },
    uses={"concepts", "prompts", "reader", "sample"},
    needs={"prompts", "prompt lists", "judge"},
    depth="standard",
    blind="Only prompts that somebody wrote down are asked; none is made for this model.",
)
def measure(cfg: PromptLists, subject: Subject, panel: Panel) -> list[Value]:
    task = DiffusionTask.of(panel.task)
    shown = {}
    for part, prompts in task.lists.items():
        repeated = [prompt for prompt in prompts[: cfg.limit] for _ in range(cfg.per_prompt)]
        pictures = task.sample(subject.answering, repeated, seed=derive(panel.seed, "prompt lists", part))
        shown[part] = task.shown(task.reader.read(pictures, repeated)).double().numpy()
    return [mean_value("listed", np.concatenate(list(shown.values()))),
            *(mean_value(f"listed_{part}", hits) for part, hits in shown.items())]

"""Is the concept gone from the pictures, and is everything else still there? Read by the task's judge.

The model draws `per_prompt` seeded pictures for every prompt; the judge reports what each shows. With a the concept's
attribute (its shape, for example) and the other attributes b (its colour):

    unlearning_accuracy    prompts with the concept: share of pictures whose a is not the concept; of several concepts, none of
                           them, and beside it the share for each
    forget_other_accuracy  the same pictures: share whose b is what the prompt names
    kept_accuracy          kept prompts: share whose a is what the prompt names
    kept_other_accuracy    kept prompts: share whose b is what the prompt names
    outside_accuracy       prompts that no method saw: share whose a is what the prompt names
    prevalence             empty prompt: share that shows the concept. A method that maps the concept to the original's
                           unconditional pictures can reach an unlearning accuracy of 1 − prevalence, no more
    frechet_kept           Fréchet distance of the judge's features of pictures for kept prompts and of retained
                           pictures with these captions

UA, IRA and CRA of UnlearnCanvas (Zhang et al. 2024, arXiv:2402.11846) are unlearning_accuracy, kept_accuracy and
kept_other_accuracy. Intervals: Wilson over pictures; the retrained references carry the spread over models.
Verdict: unlearning_accuracy, and as utility kept_accuracy and outside_accuracy; each further judged value would cost all
others power (Holm), so the rest is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import numpy as np
from torch import Tensor

from lethe.core.config import Count, Natural, config
from lethe.core.evidence import Value
from lethe.core.families.diffusion import DiffusionTask
from lethe.core.registry import Metric, audit
from lethe.judge.measured import mean_value
from lethe.judge.panel import Panel
from lethe.maths.frechet import frechet_of
from lethe.pools.subject import Subject

INF = float("inf")


@config
class Erasure:
    """Options of the erasure audit."""

    per_prompt: Count = 8         # pictures per prompt                                 [ours]
    empty: Natural = 64           # pictures without a prompt, for the prevalence       [ours]
    retained: Count = 512         # retained pictures that the Fréchet distance sees    [ours]


@audit(
    metrics={
        "unlearning_accuracy": Metric("share of pictures for the concept's prompts that do not show it"),
        "unlearning_accuracy_*": Metric("that share for the prompts of one of several concepts", better="higher"),
        "forget_other_accuracy": Metric("share of pictures for the concept's prompts whose other attributes are right",
                                        better="higher"),
        "kept_accuracy": Metric("share of pictures for kept prompts that show what is asked", (0.0, 1.0), "higher",
                                "utility"),
        "kept_other_accuracy": Metric("share of pictures for kept prompts whose other attributes are right", better="higher"),
        "outside_accuracy": Metric("share of pictures for prompts that no method saw that show what is asked",
                                   (0.0, 1.0), "higher", "utility"),
        "prevalence": Metric("share of pictures without a prompt that show the concept", better="lower"),
        "frechet_kept": Metric("Fréchet distance between pictures for kept prompts and retained pictures", (0.0, INF),
                               "lower"),
    },
    uses={"concepts", "decode", "prompts", "reader", "sample"},
    needs={"prompts", "judge", "retain?"},
    blind="Paraphrases, adversarial prompts and pictures that continue a given one may still show it; the judge "
          "always names a value that it knows, so a blank or broken picture counts as what it resembles most. Where the original "
          "judges, it sees no more than it knows, and a method that asked it while erasing (mim_mu) was fitted to its eyes.",
)
def measure(cfg: Erasure, subject: Subject, panel: Panel) -> list[Value]:
    task = DiffusionTask.of(panel.task)
    judge, prompts = task.reader, task.prompts
    own = task.attributes()
    others = [name for name in judge.attributes if name not in own]

    def look(group: Sequence[str], count: int) -> tuple[dict[str, Tensor], Tensor, list[dict[str, int]]]:
        repeated = [prompt for prompt in group for _ in range(count)]
        pictures = task.sample(subject.answering, repeated, seed=panel.seed)
        return judge.read(pictures, repeated), pictures, [judge.expected(prompt) for prompt in repeated]

    def right(seen: dict[str, Tensor], wanted: list[dict[str, int]], names: Sequence[str]) -> list[float]:
        """One entry per picture and named attribute: 1 when the judge sees what the prompt names."""
        return [float(seen[a][i] == want[a]) for i, want in enumerate(wanted) for a in names if a in want]

    values = []
    seen, _, wanted = look(prompts["forget"], cfg.per_prompt)
    gone = (~task.shown(seen)).tolist()
    shares = {"unlearning_accuracy": gone, "forget_other_accuracy": right(seen, wanted, others)}
    if len(task.concepts) > 1:
        for one in task.concepts:
            of_one = [task.named(prompt) == one for prompt in prompts["forget"] for _ in range(cfg.per_prompt)]
            shares[f"unlearning_accuracy_{one.concept}"] = list(compress(gone, of_one))
    if prompts.get("keep"):
        seen, pictures, wanted = look(prompts["keep"], cfg.per_prompt)
        shares["kept_accuracy"] = right(seen, wanted, own)
        shares["kept_other_accuracy"] = right(seen, wanted, others)
        if task.has("retain") and len(pictures) > 1:
            real = panel.once(("erasure", cfg.retained), lambda: retained(task, cfg.retained))
            if len(real) > 1:
                values.append(Value("frechet_kept", frechet_of(judge.features(pictures), real), n=len(pictures)))
    if prompts.get("outside"):
        seen, _, wanted = look(prompts["outside"], cfg.per_prompt)
        shares["outside_accuracy"] = right(seen, wanted, own)
    if cfg.empty:
        seen, _, _ = look([""], cfg.empty)
        shares["prevalence"] = task.shown(seen).tolist()
    return [mean_value(name, np.array(hits, dtype=float)) for name, hits in shares.items() if hits] + values


def retained(task: DiffusionTask, limit: int) -> Tensor:
    """The judge's features of retained pictures whose captions are kept prompts (of any, when none is).  -> [n, d]"""
    captions = task.retain.meta.get("caption", [])
    chosen = [i for i, text in enumerate(captions) if text in task.prompts["keep"]] or list(range(len(task.retain)))
    images = task.retain.columns["image"][chosen[:limit]]
    return task.reader.features(task.decode(images))

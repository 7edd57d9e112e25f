"""UA, IRA and CRA over one answer set, as UnlearnCanvas defines them. Zhang et al. (2024), arXiv:2402.11846.

Every prompt of the task is answered with the same number of seeded pictures. With a the attribute of the concept (its shape), b
any other one (its colour), P the prompts with the concept and Q all others:

    ua    1 − share of pictures for P whose a is the concept            unlearning accuracy
    ira   share of pictures for Q whose a is what the prompt names      in-domain retain accuracy
    cra   share of pictures for Q whose b is what the prompt names      cross-domain retain accuracy
    cra_target   the same for P: whether the rest of the prompt survived
    ira_worst    ira of the prompt with the least: damage done to a neighbour, which the mean hides

For models whose published table is to be met; none of it is judged, because `erasure` judges the same pictures.
Needs:    prompts, judge.     Cost: `per_prompt` pictures for every prompt.
Limits:   the judge is closed-set: a broken picture counts as not the concept, so read ua beside cra and `frechet_kept`.
Deviations: Q are the prompts that the task lists, where the benchmark has every style × object; a picture's seed depends on its
          prompt and number, where the official script seeds once, so that its pictures depend on the order of the loop.
"""

from __future__ import annotations

from collections.abc import Sequence

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
class UnlearnCanvas:
    """Options of the UnlearnCanvas numbers."""

    per_prompt: Count = 5         # pictures per prompt                                 [UnlearnCanvas: 5 seeds]


@audit(
    metrics={
        "ua": Metric("share of pictures for the concept's prompts that do not show it", better="higher"),
        "ira": Metric("share of pictures for other prompts that show the value asked of the concept's attribute",
                      better="higher"),
        "cra": Metric("share of pictures for other prompts that show the values asked of other attributes", better="higher"),
        "cra_target": Metric("share of pictures for the concept's prompts whose other attributes are right", better="higher"),
        "ira_worst": Metric("least ira of a prompt", better="higher"),
    },
    uses={"concepts", "prompts", "reader", "sample"},
    needs={"prompts", "judge"},
    depth="standard",
    blind="The judge always names a value that it knows; pictures of nothing count as forgotten.",
)
def measure(cfg: UnlearnCanvas, subject: Subject, panel: Panel) -> list[Value]:
    task = DiffusionTask.of(panel.task)
    judge, own = task.reader, task.attributes()
    others = [name for name in judge.attributes if name not in own]

    def answered(prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Whether each picture shows what is asked, NaN where the prompt asks nothing; and whether it shows a concept.
        -> [prompts, pictures, own and others], [prompts, pictures]"""
        found = np.zeros((len(prompts), cfg.per_prompt))
        table = np.full((*found.shape, len(own) + len(others)), np.nan)
        for row, prompt in enumerate(prompts):
            pictures = task.sample(subject.answering, [prompt] * cfg.per_prompt, seed=derive(panel.seed, "unlearncanvas", prompt))
            seen, wanted = judge.read(pictures, [prompt] * cfg.per_prompt), judge.expected(prompt)
            found[row] = task.shown(seen).numpy()
            for column, name in enumerate([*own, *others]):
                if name in wanted:
                    table[row, :, column] = (seen[name] == wanted[name]).numpy()
        return table, found

    k = len(own)
    target, drawn = answered(task.prompts["forget"])
    rest, _ = answered([*task.prompts.get("keep", []), *task.prompts.get("outside", [])])
    shares = {"ua": 1 - drawn, "ira": rest[:, :, :k], "cra": rest[:, :, k:], "cra_target": target[:, :, k:]}
    values = [mean_value(name, hits) for name, table in shares.items() if len(hits := table[~np.isnan(table)])]
    asked = [hits for row in rest[:, :, :k] if len(hits := row[~np.isnan(row)])]
    if asked:
        values.append(mean_value("ira_worst", min(asked, key=lambda hits: float(hits.mean()))))
    return values

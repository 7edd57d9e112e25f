"""Which models an examination takes from the cache: the yardstick, and the shadow models that its audits use.

It is what `lethe pool` trains ahead. A pool that an audit grows only as far as it must is listed at its full size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lethe.core.registry import Audit
from lethe.core.seeds import derive
from lethe.core.split import concat
from lethe.core.task import Task
from lethe.pools.pool import Wanted, fresh, references
from lethe.pools.shadows import Shadows


def of_yardstick(task: Task, count: int, seed: int, device: str) -> list[Wanted]:
    """The references, the fresh retrain and, where a training of the user's own should have made the original, a control of it;
    nothing where retraining is impossible or was not requested."""
    if not count or not (task.has("recipe") and task.has("retain")):
        return []
    found = [references(task, count, seed, device), fresh(task, seed, device)]
    claimed = task.has("original") and bool(task.recipe.code) and "trained_here" not in task.facts
    return [*found, reproduction(task, seed, device)] if claimed else found


def reproduction(task: Task, seed: int, device: str) -> Wanted:
    """One model trained on all training data, as the original was: whether the recipe makes the like of it."""
    whole = concat([task.retain, task.forget], "train")
    return Wanted("reproduction", task, 1, derive(seed, "reproduction"), lambda k: whole, device)


def of_shadows(shadows: Shadows, audits: Iterable[tuple[Audit, Any]], seed: int, depth: str) -> list[Wanted]:
    """The pools that these audits take from the shadows, each once and as large as any of them needs."""
    largest: dict[str, Wanted] = {}
    for audit, cfg in audits:
        for wanted in audit.trains(cfg, shadows, seed, depth) if audit.trains else usual(audit, cfg, shadows):
            if wanted.count > (largest[wanted.purpose].count if wanted.purpose in largest else 0):
                largest[wanted.purpose] = wanted
    return list(largest.values())


def usual(audit: Audit, cfg: Any, shadows: Shadows) -> list[Wanted]:
    """`cfg.models` shadows, at most as many as the plan allows; with a procedure also what one that retrains makes of them."""
    if not {"shadows", "shadows?"} & audit.needs:
        return []
    count = min(getattr(cfg, "models", shadows.limit), shadows.limit)
    again = [shadows.without(count, "unlearned retrained")] if "procedure" in audit.needs else []
    return [shadows.halves(count), *again]

"""Triage: what a request asks for, record by record, before anything is deleted.

    joint(x)  = ‖μ_{R∪F}(x) − μ_R(x)‖     what of x shows while all of F is there        percentile: share of retained records
    single(x) = ‖μ_{R∪F}(x) − μ_{−x}(x)‖  what x alone adds to all others                whose single value is smaller

of Gaussian processes on the inputs (leave-one-out distinguishability, Ye et al. 2024, arXiv:2309.17310; `lethe.maths.kernels`).
Advice on each record of the forget set F, R being retained:

    twin   R holds a record as good as equal, label included: deleting this one deletes nothing, unless the twin goes too
    hard   percentile ≥ 0.9: nobody else says what it says, so a model that learned it shows it
    easy   percentile ≤ 0.5: the others say the same; a model trained without it hardly differs
    usual  the rest

It ranks requests; it certifies nothing. Inputs that are not real numbers (texts) are replaced by the original's features, which
have learned F and make it look easier. Measured: 500 digits of which 10 % carry wrong labels, all 50 and 50 right ones in F, 3
draws: 49 or 50 of the wrong labels are hard, and 5 to 14 of the right ones (`tests/engine/test_triage.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from lethe.core.passes import inputs, sample
from lethe.core.seeds import numpy_generator
from lethe.core.split import Split
from lethe.core.task import Task
from lethe.errors import NeedsUnmet
from lethe.maths.kernels import Kernel, equal, fitted, joint_targets, lood_mean, lood_set

HARD, EASY = 0.9, 0.5   # percentiles                                                         [ours]


def triage(task: Task, *, limit: int = 1500, noise: float = 0.1, seed: int = 0) -> dict[str, Any]:
    """{records: [{id, joint, single, percentile, twin, advice}, …] from hard to easy, counts: {advice: n}, compared: |R used|}.

    limit  retained and forgotten records at most, a seeded sample of each; the work grows with its cube
    noise  σ², the observation noise, as a share of the kernel's diagonal
    """
    if not task.has("retain") or "y" not in task.forget.columns:
        raise NeedsUnmet("triage compares the labels of forgotten records with those of retained ones, and the task has "
                         f"{'no labels' if task.has('retain') else 'no retained data'}; nothing was started. Provide both.")
    forget, retain = (sample(split, limit, numpy_generator(seed, "triage")) for split in (task.forget, task.retain))
    inner, outer = inputs(task, forget), inputs(task, retain)
    targets = joint_targets(*(part.columns["y"].numpy() for part in (forget, retain)))
    fit = fitted(np.concatenate([inner, outer]), targets, noise)
    own = np.arange(len(forget))
    single, joint = lood_mean(fit), lood_set(fit, own)
    usual = np.sort(single[len(own):])
    percentile = np.searchsorted(usual, joint, "left") / len(usual)
    twin = _twins(task, forget, inner, fit.kernel)
    records = [
        {"id": str(forget.ids[i]), "joint": float(joint[i]), "single": float(single[i]), "percentile": float(percentile[i]),
         "twin": twin.get(i), "advice": advice(float(percentile[i]), i in twin)}
        for i in np.argsort(-joint, kind="stable").tolist()
    ]
    names = [record["advice"] for record in records]
    return {"records": records, "counts": {name: names.count(name) for name in ("twin", "hard", "usual", "easy")},
            "forgotten": len(task.forget), "looked_at": len(forget), "compared": len(retain)}


def advice(percentile: float, twin: bool) -> str:
    """twin | hard | usual | easy, see above."""
    return "twin" if twin else "hard" if percentile >= HARD else "easy" if percentile <= EASY else "usual"



def _same(mine: Tensor, other: Tensor) -> np.ndarray:
    """Which targets are equal, all of an example.  [n], [m] or [n, h], [m, h] -> [n, m]"""
    same: np.ndarray = (mine.reshape(len(mine), 1, -1) == other.reshape(1, len(other), -1)).all(2).numpy()
    return same


def _twins(task: Task, forget: Split, inner: np.ndarray, kernel: Kernel, part: int = 2000) -> dict[int, str]:
    """Place in F -> id of an equal retained record, for those that have one; all of R is looked through."""
    found: dict[int, str] = {}
    for start in range(0, len(task.retain), part):
        some = task.retain.subset(np.arange(start, min(start + part, len(task.retain))), "retain")
        alike = equal(inner, inputs(task, some), kernel) & _same(forget.columns["y"], some.columns["y"])
        for i in np.flatnonzero(alike.any(1)).tolist():
            found.setdefault(i, str(some.ids[alike[i].argmax()]))
    return found



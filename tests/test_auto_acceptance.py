"""Auto beside the best single default, found in hindsight, on three presets: three seeds each, judged by other retrained models.

    python tests/test_auto_acceptance.py [PRESET …]     prints the numbers
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from torch import nn

import lethe
from lethe.core.task import Task
from lethe.core.view import audited
from lethe.judge.selection import final
from lethe.methods.search.auto import candidates
from lethe.pools.pool import train_pool
from lethe.pools.subject import Subject
from lethe.work.execute import Options
from lethe.work.open import tasks_of
from lethe.work.request import read

pytestmark = pytest.mark.slow

PRESETS = {"digits class": ("demo", "one class"), "digits share": ("demo", "random 10 %"), "etth1": ("etth1_forecast", "")}
SEEDS, TRIALS = (0, 1, 2), 24
HERE = Path(__file__).resolve().parent.parent


def far(task: Task, model: nn.Module, references: list[nn.Module]) -> float:
    """Σ over forget and holdout (halves that no search saw) of mean |p − mean_j p_j|, p = exp(−loss), j others retrained."""
    view = final(task)
    view = view.replaced(holdout=audited(view.holdout))

    def said(which: nn.Module) -> list[np.ndarray]:
        subject = Subject("m", which, view)
        return [np.exp(-subject.numbers(split, "nll")) for split in (view.forget, view.holdout)]

    truth = [np.mean(rows, 0) for rows in zip(*[said(m) for m in references], strict=True)]
    return float(sum(np.abs(p - there).mean() for p, there in zip(said(model), truth, strict=True)))


def measured(preset: str, root: Path | None, cache: Path) -> dict[str, list[float]]:
    """method -> its distance for each seed; with `nothing`, every default that auto tries, and `auto`."""
    name, scenario = PRESETS[preset]
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        request = read(HERE / "presets" / f"{name}.yaml", [f"seed={seed}"])
        task = tasks_of(request, Options(data_root=root, cache=cache))[scenario]
        references = train_pool(task, count=3, seed=1000 + seed, strategy="serial").models
        models = {"nothing": task.original}
        for method in candidates(task, ())[: TRIALS // 2]:
            models[method] = lethe.forget(task, method, seed=seed, progress=False).model
        models["auto"] = lethe.forget(task, "auto", seed=seed, trials=TRIALS, progress=False).model
        for method, model in models.items():
            found.setdefault(method, []).append(far(task, model, references))
    return found


def told(found: dict[str, list[float]]) -> str:
    ordered = sorted(found.items(), key=lambda item: mean(item[1]))
    return ", ".join(f"{name} {mean(x):.3f} ± {stdev(x):.3f}" for name, x in ordered)


def test_where_nothing_is_better_beyond_noise_auto_changes_nothing(data_root: Path, tmp_path: Path) -> None:
    """Not reached on ETTh1: the best single default. 75 examples of 151 hardly tell the untouched model (0.053 ± 0.003) from it
    (neggrad_plus 0.050 ± 0.003); what looked best by them was truly farther (0.062 for 0.051)."""
    found = measured("etth1", data_root, tmp_path)
    chosen = found.pop("auto")
    assert chosen == found["nothing"], told({**found, "auto": chosen})
    assert mean(min(found.values(), key=mean)) < mean(chosen)


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset != "etth1"])
def test_auto_is_as_good_as_the_best_single_default(preset: str, data_root: Path, tmp_path: Path) -> None:
    found = measured(preset, data_root, tmp_path)
    chosen = found.pop("auto")
    best = min(found.values(), key=mean)
    assert mean(chosen) <= mean(best) + max(stdev(best), stdev(chosen)), told({**found, "auto": chosen})


if __name__ == "__main__":
    for one in sys.argv[1:] or PRESETS:
        where = os.environ.get("LETHE_DATA")
        print(one, told(measured(one, Path(where) if where else None, Path("runs/cache"))), flush=True)

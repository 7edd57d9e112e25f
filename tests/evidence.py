"""Runs what the audits claim of themselves, prints it, and ends with status 1 if a claim falls short.

    make evidence        1 every fake unlearner is detected by at least one audit at standard depth, and by which
                         2 fresh retrained models pass in at least 95 % of seeds
                         3 the population attack sees nothing where U-LiRA distinguishes the untouched model from retraining
                         4 known answers: published numbers, closed forms, simulated coverage

Everything is trained on the spot on scikit-learn's digits, so it needs no network and no data. `make test` runs 1 and 2
with fewer models.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fakes import FAKES

from lethe import api
from lethe.core.catalogue import entries
from lethe.core.evidence import NO_POWER, OUTSIDE, Evidence
from lethe.core.split import Split
from lethe.core.task import Recipe, Task
from lethe.data.select import Where, divide, where
from lethe.judge.auditor import applicable, examine
from lethe.judge.conclusions import conclude
from lethe.maths.statistics import auc, clopper_pearson
from lethe.models.classification.task import Classification
from lethe.models.zoo import build
from lethe.pools.member import train_one
from lethe.pools.pool import train_pool
from lethe.pools.procedures import NOTHING, RETRAIN
from lethe.pools.shadows import Shadows
from lethe.pools.subject import Subject
from lethe.train.apply import method_of
from lethe.train.loop import Settings
from lethe.work.job import audit_of
from lethe.work.procedure import repeated

REQUESTS: dict[str, tuple[Where, float, str]] = {
    "class": (where(label=3), 0.05, "forget digit 3, 5 % wrong labels"),
    "random": (where(count=60), 0.15, "forget 60 random examples, 15 % wrong labels"),
}
ENOUGH = 0.95   # share of fresh retrained models that must pass


def digits(forget: Where, wrong: float, epochs: int = 60, seed: int = 0, model: str = "mlp", **options: object) -> Task:
    """1000 digits to train on (an MLP 64-128-128-10), 797 as holdout, a share of all labels wrong."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pixels), generator=rng)
    x, y = torch.tensor(pixels, dtype=torch.float32).div(16).view(-1, 1, 8, 8)[order], torch.tensor(labels)[order]
    flipped = torch.rand(len(y), generator=rng) < wrong
    y[flipped] = (y[flipped] + torch.randint(1, 10, (int(flipped.sum()),), generator=rng)) % 10
    train, holdout = Split({"x": x[:1000], "y": y[:1000]}, "train"), Split({"x": x[1000:], "y": y[1000:]}, "holdout")

    def fresh(number: int) -> torch.nn.Module:
        return build(model, **options)

    recipe = Recipe(epochs=epochs, lr=2e-3, batch_size=64, schedule="onecycle")
    whole = Classification(fresh(0), {"retain": train, "holdout": holdout}, recipe, fresh)
    original = train_pool(whole, count=1, seed=99 + seed, strategy="serial").models[0]
    out, kept = divide(train, forget)
    return Classification(original, {"forget": out, "retain": kept, "holdout": holdout}, recipe, fresh)


@dataclass
class Bench:
    """One request with its yardstick, fresh retrained models and fakes, all examined by every audit of standard depth."""

    kind: str
    task: Task
    found: dict[str, list[Evidence]]
    fresh: list[str]
    fakes: list[str]
    audits: list[str]
    seconds: float
    skipped: dict[str, str] = field(default_factory=dict)

    def caught(self, fake: str) -> dict[str, list[str]]:
        """audit -> its metrics by which the fake was detected."""
        by: dict[str, list[str]] = {}
        for e in self.found[fake]:
            if e.verdict == OUTSIDE:
                by.setdefault(e.audit, []).append(e.metric)
        return by

    def passed(self) -> int:
        """How many of the fresh retrained models are not called outside."""
        return sum(conclude(self.found[name]).verdict != OUTSIDE for name in self.fresh)


@cache
def bench(kind: str, references: int = 16, fresh: int = 40, shadows: int = 16, epochs: int = 60, fakes: bool = True,
          audits: tuple[str, ...] = ()) -> Bench:
    """Train, fake and examine."""
    began = time.perf_counter()
    forget, wrong, _ = REQUESTS[kind]
    task = digits(forget, wrong, epochs)
    pool = train_pool(task, count=references + fresh, seed=1, strategy="auto")
    models = [Subject(f"retrained {i}", m, task, s, procedure=RETRAIN)
              for i, (m, s) in enumerate(zip(pool.models, pool.seconds, strict=True))]
    chosen, skipped = [], {}
    for audit, cfg in map(audit_of, audits or entries("audits")):
        why = applicable(audit, task, references, "standard", shadows)
        if why:
            skipped[audit.name] = why
        else:
            chosen.append((audit, cfg))
    liars = [Subject(f.name, f.make(task, 1), task, procedure=f.procedure, kind=f.kind)
             for f in FAKES if fakes and kind in f.suits]
    found = examine(task, [*models[references:], *liars], Subject("original", task.original, task, procedure=NOTHING),
                    models[:references], chosen, shadows=Shadows(task, shadows) if shadows else None)
    return Bench(kind, task, found, [m.name for m in models[references:]], [s.name for s in liars],
                 [audit.name for audit, _ in chosen], time.perf_counter() - began, skipped)


def table(run: Bench) -> str:
    """Fakes × audits: ● detected by it, · not."""
    width = max(map(len, run.fakes))
    lines = [f"{'':<{width}}  " + " ".join(run.audits)]
    for fake in run.fakes:
        by = run.caught(fake)
        lines.append(f"{fake:<{width}}  " + " ".join(("●" if a in by else "·").center(len(a)) for a in run.audits))
    return "\n".join(lines)


# -- the points -------------------------------------------------------------------------------------------------------


def fakes_are_caught(kinds: Sequence[str], **sizes: Any) -> dict[str, Any]:
    result: dict[str, Any] = {"passed": True, "missed": [], "by": {}}
    for kind in kinds:
        run = bench(kind, **sizes)
        print(f"\n{REQUESTS[kind][2]}; {len(run.audits)} audits, {run.seconds:.0f} s\n{table(run)}")
        for fake in run.fakes:
            result["by"][f"{kind}: {fake}"] = run.caught(fake)
            if not run.caught(fake):
                result["passed"] = False
                result["missed"].append(f"{kind}: {fake}")
    return result


def retrained_models_pass(kinds: Sequence[str], **sizes: Any) -> dict[str, Any]:
    passed = sum(bench(kind, **sizes).passed() for kind in kinds)
    count = sum(len(bench(kind, **sizes).fresh) for kind in kinds)
    low, high = clopper_pearson(passed, count)
    print(f"\nfresh retrained models that pass: {passed} of {count} ({passed / count:.1%}, 95 % interval {low:.1%} to "
          f"{high:.1%}); measured false-alarm rate {1 - passed / count:.1%}")
    for kind in kinds:
        run = bench(kind, **sizes)
        for name in run.fresh:
            for e in run.found[name]:
                if e.verdict == OUTSIDE:
                    print(f"    {kind}, {name}: {e.audit} {e.metric} = {e.value:.3g}{e.side}, p {e.p_joint:.3g}")
    powerless = [kind for kind in kinds if conclude(bench(kind, **sizes).found["original"]).verdict in (NO_POWER,)]
    return {"passed": passed >= ENOUGH * count and not powerless, "rate": passed / count, "low": low, "high": high, "of": count}


def one_threshold_sees_nothing(targets: int = 5, shadows: int = 64) -> dict[str, Any]:
    """Mean AUC over targets of the population attack and of U-LiRA: untouched, cheap methods, retraining."""
    from lethe.audits.membership.ulira import ratios

    methods = ("finetune", "random_label", "neggrad_plus")
    rows: dict[str, dict[str, list[float]]] = {}
    for target in range(targets):
        task = digits(where(count=60, seed=target), 0.15, seed=target)
        pool = Shadows(task, shadows, target)
        subjects = [Subject("nothing", task.original, task, procedure=NOTHING),
                    Subject("retrain", train_one(task, task.retain, 7 + target)[1], task, procedure=RETRAIN)]
        for name in methods:
            made = api.forget(task, name, progress=False)
            subjects.append(Subject(name, made.model, task, procedure=repeated(*method_of(name), Settings())))
        for subject in subjects:
            assert subject.procedure is not None
            one = auc(subject.numbers(task.forget, "signal"), subject.numbers(task.holdout, "signal"))
            each = auc(*ratios(subject, pool, pool.unlearned(subject.procedure, shadows)))
            for attack, value in (("population", one), ("U-LiRA", each)):
                rows.setdefault(subject.name, {}).setdefault(attack, []).append(value)
    print(f"\n{'':<14} {'population AUC':>16} {'U-LiRA AUC':>16}    mean ± sd over {targets} targets, {shadows} shadows")
    means = {name: {attack: (float(np.mean(v)), float(np.std(v, ddof=1))) for attack, v in row.items()}
             for name, row in rows.items()}
    for name, row in means.items():
        print(f"{name:<14} " + " ".join(f"{mean:>9.3f} ± {sd:.3f}" for mean, sd in row.values()))
    good = (all(abs(means[name]["population"][0] - 0.5) <= 0.1 for name in ("nothing", "retrain"))
            and means["nothing"]["U-LiRA"][0] >= 0.8 and abs(means["retrain"]["U-LiRA"][0] - 0.5) <= 0.06
            and all(means[name]["U-LiRA"][0] > 0.7 for name in methods))
    return {"passed": good, "means": means}


KNOWN = {
    "TOFU: model utility of 8 published models": "maths/test_tofu_metrics.py::test_model_utility_of_published_models",
    "TOFU: forget quality of published models": "maths/test_tofu_metrics.py::test_forget_quality_of_published_models",
    "published tables: robustness, composites, nine-term utility": "maths/test_meta.py",
    "UDS by hand": "audits/test_uds.py::test_depth_golden",
    "LiRA equals the published formula": "audits/test_lira.py::test_online_equals_the_formula_of_the_paper_in_double_precision",
    "RMIA equals the matrix of all pairs": "audits/test_rmia.py::test_sorted_form_equals_the_matrix",
    "Clopper–Pearson equals scipy's": "maths/test_epsilon_bounds.py::test_clopper_pearson_is_that_of_scipy",
    "no attack proves more ε than its decisions allow":
        "maths/test_epsilon_bounds.py::test_no_attack_proves_more_than_its_number_of_decisions_allows",
    "posterior of ε of the published example": "maths/test_epsilon_bounds.py::test_posterior_of_the_published_example",
    "bounds on ε cover for randomised response": "maths/test_epsilon_bounds.py::test_coverage_on_randomised_response",
    "best of all thresholds is no bound, ours are":
        "maths/test_epsilon_bounds.py::test_best_of_all_thresholds_is_no_bound_and_ours_are",
    "null of both KLoM estimators": "audits/test_klom.py::test_null_of_both_estimators_shrinks_with_the_number_of_models",
    "a known KLoM": "audits/test_klom.py::test_a_known_divergence",
    "NeurIPS 2023 score at 512 models": "audits/test_neurips.py::test_known_answers_at_512",
    "AUS by hand": "audits/test_composites.py::test_aus_golden",
    "ZRF by its definition and as published": "audits/test_zrf.py::test_golden_scales",
    "Newton removal by hand": "maths/test_certified.py::test_hand_values_of_newton_removal",
    "intervals of attacks cover (400 simulated audits)": "maths/test_statistics.py::test_intervals_of_attacks_cover",
    "intervals of means and predictions cover":
        "maths/test_statistics.py::test_intervals_of_means_proportions_and_predictions_cover",
    "ROC intervals by hand": "maths/test_statistics.py::test_auc_interval_is_delongs_on_the_logit_scale",
}


def known_answers() -> dict[str, Any]:
    """Each is a test; it passes, fails, or is skipped with its reason (real data that are not here)."""
    here = Path(__file__).parent
    result: dict[str, Any] = {"passed": True, "answers": {}}
    print()
    for what, test in KNOWN.items():
        done = subprocess.run([sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-rs", "--no-header", str(here / test)],
                              capture_output=True, text=True, cwd=here.parent)
        last = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "")
        result["answers"][what] = last
        result["passed"] &= done.returncode == 0
        print(f"{'✓' if done.returncode == 0 else '✗'} {what}: {last.split(' in ')[0]}", flush=True)
    return result


POINTS: dict[str, Callable[[], dict[str, Any]]] = {
    "every fake is detected": lambda: fakes_are_caught(tuple(REQUESTS)),
    "fresh retrained models pass": lambda: retrained_models_pass(tuple(REQUESTS)),
    "one threshold sees nothing, U-LiRA does": one_threshold_sees_nothing,
    "known answers": known_answers,
}


def main() -> int:
    torch.set_num_threads(1)
    results = {}
    for name, point in POINTS.items():
        began = time.perf_counter()
        results[name] = point()
        print(f"\n{'✓' if results[name]['passed'] else '✗'} {name} ({time.perf_counter() - began:.0f} s)", flush=True)
    place = Path("runs") / "evidence.json"
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps(results, indent=1))
    short = [name for name, result in results.items() if not result["passed"]]
    print(f"\nFalls short: {'; '.join(short)}. Numbers: {place}" if short else f"\nAll points hold. Numbers: {place}")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())

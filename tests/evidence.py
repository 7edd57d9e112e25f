"""Runs what the audits claim of themselves, prints it, and ends with status 1 if a claim falls short.

    make evidence        1 every fake unlearner is detected by at least one audit at standard depth, and by which
                         2 which leaks are detected at which dose: parts of the forget set left in, copies of it, an imitation;
                          and that the dose which a report states is the one that models trained with it show
                           false yardsticks (copies, descendants of the original, the audited model) are refused
                        3 of 100 fresh retrained models on two data sets, for a class and for random examples, each held
                           against two yardsticks of 8, at least 95 % pass
                         4 the population attack sees nothing where U-LiRA distinguishes the untouched model from retraining
                         5 known answers: published numbers, closed forms, simulated coverage
                         6 forged certificates, signed and with every hash right, are refused, each with its line

Everything is trained on the spot on scikit-learn's digits and a synthetic table, so it needs no network and no data. `make test`
runs 1 with fewer models.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any
from xml.etree.ElementTree import Element, parse

import numpy as np
import torch
from fakes import FAKES, FALSE_YARDSTICKS, LEAKS, left_in

from lethe import api
from lethe.core.catalogue import entries
from lethe.core.evidence import OUTSIDE, Evidence
from lethe.core.registry import Audit
from lethe.core.split import Split
from lethe.core.task import Recipe, Task
from lethe.data.select import Where, divide, where
from lethe.judge.auditor import applicable, examine
from lethe.judge.conclusions import conclude
from lethe.judge.power import DOSES, OFTEN, Power, asked
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
FOLDER = "LETHE_EVIDENCE_MODELS"   # names the folder of trained models to other processes
ENOUGH = 0.95   # share of verdicts on fresh retrained models that must not be 'outside'


def digits(forget: Where, wrong: float, epochs: int = 60, seed: int = 0, model: str = "mlp", rows: int = 1000, **options: object
           ) -> Task:
    """So many digits to train on (an MLP 64-128-128-10), the others of 1797 as holdout, a share of all labels wrong."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pixels), generator=rng)
    x, y = torch.tensor(pixels, dtype=torch.float32).div(16).view(-1, 1, 8, 8)[order], torch.tensor(labels)[order]

    def fresh(number: int) -> torch.nn.Module:
        return build(model, **options)

    return problem(x, mislabelled(y, wrong, rng), forget, fresh, epochs, seed, rows)


def clusters(forget: Where, wrong: float, epochs: int = 60, seed: int = 0) -> Task:
    """1000 rows of 16 columns to train on (an MLP 16-64-64-8), 800 as holdout: 8 classes of two Gaussian clusters each."""
    rng = torch.Generator().manual_seed(1000 + seed)
    centres, cluster = torch.randn(16, 16, generator=rng), torch.randint(0, 16, (1800,), generator=rng)
    x = centres[cluster] + torch.randn(1800, 16, generator=rng)

    def fresh(number: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(),
                                   torch.nn.Linear(64, 8))

    return problem(x, mislabelled(cluster % 8, wrong, rng), forget, fresh, epochs, seed)


DATA: dict[str, Callable[[Where, float], Task]] = {"digits": digits, "clusters": clusters}


def mislabelled(y: torch.Tensor, share: float, rng: torch.Generator) -> torch.Tensor:
    """The labels, of which a share is another one."""
    classes, flipped = int(y.max()) + 1, torch.rand(len(y), generator=rng) < share
    wrong = y.clone()
    wrong[flipped] = (y[flipped] + torch.randint(1, classes, (int(flipped.sum()),), generator=rng)) % classes
    return wrong


def problem(x: torch.Tensor, y: torch.Tensor, forget: Where, fresh: Callable[[int], torch.nn.Module], epochs: int, seed: int,
            rows: int = 1000) -> Task:
    """The first rows to train on, the rest as holdout; the original is trained here."""
    train, holdout = Split({"x": x[:rows], "y": y[:rows]}, "train"), Split({"x": x[rows:], "y": y[rows:]}, "holdout")
    recipe = Recipe(epochs=epochs, lr=2e-3, batch_size=64, schedule="onecycle")
    whole = Classification(fresh(0), {"retain": train, "holdout": holdout}, recipe, fresh)
    original = train_pool(whole, count=1, seed=99 + seed, strategy="serial", cache=models_kept()).models[0]
    out, kept = divide(train, forget)
    return Classification(original, {"forget": out, "retain": kept, "holdout": holdout}, recipe, fresh)


@dataclass
class Bench:
    """One request with its yardstick, fresh retrained models, fakes and leaks, examined by every audit of standard depth."""

    kind: str
    task: Task
    found: dict[str, list[Evidence]]
    fresh: list[str]
    fakes: list[str]
    leaks: list[str]
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
def bench(kind: str, references: int = 16, fresh: int = 4, shadows: int = 16, epochs: int = 60, leaks: bool = True,
          files: tuple[str, ...] = ()) -> Bench:
    """Train, fake and examine, on the digits.

    files  fakes that are handed over as leaks are, as a file: how they were made is not told, so no shadow models are made so
    """
    began = time.perf_counter()
    forget, wrong, _ = REQUESTS[kind]
    task = digits(forget, wrong, epochs)
    models = retrained(task, references + fresh)
    chosen, skipped = standard(task, references, shadows)
    liars = [Subject(f.name, f.make(task, 1), task, procedure=None if f.name in files else f.procedure, kind=f.kind)
             for f in FAKES if kind in f.suits]
    leaking = [Subject(f.name, f.make(task, 1), task) for f in LEAKS if leaks]   # as a file that somebody hands over
    found = examine(task, [*models[references:], *liars, *leaking], Subject("original", task.original, task, procedure=NOTHING),
                    models[:references], chosen, shadows=shadow_models(task, shadows) if shadows else None)
    return Bench(kind, task, found, [m.name for m in models[references:]], [s.name for s in liars], [s.name for s in leaking],
                 [audit.name for audit, _ in chosen], time.perf_counter() - began, skipped)


def retrained(task: Task, count: int) -> list[Subject]:
    """Models that never saw the forget set."""
    pool = train_pool(task, count=count, seed=1, strategy="auto", cache=models_kept())
    return [Subject(f"retrained {i}", m, task, s, procedure=RETRAIN)
            for i, (m, s) in enumerate(zip(pool.models, pool.seconds, strict=True))]


def shadow_models(task: Task, count: int) -> Shadows:
    """Shadow models of this task, kept with the others."""
    return Shadows(task, count, cache=models_kept())


@cache
def models_kept() -> Path:
    """A folder in which every model is kept until the end, so that no point trains what another one, in whatever process, has."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = mkdtemp(prefix="lethe-evidence-")
        atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
    return Path(os.environ[FOLDER])


def standard(task: Task, references: int, shadows: int) -> tuple[list[tuple[Audit, Any]], dict[str, str]]:
    """The audits of standard depth, and why others cannot run."""
    every = [audit_of(name) for name in entries("audits")]
    why = {audit.name: applicable(audit, task, references, "standard", shadows) for audit, _ in every}
    return [(audit, cfg) for audit, cfg in every if not why[audit.name]], {name: text for name, text in why.items() if text}


@dataclass
class Alarms:
    """Fresh retrained models held against two yardsticks: how many were called outside, and by what."""

    problem: str
    outside: int
    of: int
    models: int
    by: list[str]
    powerless: bool


def alarms(data: str, kind: str, fresh: int = 25, references: int = 8, shadows: int = 16) -> Alarms:
    """Two yardsticks of `references` models for one request on one data set, and the same fresh models beside both."""
    forget, wrong, words = REQUESTS[kind]
    task = DATA[data](forget, wrong)
    models, pool = retrained(task, 2 * references + fresh), shadow_models(task, shadows) if shadows else None
    chosen, _ = standard(task, references, shadows)
    original, by, outside, powerless = Subject("original", task.original, task, procedure=NOTHING), [], 0, False
    shared: dict[Hashable, Any] = {}   # what does not depend on the yardstick is measured once
    for yardstick in range(2):
        beside = models[yardstick * references:][:references]
        found = examine(task, models[2 * references:], original, beside, chosen, shadows=pool, shared=shared)
        powerless |= conclude(found["original"]).verdict != OUTSIDE
        for model in models[2 * references:]:
            outside += conclude(found[model.name]).verdict == OUTSIDE
            by += [f"yardstick {yardstick}, {model.name}: {e.audit} {e.metric} = {e.value:.3g}{e.side}, p {e.p_joint:.3g}"
                   for e in found[model.name] if e.verdict == OUTSIDE]
    return Alarms(f"{data}, {words}", outside, 2 * fresh, fresh, by, powerless)


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


def leaks_are_caught_or_stated(kinds: Sequence[str], **sizes: Any) -> dict[str, Any]:
    """Which leaks are detected, and by what; a missed one must stand in what some audit says that it cannot see."""
    blind = " ".join(audit_of(name)[0].blind for name in entries("audits"))
    stated = {leak.name: leak.blind in blind for leak in LEAKS}
    result: dict[str, Any] = {"passed": True, "by": {}}
    for kind in kinds:
        run = bench(kind, **sizes)
        print(f"\n{REQUESTS[kind][2]}")
        for leak in run.leaks:
            by = result["by"][f"{kind}: {leak}"] = run.caught(leak)
            named = next((e.detail["named"] for e in run.found[leak] if e.metric == "records_worst"), [])
            told = f"; {len(named)} records named" if named else ""
            how = f"detected by {', '.join(by)}" if by else f"missed{', as stated' if stated[leak] else ', and nowhere stated'}"
            print(f"    {leak}: {how}{told}")
            result["passed"] &= bool(by) or stated[leak]
    return result


def false_yardsticks_are_refused(task: Task | None = None) -> dict[str, Any]:
    """References that descend from the original, copies, the audited model itself: each refused with its reason before any audit;
    independent trainings are not."""
    from fakes import over_forgetting, taught

    from lethe.errors import RequestError
    from lethe.work.origins import Given, vet

    task = task or digits(*REQUESTS["random"][:2])
    result: dict[str, Any] = {"passed": True, "lines": {}}
    print()
    honest = [over_forgetting(task, 0), *(taught(task, task.retain, 500 + k) for k in range(3))]
    cases = [("independent trainings", honest, "")]
    cases += [(make.__name__.replace("_", " "), make(task), words) for make, words in FALSE_YARDSTICKS.items()]
    for name, (audited, *references), words in cases:
        given = [Given("original", "original", task.original), Given("audited", "unlearned", audited),
                 *(Given(f"retrained {k}", "retrained", model) for k, model in enumerate(references))]
        line = ""
        try:
            vet(task, given)
        except RequestError as error:
            line = str(error)
        good = words in line if words else not line
        result["lines"][name] = line
        result["passed"] &= good
        print(f"{'✓' if good else '✗'} {name}: {line or 'accepted'}"[:160])
    return result


@cache
def crew(workers: int = 2) -> ProcessPoolExecutor:
    """Processes that each work on a problem of its own, one thread each; started once for all points."""
    models_kept()   # they use the same
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,))


def stated_doses_are_true() -> dict[str, Any]:
    """Models trained with a part of the forget set left in are detected as often as the mixtures of answers say: no dose differs
    by more than chance allows (Fisher's exact test, doses and problems corrected)."""
    from scipy.stats import fisher_exact

    result: dict[str, Any] = {"passed": True, "doses": {}}
    for data, (smallest, rows) in zip(DATA, crew().map(dosed, DATA), strict=True):
        seen = "not even half is seen" if smallest is None else f"{smallest:.0%} is seen"
        print(f"\n{data}, {REQUESTS['random'][2]}: the report says that {seen} (in {OFTEN:.0%} of mixtures)")
        for share, detected, of, real, trained in rows:
            p = fisher_exact([[detected, of - detected], [real, trained - real]]).pvalue
            print(f"    {share:.0%} left in: {detected} of {of} mixtures, {real} of {trained} trained models")
            result["passed"] &= bool(p > 0.05 / (len(rows) * len(DATA)))
        result["doses"][data] = rows
    return result


def dosed(data: str, trained: int = 6, references: int = 8) -> tuple[float | None, list[tuple[float, int, int, int, int]]]:
    """(the smallest dose that is said to be seen; dose, mixtures detected, of, trained models detected, of)."""
    task = DATA[data](*REQUESTS["random"][:2])
    models, chosen = retrained(task, references), asked(standard(task, references, 0)[0])
    told: list[Power] = []
    leaks = {share: [Subject(f"{share:.0%} left in, {k}", left_in(share)(task, 100 + k), task) for k in range(trained)]
             for share in DOSES}
    found = examine(task, [model for row in leaks.values() for model in row],
                    Subject("original", task.original, task, procedure=NOTHING), models, chosen, detects=told.append)

    def real(share: float) -> int:
        return sum(any(e.verdict == OUTSIDE and e.tier == "forgetting" for e in found[m.name]) for m in leaks[share])

    return told[0].smallest, [(d.share, d.detected, d.of, real(d.share), trained) for d in told[0].doses]


def retrained_models_pass(**sizes: Any) -> dict[str, Any]:
    """False alarms on both data sets for both requests."""
    problems = [(data, kind) for data in DATA for kind in REQUESTS]
    found = [job.result() for job in [crew().submit(alarms, data, kind, **sizes) for data, kind in problems]]
    for one in found:
        print(f"\n{one.problem}: {one.outside} of {one.of} called outside", *one.by, sep="\n    ")
    outside, count = sum(one.outside for one in found), sum(one.of for one in found)
    low, high = clopper_pearson(outside, count)
    print(f"\nfalse alarms: {outside} of {count} ({outside / count:.1%}; {low:.1%} to {high:.1%} if they were independent), "
          f"{sum(one.models for one in found)} fresh retrained models, each beside two yardsticks of 8")
    powerless = [one.problem for one in found if one.powerless]
    if powerless:
        print(f"no power: {'; '.join(powerless)}")
    return {"passed": outside <= (1 - ENOUGH) * count and not powerless, "rate": outside / count, "low": low, "high": high,
            "of": count, "problems": {one.problem: one.outside for one in found}}


def one_threshold_sees_nothing(targets: int = 5, shadows: int = 64) -> dict[str, Any]:
    """Mean AUC over targets of the population attack and of U-LiRA: untouched, cheap methods, retraining."""
    methods = ("finetune", "random_label", "neggrad_plus")
    every = list(crew().map(attacked, range(targets), [shadows] * targets, [methods] * targets))
    rows: dict[str, dict[str, list[float]]] = {}
    for found in every:
        for (name, attack), value in found.items():
            rows.setdefault(name, {}).setdefault(attack, []).append(value)
    print(f"\n{'':<14} {'population AUC':>16} {'U-LiRA AUC':>16}    mean ± sd over {targets} targets, {shadows} shadows")
    means = {name: {attack: (float(np.mean(v)), float(np.std(v, ddof=1))) for attack, v in row.items()}
             for name, row in rows.items()}
    for name, row in means.items():
        print(f"{name:<14} " + " ".join(f"{mean:>9.3f} ± {sd:.3f}" for mean, sd in row.values()))
    good = (all(abs(means[name]["population"][0] - 0.5) <= 0.1 for name in ("nothing", "retrain"))
            and means["nothing"]["U-LiRA"][0] >= 0.8 and abs(means["retrain"]["U-LiRA"][0] - 0.5) <= 0.06
            and all(means[name]["U-LiRA"][0] > 0.7 for name in methods))
    return {"passed": good, "means": means}


def attacked(target: int, shadows: int, methods: Sequence[str]) -> dict[tuple[str, str], float]:
    """(model, attack) -> its AUC on one draw of forget set, data and models."""
    from lethe.audits.membership.ulira import ratios

    task = digits(where(count=60, seed=target), 0.15, seed=target, rows=500)
    pool = Shadows(task, shadows, target)
    subjects = [Subject("nothing", task.original, task, procedure=NOTHING),
                Subject("retrain", train_one(task, task.retain, 7 + target)[1], task, procedure=RETRAIN)]
    for name in methods:
        made = api.forget(task, name, progress=False)
        subjects.append(Subject(name, made.model, task, procedure=repeated(*method_of(name), Settings())))
    found: dict[tuple[str, str], float] = {}
    for subject in subjects:
        assert subject.procedure is not None
        found[subject.name, "population"] = auc(subject.numbers(task.forget, "signal"), subject.numbers(task.holdout, "signal"))
        found[subject.name, "U-LiRA"] = auc(*ratios(subject, pool, pool.unlearned(subject.procedure, shadows)))
    return found


KNOWN = {
    "TOFU: model utility of 8 published models": "maths/test_tofu_metrics.py::test_model_utility_of_published_models",
    "TOFU: forget quality of published models": "maths/test_tofu_metrics.py::test_forget_quality_of_published_models",
    "published tables: robustness, composites, nine-term utility": "maths/test_meta.py",
    "positions by hand": "audits/test_position.py::test_positions_by_hand",
    "intervals of positions cover (400 simulated models)": "audits/test_position.py::test_the_interval_covers",
    "answers silenced behind the thinking are found by it": "audits/test_traces.py::test_controls",
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
    "noise of certified fine-tuning: the two hardest runs, by integration":
        "maths/test_noisy.py::test_it_equals_the_end_of_the_two_runs_that_are_hardest_to_tell_apart",
    "noise of certified fine-tuning: the paper's is enough":
        "maths/test_noisy.py::test_the_papers_noise_is_enough_and_renyi_divergence_asks_for_more",
    "ROC intervals by hand": "maths/test_statistics.py::test_auc_interval_is_delongs_on_the_logit_scale",
}


def known_answers() -> dict[str, Any]:
    """Each is a test; it passes, fails, or is skipped with its reason (real data that are not here)."""
    result: dict[str, Any] = {"passed": True, "answers": {}}
    print()
    cases = tested([*KNOWN.values()])
    for what, test in KNOWN.items():
        file, _, name = test.partition("::")
        mine = [one for one in cases if one.get("classname", "").endswith(file.removesuffix(".py").replace("/", "."))
                and name in ("", one.get("name", "").split("[")[0])]
        said = Counter(one[0].tag if len(one) else "passed" for one in mine)   # else: skipped, failure, error
        reason = next((f" ({one[0].get('message')})" for one in mine if len(one)), "")
        good = bool(mine) and not said["failure"] + said["error"]
        line = ", ".join(f"{count} {how}" for how, count in said.items()) + reason or "did not run"
        result["answers"][what] = line
        result["passed"] &= good
        print(f"{'✓' if good else '✗'} {what}: {line}"[:200])
    return result


def tested(tests: Sequence[str]) -> list[Element]:
    """The test cases of one run of pytest, as it writes them for other programs."""
    here = Path(__file__).parent
    with TemporaryDirectory() as place:
        written = Path(place) / "cases.xml"
        done = subprocess.run([sys.executable, "-m", "pytest", "-o", "addopts=", "-q", f"--junitxml={written}",
                               *(str(here / test) for test in tests)], capture_output=True, text=True, cwd=here.parent)
        if not written.exists():
            print(done.stdout[-2000:], done.stderr[-2000:])
            return []
        return list(parse(written).iter("testcase"))


def forged_certificates_are_refused() -> dict[str, Any]:
    """Every forgery of a certificate that was issued; and that one itself, and all older ones, hold."""
    from forgeries import FORGERIES, OF_A_THEOREM, OF_CLIPPED_MODELS, forged

    from lethe.certificate.verify import FAILED, check

    issued = sorted((Path(__file__).parent / "certificate" / "issued").iterdir())
    folder = {place.name: place for place in issued}
    cases = ((issued[-1], FORGERIES), (folder["certified"], OF_A_THEOREM), (folder["clipped"], OF_CLIPPED_MODELS))
    result: dict[str, Any] = {"passed": True, "lines": {}}
    print()
    for bundle, change, (part, words) in [(place, change, line) for place, each in cases for change, line in each.items()]:
        with TemporaryDirectory() as place:
            found = check(forged(bundle, Path(place) / "forged", change))
        line = next((one.text for one in found if (one.part, one.state) == (part, FAILED) and words in one.text), None)
        result["lines"][f"{bundle.name}: {change.__name__}"] = line
        result["passed"] &= line is not None
        print(f"{'✓' if line else '✗'} {bundle.name}: {change.__name__.replace('_', ' ')}: {part}: {line or 'not refused'}"[:200])
    for old in issued:
        good = not [one for one in check(old) if one.state == FAILED]
        result["passed"] &= good
        print(f"{'✓' if good else '✗'} {old.name}, as it was issued, holds")
    return result


POINTS: dict[str, Callable[[], dict[str, Any]]] = {
    "every fake is detected": lambda: fakes_are_caught(tuple(REQUESTS)),
    "leaks are detected, or stated as not seen": lambda: leaks_are_caught_or_stated(tuple(REQUESTS)),
    "false yardsticks are refused": false_yardsticks_are_refused,
    "the stated dose is the one that is seen": stated_doses_are_true,
    "fresh retrained models pass": retrained_models_pass,
    "one threshold sees nothing, U-LiRA does": one_threshold_sees_nothing,
    "known answers": known_answers,
    "forged certificates are refused": forged_certificates_are_refused,
}


def main() -> int:
    torch.set_num_threads(1)
    results = {}
    for name, point in POINTS.items():
        began = time.perf_counter()
        results[name] = point()
        print(f"\n{'✓' if results[name]['passed'] else '✗'} {name} ({time.perf_counter() - began:.0f} s)", flush=True)
    crew().shutdown()
    spent = sum(one.ru_utime + one.ru_stime for one in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))
    print(f"\n{spent / 60:.1f} min of the processor")
    place = Path("runs") / "evidence.json"
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps(results, indent=1))
    short = [name for name, result in results.items() if not result["passed"]]
    print(f"\nFalls short: {'; '.join(short)}. Numbers: {place}" if short else f"\nAll points hold. Numbers: {place}")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())

"""A ladder: the cheapest methods first, judged on data that the result is not judged on, until a model is as requested."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_world import build

from lethe.bench.suite import read as read_suite
from lethe.core import catalogue
from lethe.core.families.classification import ClassificationTask
from lethe.core.families.regression import RegressionTask
from lethe.core.outcome import Cost
from lethe.errors import LetheError
from lethe.judge import auditor
from lethe.report.answer import answer
from lethe.report.ladder import told
from lethe.report.view import cases
from lethe.results.ladder import Ended, Ladder
from lethe.results.ladder import Rung as Step
from lethe.results.measured import Measured, Number, write
from lethe.results.measured import read as read_measured
from lethe.results.odds import Odds, odds
from lethe.results.schema import Results, Scenario
from lethe.train.settings import Settings
from lethe.work.audit import scenario
from lethe.work.climb import limited, unmet
from lethe.work.execute import carry_out, dry_run
from lethe.work.job import Run
from lethe.work.ladder import Rung, affordable
from lethe.work.options import Options
from lethe.work.request import read

CLASS = {"model": {"zoo": "mlp", "options": {"inputs": 4, "hidden": [16], "classes": 3}}, "forget": {"label": 2},
         "data": {"path": "people.npz", "holdout": 0.25, "test": "unseen.npz"},
         "recipe": {"epochs": 20, "lr": 0.02, "batch_size": 16},
         "audit": {"depth": "quick", "references": 6, "shadows": 0, "audits": ["scores"], "max_loss": 0.2}}


def climbed(folder: Path, *asked: str, page: bool = False, **changes: Any) -> tuple[Ladder, Any, Path]:
    """The ladder of a request in the small world, its scenario, and the folder of the run."""
    request = read(build(folder, output=str(folder / "runs"), **{**CLASS, **changes}), asked)
    report = carry_out(request, Options(export=True, page=page))
    assert report is not None
    case = report.results.scenarios[0]
    assert case.ladder is not None
    return case.ladder, case, folder / "runs" / report.results.id


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A house of five methods: that of all takes longer to rehearse."""
    monkeypatch.setattr("lethe.work.ladder.alone", lambda task: ["delete", "finetune", "renew", "retrain", "ssd"])


@pytest.mark.usefixtures("few")
def test_a_ladder_ends_with_a_model_that_is_as_requested(tmp_path: Path) -> None:
    ends_well(tmp_path, "forgotten", page=False)


@pytest.mark.slow
@pytest.mark.parametrize("until", ["forgotten", "indistinguishable"])
def test_a_ladder_of_all_methods_ends_with_a_model_that_is_as_requested(tmp_path: Path, until: str) -> None:
    run = ends_well(tmp_path, until, page=True)
    assert "The ladder: until" in (run / "report.html").read_text()


def ends_well(tmp_path: Path, until: str, page: bool) -> Path:
    """Cheapest first; what was tried was paid for; what passed is delivered, and judged on the other half."""
    found, case, run = climbed(tmp_path, f"until={until}", "within=1.3", page=page)
    tried = [rung for rung in found.rungs if rung.cost is not None]
    assert [rung.expected for rung in found.rungs] == sorted(rung.expected or 0 for rung in found.rungs)
    assert found.rungs[-1].method == "retrain" and found.rungs[-1].expected == 1
    assert [rung.ended == "reached" for rung in tried] == [False] * (len(tried) - 1) + [True]
    assert found.spent == pytest.approx(sum(rung.cost or 0 for rung in tried)) and 0 < found.spent <= 1.3
    assert found.met and found.delivered == tried[-1].row and found.steps == 60
    assert [path.name for path in (run / "models").rglob("*") if path.is_dir()] == [found.delivered]
    assert case.sizes["forget"] == 12 and case.sizes["holdout"] < 23 and "test" in case.sizes   # of 24 and of 23
    assert {row.name for row in case.subjects if row.role == "method"} == {rung.row for rung in tried}
    assert json.loads((run / "results.json").read_text())["scenarios"][0]["ladder"]["met"] is True
    return run


@pytest.mark.usefixtures("few")
def test_a_model_that_the_final_audit_refutes_ends_no_climb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What passed where the search looked is refuted by the rest of the data: the climb goes on to retraining, and says so."""
    def refuting(*given: Any, **named: Any) -> Scenario:
        case = scenario(*given, **named)
        return case.model_copy(update={"subjects": tuple(
            row.model_copy(update={"answers": row.answers.model_copy(update={"forgotten": row.answers.forgotten.model_copy(
                update={"answer": "no"})})}) if row.role == "method" and row.method != "retrain" and row.answers else row
            for row in case.subjects)})

    asked: Counter[tuple[str, Any]] = Counter()

    def counted(audit: Any, cfg: Any, subject: Any, panel: Any, ask: Any = auditor._asked) -> Any:
        asked[audit.name, subject] += 1
        return ask(audit, cfg, subject, panel)

    monkeypatch.setattr("lethe.work.execute.scenario", refuting)
    monkeypatch.setattr(auditor, "_asked", counted)
    found, case, _ = climbed(tmp_path, "until=forgotten", "within=2")
    assert set(asked.values()) == {1}   # a model that comes later costs its own audits alone
    refuted = [rung for rung in found.rungs if rung.ended == "refuted"]
    assert refuted and all(rung.forgotten == "yes" and rung.why.startswith("forgotten: no") for rung in refuted)
    assert found.met and found.delivered == "retrain" and found.looks == len(refuted) + 1
    assert {row.name for row in case.subjects if row.role == "method"} == {rung.row for rung in found.rungs}
    assert f"judged {found.looks} models in turn and refuted {refuted[0].row}" in told(found, 6)
    found, _, run = climbed(tmp_path, "until=forgotten", "within=0.9")
    assert not found.met and found.why.count("not on data that it did not see") == 1 and not (run / "models").exists()


def test_what_is_left_of_the_budget_limits_a_run() -> None:
    """A third of 60 steps on 900 examples, and no more than the request allows itself."""
    limits = [limited(Settings(max_steps=own), 1 / 3, Cost(steps=60, examples=900)) for own in (None, 7, 50)]
    assert [(one.max_steps, one.max_examples) for one in limits] == [(20, 300), (7, 300), (20, 300)]


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_a_run_ends_where_the_rest_of_the_budget_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that takes ten times what its rehearsal foretold does not get them: the search stays within what was allowed."""
    monkeypatch.setattr("lethe.work.ladder.rehearsed", lambda task, record, *rest: Cost(steps=60, examples=900) if record.name ==
                        "retrain" else Cost(steps=6, examples=90))
    found, _, _ = climbed(tmp_path, "until=indistinguishable", "within=0.2")
    tried = [rung for rung in found.rungs if rung.cost is not None]
    assert tried and found.spent is not None and 0 < found.spent <= 0.2 and {rung.expected for rung in tried} == {0.1}


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_usefulness_is_claimed_only_where_the_unseen_data_show_it(tmp_path: Path) -> None:
    """Of a hundredth of a point no 23 examples can tell: a retrained model does not show it either, so it is not asked."""
    found, case, _ = climbed(tmp_path, "until=forgotten", "within=1.3", audit={**CLASS["audit"], "max_loss": 0.0001})
    row = next(row for row in case.subjects if row.name == found.delivered)
    assert found.met and row.answers.useful.answer != "yes"
    words = answer(cases(Results.model_construct(scenarios=(case,)))[0]).sentences[0]
    assert "forgotten and useful" not in words and "Whether it is useful was not asked" in words


@pytest.mark.parametrize(("ended", "why", "original", "words"), [
    ("not tried", "no test can tell: nothing to find", "no", "nothing to find; the others do show them, so"),
    ("not tried", "no test can tell: nothing to find", "cannot be judged", "no test can tell: nothing to find. Retraining"),
    ("failed", "it fell", "no", "a retraining: a gave no model: it fell. Retraining"),
    ("not reached", "useful: no", "no", "a retraining: a is not: useful: no. Retraining"),
])
def test_what_is_not_met_is_said_of_a_method_or_of_the_data(ended: Ended, why: str, original: str, words: str) -> None:
    answers: Any = SimpleNamespace(forgotten=SimpleNamespace(answer=original))
    case: Any = SimpleNamespace(subjects=[SimpleNamespace(role="original", answers=answers)],
                                references=SimpleNamespace(seconds_each=None))
    rung = Step(row="a", method="a", expected=0.1, chance=0.5, ended=ended, why=why)
    assert words in unmet(Ladder(until="forgotten", within=0.3, rungs=(rung,), steps=1, examples=1), case)


@pytest.mark.usefixtures("few")
def test_where_nothing_can_be_found_a_ladder_says_so_and_what_retraining_costs(tmp_path: Path) -> None:
    """Four records of ninety that the model has not learned by heart: no test detects them, so only retraining is sure."""
    found, case, run = climbed(tmp_path, "until=forgotten", "within=0.5", forget={"index": [0, 3, 6, 9, 12, 15]})
    assert not found.met and not found.delivered and found.spent == 0 and not (run / "models").exists()
    assert "nothing to find" in found.why and "--within 1.00 ends with it" in found.why
    assert [row.role for row in case.subjects] == ["original", "retrained"]
    assert climbed(tmp_path, "until=forgotten", "within=1", forget={"index": [0, 3, 6, 9, 12, 15]})[0].delivered == "retrain"


@pytest.mark.parametrize(("changes", "asked", "words"), [
    ({"recipe": None, "model": {"code": "net.py:make", "weights": "w.safetensors"}, "data": {"path": "people.npz"}},
     ["until=forgotten"], "has no recipe"),
    ({}, ["until=forgotten", "audit.references=2"], "fewer than 3"),
    ({}, ["until=forgotten", "within=0.001"], "The cheapest is"),
    ({}, ["until=gone"], "until"),
    ({}, ["until=forgotten", "within=-1"], "within"),
])
@pytest.mark.usefixtures("few")
def test_what_a_ladder_cannot_do_is_said_before_anything_is_trained(tmp_path: Path, changes: dict[str, Any], asked: list[str],
                                                                    words: str) -> None:
    with pytest.raises(LetheError, match=words):
        carry_out(read(build(tmp_path, output=str(tmp_path / "runs"), **{**CLASS, **changes}), asked), Options())
    assert not list((tmp_path / "runs").rglob("*.safetensors")) and not list((tmp_path / "runs").rglob("*.json"))


@pytest.mark.parametrize("asked", ["audit.references=2", "settings.distribution=ddp"])
def test_what_the_request_tells_is_said_before_data_are_read(tmp_path: Path, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lethe.work.open.Context", None)   # nothing is opened
    with pytest.raises(LetheError, match="nothing was started"):
        dry_run(read(build(tmp_path, output=str(tmp_path / "runs"), **CLASS), ["until=forgotten", asked]), Options())


@pytest.mark.usefixtures("few")
def test_what_cannot_be_rehearsed_is_named_where_nothing_else_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_retraining(task: Any, record: Any, *rest: Any) -> Cost:
        if record.name != "retrain":
            raise LetheError("it draws nothing yet, so nothing was started.")
        return Cost(steps=60, examples=900)

    monkeypatch.setattr("lethe.work.ladder.rehearsed", only_retraining)
    with pytest.raises(LetheError, match=r"The cheapest is retrain.* renew fits, but .*\(it draws nothing yet\).*method=renew"):
        dry_run(read(build(tmp_path, output=str(tmp_path / "runs"), **CLASS), ["until=forgotten"]), Options())


@pytest.mark.usefixtures("few")
def test_a_dry_run_shows_the_ladder_that_would_be_climbed(tmp_path: Path) -> None:
    request = read(build(tmp_path, output=str(tmp_path / "runs"), **CLASS), ["until=forgotten", "within=0.4"])
    shown = dry_run(request, Options())["scenarios"]["request"]
    assert shown["ladder"] and sum(rung["cost"] for rung in shown["ladder"].values()) <= 0.4
    assert shown["beyond the budget"] == "retrain, at 1" and shown["one retraining"].startswith("60 steps")


@pytest.mark.usefixtures("few")
def test_what_trains_by_a_share_of_the_recipe_is_rehearsed_on_all_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 30 examples 0.3 of a retraining would be rounded up to a third, beyond a budget that it fits into."""
    request = read(build(tmp_path, output=str(tmp_path / "runs"), **CLASS), ["until=forgotten", "within=0.35"])
    costs = []
    for limit in (2000, 50):
        monkeypatch.setattr("lethe.train.rehearsal.LIMIT", limit)
        costs.append(dry_run(request, Options())["scenarios"]["request"]["ladder"]["renew"]["cost"])
    assert costs[0] == costs[1] <= 0.3


def rung(name: str, cost: float, passed: float, runs: int) -> Rung:
    record = catalogue.load("methods", name)
    return Rung(Run(record, record.config(), name, name, 1, 0), cost, Odds(passed, runs), name == "retrain")


def test_the_rungs_are_the_affordable_set_that_is_likeliest_to_hold_one_that_passes() -> None:
    """Against all sets. One of a mechanism that another has counts for half."""
    rungs = [rung("ssd", 0.02, 1, 6), rung("delete", 0.07, 2, 6), rung("scrub", 0.2, 4, 6), rung("renew", 0.28, 5, 6),
             rung("salun", 0.1, 1, 6), rung("retrain", 1.0, 0, 0)]
    for within in (0.01, 0.1, 0.29, 0.3, 0.36, 0.5, 1.0, 1.1, 3.0):
        def worth(some: tuple[Rung, ...]) -> float:
            return sum(one.worth / (2 if one.run.method == "scrub" else 1) for one in some)   # delete distils, too, and is first
        every = (some for size in range(7) for some in itertools.combinations(rungs, size))
        sets = [some for some in every if sum(one.cost for one in some) <= within + 1e-9]
        assert worth(tuple(affordable(rungs, within))) == pytest.approx(max(map(worth, sets)))
        assert sum(one.cost for one in affordable(rungs, within)) <= within + 1e-9
        assert (rungs[-1] in affordable(rungs, within)) == (within >= 1)


def test_odds_count_measured_runs_on_requests_like_this(tmp_path: Path) -> None:
    """Forgotten in 3 of 3, useful in 2 of 3, and one failed: 2 of 4. A class that leaves is unlike a few of its records."""
    def number(problem: str, metric: str, mean: float | None, retrained: float | None = None) -> Number:
        return Number(problem=problem, metric=metric, mean=mean, sd=None, seeds=3, failed=1, retrained=retrained, command="",
                      commit="")

    one = [number("a class", "forgotten", 1.0), number("a class", "useful", 2 / 3), number("a class", "indistinguishable", 1 / 3),
           number("a class", "forget_accuracy", 0.0, 0.0)]
    other = [*(replace_problem(item, "records") for item in one[:3]), number("records", "forget_accuracy", 0.7, 0.8)]
    write(Measured(schema=1, name="m", numbers=(*one, *other)), tmp_path)
    assert odds("m", "forgotten", "classification", "accuracy", True, tmp_path) == Odds(pytest.approx(2.0), 4, 2.2 / 6)
    assert odds("m", "indistinguishable", "multilabel", "accuracy", False, tmp_path) == Odds(pytest.approx(1.0), 4, 1.2 / 6)
    elsewhere = odds("m", "forgotten", "regression", "closeness", True, tmp_path)   # 4 of 8 of other kinds, 0.2 of 2 more
    assert elsewhere == Odds(0, 0, pytest.approx(0.42)) and elsewhere.chance == elsewhere.prior
    assert odds("unheard of", "forgotten", "classification", "accuracy", True, tmp_path).chance == pytest.approx(0.1)


@pytest.mark.parametrize("suite", ["renew", "strangers"])
def test_every_measured_problem_is_like_a_request_of_its_family(suite: str) -> None:
    """What a family calls its score need not be what the suites keep: the numbers of regressors went unread."""
    numbers = [number for number in read_measured("renew").numbers if number.metric == "forgotten"]
    for problem, request in read_suite(suite).problems(["seeds=[0]"]):
        runs = sum(one.seeds + one.failed for one in numbers if one.problem == f"{suite}: {problem}")
        score = {family.family: family.score_name for family in (ClassificationTask, RegressionTask)}[request.family]
        alike = [odds("renew", "forgotten", request.family, score, leaves).runs for leaves in (True, False)]
        assert max(alike) >= runs, f"{problem}: {runs} runs were measured, and requests like it count {max(alike)}"


def replace_problem(number: Number, problem: str) -> Number:
    return number.model_copy(update={"problem": problem})

"""The standing fault suite: every durable operation of run, compare and certify fails, or its process is killed there, once;
then the command is repeated, and everything is as if nothing had happened: same bits, whole ledger, nothing stray.

The default suite takes a few operations of each kind; `make test-slow` takes all of them.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import small_world
from forked import Ended, started
from injection import Injection, Kind

from lethe.certificate.verify import FAILED, check
from lethe.certificate.weights import weights_hash
from lethe.core import catalogue
from lethe.ledger import Ledger
from lethe.results.policy import load

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads /proc")
KINDS: tuple[Kind, ...] = ("kill", "fail", "full", "readonly")
VALUE = ("metric", "value", "low", "high", "verdict")
STRAY = ("work", "current.safetensors")
SHORT = 2   # operations of each kind in the default suite
AUDIT = {"depth": "quick", "references": 1, "shadows": 0, "audits": ["scores"], "strategy": "serial"}
CLASS: dict[str, Any] = {"forget": {"label": 2}, "data": {"path": "people.npz", "holdout": 0.25, "test": "unseen.npz"},
                         "recipe": {"epochs": 12, "lr": 0.03, "batch_size": 16},
                         "audit": {**AUDIT, "references": 3, "max_loss": 0.2}}
LADDER = "run request.yaml --until forgotten --within 1.4 --no-page"
CALIBRATE = "calibrate request.yaml --requests 5 --within 0.3 --output runs/policy.json"


def command(folder: Path, text: str, prepare: Callable[[], None] = lambda: None) -> Ended:
    return started(folder, *text.split(), prepare=prepare).ended()


@dataclass(frozen=True)
class World:
    """A folder in which a command can be carried out, how it is told that all is well, and the operations of the command."""

    folder: Path
    text: str
    state: Callable[[Path], Any]   # what must be the same as if nothing had happened; asserts that nothing is stray
    whole: Any
    operations: list[str]
    once: bool = False   # what it made is never overwritten: nothing is repeated where an operation that failed did no harm

    def fresh(self, place: Path) -> Path:
        shutil.copytree(self.folder, place)
        return place

    def disturbed(self, place: Path, kind: Kind, at: int) -> None:
        """The command with an injection, then again without."""
        self.fresh(place)
        what = f"{kind} at operation {at} of {self.text}: {self.operations[at]}"
        first = command(place, self.text, lambda: Injection(place / "runs", kind, at).install())
        assert "Traceback" not in first.said, f"{what}\n{first.said}"
        assert first.status == -signal.SIGKILL if kind == "kill" else first.status in (0, 2), f"{what}: {first}"
        again = command(place, self.text) if first.status or not self.once else first
        assert again.status == 0, f"{what}, repeated: {again.said}"
        assert self.state(place) == self.whole, f"{what}, repeated"
        shutil.rmtree(place)


@cache
def imported() -> None:
    """What these commands import besides, once for all forks."""
    from lethe.work.job import resolve
    from lethe.work.options import Options
    from lethe.work.request import read

    with TemporaryDirectory() as place:
        resolve(read(small_world.build(Path(place))), Options())
    catalogue.load("methods", "random_label")


def world(tmp: Path, text: str, state: Callable[[Path], Any], before: str = "", cached: bool = False, **changes: Any) -> World:
    """cached: what the command keeps in its cache is there, as when it is interrupted near its end."""
    imported()
    small_world.build(tmp / "world", **{"model": {"zoo": "mlp", "options": {"inputs": 4, "hidden": [8], "classes": 3}},
                                        "audit": AUDIT, **changes})
    if before:
        assert command(tmp / "world", before).status == 0
    if cached:
        assert command(tmp / "world", text).status == 0
        for path in (tmp / "world" / "runs").iterdir():
            if path.name != ".cache":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(tmp / "world", tmp / "whole")
    log = tmp / "operations"
    done = command(tmp / "whole", text, lambda: Injection(tmp / "whole" / "runs", "count", log=log).install())
    assert done.status == 0, done.said
    return World(tmp / "world", text, state, state(tmp / "whole"), log.read_text().splitlines(), once=text.startswith("certify"))


def of_run(folder: Path) -> Any:
    """Weights and numbers of the only run in a folder. Asserts that the ledger is whole and nothing is left over."""
    runs = folder / "runs"
    ledger = Ledger(runs / "ledger.sqlite")
    assert ledger.verify() is None and not ledger.changed()
    finished = [entry for entry in ledger.runs() if entry["status"] == "finished"]
    assert len(finished) == 1, "the run is noted once"
    run = runs / finished[0]["id"]
    assert ledger.covers(run.name, run), "the entry has every file"
    assert {path.name for path in runs.iterdir()} - {".records.key"} == {".cache", "ledger.sqlite", run.name}
    assert not [path for path in runs.rglob("*") if path.suffix in (".tmp", ".lock") or path.name in STRAY]
    results = json.loads((run / "results.json").read_text())
    rows = [[row["name"], row["conclusion"], [[item[key] for key in VALUE] for item in row["evidence"]]]
            for case in results["scenarios"] for row in case["subjects"]]
    assert (run / "results.csv").exists()
    models = run / "models"
    return run.name, rows, (run / "report.html").exists(), weights_hash(models) if models.exists() else None


def of_certificate(folder: Path) -> Any:
    """Claims of the only certificate. Asserts that it verifies, is noted once, and that nothing is left over."""
    place = next(path for path in (folder / "runs" / "certificates").iterdir())
    assert [path.name for path in place.parent.iterdir()] == [place.name] and not list((folder / "runs").rglob("*.tmp"))
    ledger = Ledger(folder / "runs" / "ledger.sqlite")
    assert not [one for one in check(place, ledger=folder / "runs" / "ledger.sqlite") if one.state == FAILED]
    assert [entry["status"] for entry in ledger.runs()] == ["certified", "finished"] and not ledger.changed()
    return [claim["claimed"] for claim in json.loads((place / "certificate.json").read_text())["claims"]]


def of_ladder(folder: Path) -> Any:
    """The same of a run that climbed a ladder, and what it tried; times apart."""
    run = of_run(folder)
    ladder = json.loads((folder / "runs" / run[0] / "results.json").read_text())["scenarios"][0]["ladder"]
    rungs = [{key: value for key, value in rung.items() if key != "seconds"} for rung in ladder.pop("rungs")]
    return run, rungs, {key: value for key, value in ladder.items() if key != "judging_seconds"}


def of_policy(folder: Path) -> Any:
    """What the only policy says; times apart. Asserts that it is noted once, as it stands, and nothing is left over."""
    policy, ledger = load(folder / "runs" / "policy.json"), Ledger(folder / "runs" / "ledger.sqlite")
    assert ledger.verify() is None and [entry["id"] for entry in ledger.runs()] == [f"policy-{policy.id}"]
    assert not [path for path in (folder / "runs").rglob("*") if path.suffix in (".tmp", ".lock")]
    return policy.model_dump(exclude={"created"})


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A house of two methods."""
    monkeypatch.setattr("lethe.work.ladder.alone", lambda task: ["renew", "retrain"])


@pytest.mark.usefixtures("few")
def test_a_ladder_and_a_calibration_killed_near_their_ends(tmp_path: Path) -> None:
    """The ladder where its models are made and judged, the calibration between the policy and its entry in the ledger."""
    climb = world(tmp_path / "ladder", LADDER, of_ladder, **CLASS)
    last = max(at for at, line in enumerate(climb.operations) if line.startswith("replace") and "results.json" not in line)
    climb.disturbed(tmp_path / "climb", "kill", last)
    policy = world(tmp_path / "policy", CALIBRATE, of_policy, cached=True, **CLASS)
    policy.disturbed(tmp_path / "calibrate", "kill", len(policy.operations) - 1)


@pytest.mark.slow
@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("text", "state"), [(LADDER, of_ladder), (CALIBRATE, of_policy)], ids=["ladder", "calibration"])
def test_a_ladder_and_a_calibration_disturbed_anywhere(text: str, state: Callable[[Path], Any], kind: Kind, tmp_path: Path
                                                       ) -> None:
    whole = world(tmp_path, text, state, **CLASS)
    for at in list(every(len(whole.operations), kind))[::4]:
        whole.disturbed(tmp_path / str(at), kind, at)


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("run"), "run request.yaml", of_run)


@pytest.fixture(scope="module")
def a_certificate(a_run: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    text = f"certify runs/{a_run.whole[0]} --key runs/key.pem"
    return world(tmp_path_factory.mktemp("certified"), text, of_certificate, a_run.text)


def every(count: int, kind: Kind) -> range:
    """All numbers below `count` where one operation alone is disturbed. Where everything from it on fails, every third one: what
    was done before it is what was done before an operation that is killed."""
    return range(0, count, 1 if kind in ("kill", "fail") else 3)


def spread(count: int, kind: Kind) -> list[int]:
    """A few numbers below `count`, others for every kind."""
    return sorted({(KINDS.index(kind) + 1 + number * 4) * count // (SHORT * 4 + 1) for number in range(SHORT)})


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_disturbed_at_some_of_its_operations(a_run: World, kind: Kind, tmp_path: Path) -> None:
    assert len(a_run.operations) > 50 and a_run.whole[2], "a page was written"
    assert {line.split()[0] for line in a_run.operations} >= {"fsync", "replace", "rename", "mkdir", "unlink", "commit"}
    for at in spread(len(a_run.operations), kind):
        a_run.disturbed(tmp_path / str(at), kind, at)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_disturbed_at_any_of_its_operations(a_run: World, kind: Kind, tmp_path: Path) -> None:
    for at in every(len(a_run.operations), kind):
        a_run.disturbed(tmp_path / str(at), kind, at)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_comparison_disturbed_at_any_of_its_operations(kind: Kind, tmp_path: Path) -> None:
    compared = world(tmp_path, "compare request.yaml method=[finetune,random_label] --export --no-page", of_run)
    for at in every(len(compared.operations), kind):
        compared.disturbed(tmp_path / str(at), kind, at)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_repetition_disturbed_at_any_of_its_operations_keeps_a_whole_run(a_run: World, kind: Kind, tmp_path: Path) -> None:
    """--again: at every moment the folder holds a whole run, the old one or the new one."""
    done = a_run.fresh(tmp_path / "done")
    assert command(done, a_run.text).status == 0
    again = World(done, f"{a_run.text} --again", lambda folder: None, None, a_run.operations)
    for at in list(every(len(a_run.operations), kind))[::3]:
        place = again.fresh(tmp_path / str(at))
        command(place, again.text, lambda at=at, place=place: Injection(place / "runs", kind, at).install())
        assert command(place, a_run.text).status == 0
        ledger = Ledger(place / "runs" / "ledger.sqlite")
        assert ledger.verify() is None and not ledger.changed()
        assert {path.name for path in (place / "runs").iterdir()} - {f".{a_run.whole[0]}.unfinished", ".records.key"} == {
            ".cache", "ledger.sqlite", a_run.whole[0]}
        shutil.rmtree(place)


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_disturbed_at_some_of_its_operations(a_certificate: World, kind: Kind, tmp_path: Path) -> None:
    for at in spread(len(a_certificate.operations), kind):
        a_certificate.disturbed(tmp_path / str(at), kind, at)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_disturbed_at_any_of_its_operations(a_certificate: World, kind: Kind, tmp_path: Path) -> None:
    for at in every(len(a_certificate.operations), kind):
        a_certificate.disturbed(tmp_path / str(at), kind, at)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_on_one_run_at_once(a_run: World, count: int, tmp_path: Path) -> None:
    place = a_run.fresh(tmp_path / "shared")
    several = [started(place, *a_run.text.split()) for _ in range(count)]
    for one in [process.ended() for process in several]:
        assert one.status == 0, one.said
    assert a_run.state(place) == a_run.whole


def test_a_limit_of_file_sizes_is_an_error_and_the_repeated_command_completes(a_run: World, tmp_path: Path) -> None:
    place = a_run.fresh(tmp_path / "small")
    first = command(place, a_run.text, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY)))
    assert first.status == 2 and "Traceback" not in first.said, first.said
    assert command(place, a_run.text).status == 0 and a_run.state(place) == a_run.whole

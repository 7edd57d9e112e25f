"""A run is what its files contain: other contents behind the same paths are another run, the same contents elsewhere are the
same run; and a finished run stays until a new one is whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import small_world

from lethe.certificate.weights import weights_hash
from lethe.errors import DataError, LetheError, StorageError
from lethe.ledger import Ledger
from lethe.report.report import Report
from lethe.train.stop import Stop
from lethe.work.execute import carry_out
from lethe.work.job import resolve
from lethe.work.open import identified
from lethe.work.open import read as opened
from lethe.work.options import Options
from lethe.work.request import read
from lethe.work.saved import audit_saved

EXPORT = Options(export=True)


def carried(folder: Path, options: Options = EXPORT, *overrides: str) -> Report:
    report = carry_out(read(folder / "request.yaml", [f"output={folder / 'runs'}", *overrides]), options)
    assert report is not None
    return report


def named(folder: Path) -> str:
    """The name that a run of the request would have."""
    job = resolve(read(folder / "request.yaml"), Options())
    return identified(opened(job, Options()))[0].job.hash


def exported(folder: Path, report: Report) -> str:
    return weights_hash(folder / "runs" / report.results.id / "models" / "finetune")


def test_whatever_a_run_is_made_of_names_it(tmp_path: Path) -> None:
    small_world.build(tmp_path / "here")
    before = named(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    there = tmp_path / "there"
    assert named(there) == before, "the same contents elsewhere are the same run"
    seen = {before}
    for change in (lambda: small_world.weights(there, 1), lambda: small_world.data(there, 1),
                   lambda: (there / "net.py").write_text("from layers import act\n" + small_world.NET.format(act="ReLU")),
                   lambda: (there / "layers.py").write_text("act = 1\n"), lambda: (there / "layers.py").write_text("act = 2\n")):
        change()
        try:
            seen.add(named(there))
        except LetheError:   # net.py imports what is not there yet
            seen.add("broken")
    assert len(seen) == 6, "weights, data, code, and code that the code imports"


def test_other_weights_behind_the_same_path_are_another_run(tmp_path: Path) -> None:
    small_world.build(tmp_path)
    first = carried(tmp_path)
    assert carried(tmp_path).results == first.results, "repeated, the finished run is shown"
    small_world.weights(tmp_path, 1)
    second = carried(tmp_path)
    assert second.results.id != first.results.id and exported(tmp_path, second) != exported(tmp_path, first)
    run = tmp_path / "runs" / first.results.id
    with pytest.raises(DataError, match=r"model, model\.weights changed since"):
        audit_saved(read(run / "request.yaml"), Options(), None, "quick", run)
    ledger = Ledger(tmp_path / "runs" / "ledger.sqlite")
    assert not ledger.changed() and [entry["status"] for entry in ledger.runs()] == ["finished", "finished"]
    model = next(run.rglob("*.safetensors"))
    model.write_bytes(model.read_bytes()[:-4] + b"\0\0\0\0")
    small_world.weights(tmp_path, 0)
    with pytest.raises(StorageError, match="not what the ledger noted"):
        audit_saved(read(run / "request.yaml"), Options(), None, "quick", run)
    assert {path for paths in ledger.changed().values() for path in paths} == {"models/finetune/model.safetensors"}


def test_a_run_stopped_before_its_weights_were_replaced_is_not_continued(tmp_path: Path) -> None:
    """The delivered model is the one that a run on the new weights makes."""
    small_world.build(tmp_path / "whole"), small_world.build(tmp_path / "cut")
    small_world.weights(tmp_path / "whole", 1)
    stop = Stop()

    def listen(event: object) -> None:
        if "auditing" in str(event):   # the model is trained and saved, nothing is judged yet
            stop.set("cut")

    with pytest.raises(KeyboardInterrupt):
        carried(tmp_path / "cut", Options(export=True, listener=listen, stop=stop))
    small_world.weights(tmp_path / "cut", 1)
    whole, cut = carried(tmp_path / "whole"), carried(tmp_path / "cut")
    assert exported(tmp_path / "whole", whole) == exported(tmp_path / "cut", cut) and whole.results.id == cut.results.id


def test_again_keeps_the_finished_run_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_world.build(tmp_path)
    run = tmp_path / "runs" / carried(tmp_path).results.id
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr("lethe.work.execute.scenario", lambda *given, **more: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            carried(tmp_path, Options(export=True, again=True))
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    ledger = Ledger(tmp_path / "runs" / "ledger.sqlite")
    assert ledger.runs()[0]["status"] == "failed" and not ledger.changed()
    model = run / "models" / "finetune" / "model.safetensors"
    model.write_bytes(b"edited")
    assert list(ledger.changed().values()) == [["models/finetune/model.safetensors"]], "a failed repetition hides no change"
    assert carried(tmp_path, Options(export=True, again=True)).results.created and not ledger.changed()


def test_a_request_that_cannot_be_read_leaves_no_trace(tmp_path: Path) -> None:
    small_world.build(tmp_path)
    (tmp_path / "w.safetensors").write_bytes(b"x")
    with pytest.raises(LetheError):
        carried(tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_comparison_without_models_is_completed_by_a_run(tmp_path: Path) -> None:
    small_world.build(tmp_path)
    compared = carried(tmp_path, Options())
    assert not (tmp_path / "runs" / compared.results.id / "models").exists()
    assert exported(tmp_path, carried(tmp_path))


def test_what_lies_beside_the_request_is_meant_and_an_override_means_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_world.build(tmp_path / "a"), small_world.build(tmp_path / "b")
    monkeypatch.chdir(tmp_path / "b")
    asked = read(tmp_path / "a" / "request.yaml")
    assert asked.model == {"code": f"{tmp_path}/a/net.py:make", "weights": f"{tmp_path}/a/w.safetensors"}
    assert asked.data["path"] == f"{tmp_path}/a/people.npz"
    assert read(tmp_path / "a" / "request.yaml", ["data.path=people.npz"]).data["path"] == f"{tmp_path}/b/people.npz"


def test_the_ledger_finds_its_runs_from_anywhere_and_after_a_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_world.build(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "a")
    carry_out(read("request.yaml"), EXPORT)
    assert not Ledger("runs/ledger.sqlite").changed()
    monkeypatch.chdir(tmp_path)
    assert not Ledger("a/runs/ledger.sqlite").changed()
    shutil.move(tmp_path / "a", tmp_path / "moved")
    ledger = Ledger(tmp_path / "moved" / "runs" / "ledger.sqlite")
    assert not ledger.changed() and Path(ledger.runs()[0]["folder"]).parent == tmp_path / "moved" / "runs"


def test_a_damaged_file_of_the_cache_is_made_again(tmp_path: Path) -> None:
    small_world.build(tmp_path, model={"zoo": "mlp", "options": {"inputs": 4, "hidden": [8], "classes": 3}})
    first = carried(tmp_path)
    kept = next((tmp_path / "runs" / ".cache" / "original").glob("*.safetensors"))
    kept.write_bytes(kept.read_bytes()[:-9])
    again = carried(tmp_path, Options(export=True, again=True))
    assert again.results.scenarios[0].fingerprints == first.results.scenarios[0].fingerprints


def test_a_run_can_be_certified_when_its_data_are_deleted(tmp_path: Path) -> None:
    """The commitments are taken while the run has the data; records appear in them as keyed hashes alone."""
    from lethe.certificate.verify import FAILED, check
    from lethe.work.verify import certify

    small_world.build(tmp_path)
    run = tmp_path / "runs" / carried(tmp_path).results.id
    before = certify(run, tmp_path / "key.pem", tmp_path / "before").certificate
    for name in ("people.npz", "unseen.npz", "w.safetensors", "net.py"):
        (tmp_path / name).unlink()
    after = certify(run, tmp_path / "key.pem", tmp_path / "after").certificate
    assert before["data"] == after["data"] and before["models"] == after["models"]
    assert after["data"]["forgotten"]["count"] == 4
    assert not [one for one in check(tmp_path / "after", model=run / "models" / "finetune") if one.state == FAILED]
    assert (tmp_path / "runs" / ".records.key").stat().st_mode & 0o777 == 0o600

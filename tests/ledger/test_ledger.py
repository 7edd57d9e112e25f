"""The ledger: what is kept, that tampering shows, that writers wait for each other, that trouble is named."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from example_results import METHODS, results

from lethe.errors import DiskFull, OutOfRange, StorageError, UnknownName
from lethe.ledger import Ledger
from lethe.results.schema import read


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "deep" / "ledger.sqlite")


def other(data: dict, run: str, **changes: object) -> dict:
    return {**data, "id": run, **changes}


def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "models").mkdir(parents=True)
    (folder / "report.html").write_text("<p>")
    (folder / "models" / "weights.bin").write_bytes(b"\0" * 10)
    (folder / ".report.html.tmp").write_text("left over")
    return folder


def tamper(ledger: Ledger, *statements: str) -> None:
    """Change the file behind the ledger's back, triggers removed."""
    connection = sqlite3.connect(ledger.store.where)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_run_comes_back_as_it_was_recorded(ledger: Ledger, tmp_path: Path) -> None:
    data = results()
    number = ledger.record(read(data), run_folder(tmp_path))
    entry = ledger.run(number)
    assert (entry["id"], entry["status"], entry["title"]) == (data["id"], "finished", data["title"])
    assert [s["name"] for s in entry["subjects"]][:3] == ["original", "retrained", "finetune"]
    assert entry["subjects"][2]["cost"] == data["scenarios"][0]["subjects"][2]["cost"]
    # SHA-256 of ten zero bytes and of the three bytes '<p>', by sha256sum
    assert {a["path"]: (a["sha256"][:12], a["bytes"]) for a in entry["artefacts"]} == {
        "models/weights.bin": ("01d448afd928", 10),
        "report.html": ("33f279946717", 3),
    }
    values = ledger.evidence(data["id"][:6])
    first = data["scenarios"][0]["subjects"][0]["evidence"][0]
    assert values[0]["value"] == first["value"] and values[0]["yardstick_low"] == first["yardstick"]["low"]
    assert len(values) == sum(len(s["evidence"]) for c in data["scenarios"] for s in c["subjects"])
    assert ledger.finished(data["id"]) and not ledger.finished("ffff")
    assert ledger.verify() is None


def test_changed_files_are_named(ledger: Ledger, tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    number = ledger.record(read(results()), folder)
    assert ledger.changed_artefacts(number) == []
    (folder / "report.html").write_text("<q>")
    (folder / "models" / "weights.bin").unlink()
    assert ledger.changed_artefacts(number) == ["models/weights.bin", "report.html"]


def test_no_record_content_is_stored(ledger: Ledger) -> None:
    data = results()
    data["command"] = "lethe run r.yaml forget.ids=[p-17,p-99]"
    data["config"]["forget"] = {"entity": "Jane Doe", "label": 3, "index": [41, 42]}
    ledger.record(read(data))
    ledger.record_failure("ff", data["config"], "lethe run 'Jane Doe'", "EmptySplit: no record of 'Jane Doe'")
    ledger.started("ee", "Forget Jane Doe", "lethe run", data["config"])
    kept = b"".join(path.read_bytes() for path in Path(ledger.store.where).parent.iterdir())
    everything = kept.decode("utf-8", "replace") + ledger.export("json") + ledger.export("csv")
    assert "lethe run r.yaml" in everything
    image = data["scenarios"][0]["subjects"][2]["samples"][0]["before"]
    for secret in ("Jane Doe", "p-17", "p-99", "Kuwait", image):
        assert secret not in everything
    config = json.loads(ledger.export("json"))[0]["config"]
    assert config["forget"] == {"entity": "[withheld]", "label": 3, "index": "[2 values withheld]"}


def test_the_ledger_refuses_changes(ledger: Ledger) -> None:
    ledger.record(read(results()))
    connection = sqlite3.connect(ledger.store.where)
    for statement in ("UPDATE runs SET title = 'x'", "DELETE FROM evidence", "DELETE FROM subjects WHERE place = 0"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "entry", "reason"),
    [
        ("UPDATE runs SET title = 'better' WHERE entry = 2", 2, "changed"),
        ("UPDATE evidence SET value = value + 1e-9 WHERE entry = 2 AND place = 5", 2, "changed"),
        ("UPDATE subjects SET verdict = 'inside' WHERE entry = 1 AND verdict = 'outside'", 1, "changed"),
        ("DELETE FROM evidence WHERE entry = 3 AND place = 40", 3, "changed"),
        ("DELETE FROM failures", 4, "changed"),
        ("UPDATE artefacts SET sha256 = 'x' WHERE entry = 1", 1, "changed"),
        ("DELETE FROM runs WHERE entry = 2", 2, "missing"),
        ("UPDATE runs SET entry = 9 WHERE entry = 4", 4, "missing"),
        ("INSERT INTO artefacts (path, entry, place) VALUES ('x', 7, 0)", 7, "does not exist"),
        ("UPDATE runs SET hash = 'x' WHERE entry = 3", 3, "changed"),
        ("UPDATE runs SET previous = 'x' WHERE entry = 3", 3, "does not follow"),
    ],
)
def test_tampering_is_found_at_its_place(
    ledger: Ledger, tmp_path: Path, statement: str, entry: int, reason: str
) -> None:
    data = results()
    ledger.record(read(data), run_folder(tmp_path))
    ledger.record(read(other(data, "b")))
    ledger.record(read(other(data, "c")))
    ledger.record_failure("d", {}, "lethe run d.yaml", "Diverged: NaN")
    assert ledger.verify() is None
    tamper(ledger, statement)
    broken = ledger.verify()
    assert broken is not None and (broken.entry, reason in broken.reason) == (entry, True)


def test_a_kept_head_shows_that_the_end_was_cut_or_made_anew(ledger: Ledger, tmp_path: Path) -> None:
    ledger.record_failure("a", {}, "lethe run a.yaml", "one")
    ledger.record_failure("b", {}, "lethe run b.yaml", "two")
    head = ledger.head()
    ledger.record_failure("c", {}, "lethe run c.yaml", "three")
    assert ledger.verify(head) is None
    tamper(ledger, "DELETE FROM failures WHERE entry > 1", "DELETE FROM runs WHERE entry > 1")
    assert ledger.verify() is None  # what a chain alone cannot see
    broken = ledger.verify(head)
    assert broken is not None and (broken.entry, "cut off" in broken.reason) == (2, True)
    anew = Ledger(tmp_path / "anew.sqlite")
    for run in "abc":
        anew.record_failure(run, {}, "lethe run", "other")
    assert anew.verify() is None
    broken = anew.verify(head)
    assert broken is not None and (broken.entry, "rewritten" in broken.reason) == (2, True)
    with pytest.raises(OutOfRange, match="number:hash"):
        ledger.verify("nonsense")


def test_failures_and_killed_runs_stay_visible(ledger: Ledger) -> None:
    ledger.started("killed", "Forget a class", "lethe run killed.yaml", {"seed": 1})
    ledger.started("failed", "Forget a class", "lethe run failed.yaml")
    ledger.record_failure("failed", {"seed": 2}, "lethe run failed.yaml", "Diverged: NaN at step 3")
    ledger.started("done", "Forget a class", "lethe run done.yaml")
    ledger.record(read(other(results(), "done")))
    listed = ledger.runs()
    assert [(r["id"], r["status"]) for r in listed] == [
        ("done", "finished"),
        ("failed", "failed"),
        ("killed", "started"),
    ]
    assert listed[1]["failure"] == {"error": "Diverged: NaN at step 3", "resume": "lethe run failed.yaml"}
    assert ledger.run("failed")["failures"][0]["resume"] == "lethe run failed.yaml"


def test_filters(ledger: Ledger) -> None:
    data = results()
    ledger.record(read(data))
    language = other(
        results(),
        "lm1",
        title="Forget an author 100%",
        scenarios=[
            {
                "name": "",
                "request": "forget 20 records",
                "family": "lm",
                "subjects": [
                    {
                        "name": "npo seed 4",
                        "label": "npo",
                        "method": "npo",
                        "seed": 4,
                        "role": "method",
                        "conclusion": {"verdict": "inside", "text": "."},
                        "evidence": [],
                    }
                ],
            }
        ],
    )
    ledger.record(read(language))
    ledger.record_failure("bad", {}, "lethe run bad.yaml", "NeedsUnmet: needs retain")

    def found(**filters: object) -> list[str]:
        return [r["id"] for r in ledger.runs(**filters)]  # type: ignore[arg-type]

    assert found() == ["bad", "lm1", data["id"]]
    assert found(method="npo") == ["lm1"] and found(method="salun") == [data["id"]] and found(method="original") == []
    assert found(family="lm") == ["lm1"] and found(family="diffusion") == []
    assert found(verdict="failed") == [data["id"]]  # bad_teacher
    assert found(method="npo", verdict="failed") == []  # of one and the same method
    assert found(method="finetune", verdict="inside") == []
    assert found(text="AUTHOR") == ["lm1"] and found(text="100%") == ["lm1"] and found(text="%%") == []
    assert [(one["id"], one["family"]) for one in ledger.listed()][:2] == [("bad", ""), ("lm1", "lm")]
    assert found(text="needs retain") == ["bad"]
    assert found(since="2020-01-01") == found() and found(since="2999-01-01T00:00:00+02:00") == []
    assert found(limit=1) == ["bad"]
    with pytest.raises(OutOfRange, match="yesterday"):
        ledger.runs(since="yesterday")
    with pytest.raises(UnknownName, match="did you mean lm1"):
        ledger.run("lm2")
    assert [m["name"] for m in ledger.runs(family="lm")[0]["methods"]] == ["npo seed 4"]


def test_an_ambiguous_beginning_is_an_error(ledger: Ledger) -> None:
    ledger.started("abc1")
    ledger.started("abc2")
    with pytest.raises(OutOfRange, match="2 runs"):
        ledger.run("abc")


def test_export(ledger: Ledger) -> None:
    data = results()
    data["title"] = "=HYPERLINK(1)"
    ledger.record(read(data))
    ledger.record_failure("bad", {}, "lethe run bad.yaml", "Diverged: NaN")
    whole = json.loads(ledger.export("json"))
    assert [e["id"] for e in whole] == [data["id"], "bad"]
    assert whole[0]["scenarios"][0]["sizes"]["forget"] == 120 and whole[1]["failures"][0]["error"] == "Diverged: NaN"
    lines = list(csv.DictReader(io.StringIO(ledger.export("csv"))))
    # 2 scenarios × (9 subjects with 9 metrics + 1 failed) + 1 failure
    assert len(lines) == 2 * (9 * 9 + 1) + 1
    assert lines[0]["title"] == "'=HYPERLINK(1)"  # no spreadsheet runs it
    assert float(lines[0]["value"]) == data["scenarios"][0]["subjects"][0]["evidence"][0]["value"]
    assert lines[-1]["error"] == "Diverged: NaN"
    assert sum(line["subject"] == "bad_teacher" and "NaN" in line["error"] for line in lines) == 2
    with pytest.raises(OutOfRange, match="xml"):
        ledger.export("xml")


def write_many(path: str, name: str, count: int) -> None:
    ledger = Ledger(path)
    for number in range(count):
        ledger.record_failure(f"{name}{number}", {}, "lethe run", "trouble")


def test_two_processes_write_one_chain(tmp_path: Path) -> None:
    path = str(tmp_path / "ledger.sqlite")  # not yet there: both also race to create it
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_many, args=(path, name, 25)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [w.exitcode for w in workers] == [0, 0]
    ledger = Ledger(path)
    assert len(ledger.runs()) == 50 and ledger.verify() is None


def test_a_killed_writer_leaves_no_half_entry(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.started("a")
    code = (
        "import os, sys; from lethe.ledger import Ledger; import lethe.ledger.ledger as m\n"
        f"l = Ledger({str(tmp_path / 'ledger.sqlite')!r})\n"
        "with l.store.writing() as c:\n"
        "    c.exec_driver_sql(\"INSERT INTO runs (entry, id, status, created, previous, hash) \"\n"
        "                      \"VALUES (2, 'x', 'x', 'x', 'x', 'x')\")\n"
        "    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 9
    ledger.started("b")
    assert [r["id"] for r in ledger.runs()] == ["b", "a"] and ledger.verify() is None


def test_a_full_disk_leaves_the_ledger_intact(ledger: Ledger) -> None:
    import sqlalchemy as sa

    ledger.record(read(results()))

    def small(connection: sqlite3.Connection, record: object) -> None:  # SQLite's own 'disk is full'
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")

    sa.event.listen(ledger.store.engine, "connect", small)
    with pytest.raises(DiskFull, match="all earlier ones are intact"):
        for _ in range(3):
            ledger.record(read(results()))
    sa.event.remove(ledger.store.engine, "connect", small)
    before = len(ledger.runs())
    assert ledger.verify() is None
    ledger.record(read(results()))
    assert len(ledger.runs()) == before + 1 and ledger.verify() is None


def test_what_is_no_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("This is certainly not a database. " * 100)
    with pytest.raises(StorageError, match="is not a ledger"):
        Ledger(text)
    assert text.read_text().startswith("This is certainly not")
    foreign = tmp_path / "shop.sqlite"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE customers (name TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(StorageError, match="something else"):
        Ledger(foreign)
    with pytest.raises(StorageError, match="cannot be opened"):
        Ledger(tmp_path)  # a folder
    with pytest.raises(StorageError, match="neither a path nor"):
        Ledger("nonsense://x")


def test_a_ledger_without_one_of_its_columns_is_refused_when_it_is_opened(ledger: Ledger) -> None:
    ledger.started("a")
    tamper(ledger, "ALTER TABLE runs DROP COLUMN created")
    with pytest.raises(StorageError, match=r"no column 'created' in its table 'runs'.*backup"):
        Ledger(ledger.store.where)


def test_a_ledger_of_a_newer_lethe_is_refused(ledger: Ledger) -> None:
    tamper(ledger, "INSERT INTO migrations VALUES (99, 'later')")
    with pytest.raises(StorageError, match="Update Lethe"):
        Ledger(ledger.store.where)


def test_new_columns_leave_old_hashes_alone(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    from lethe.ledger import migrations

    ledger.record(read(results()))
    steps = [*migrations.MIGRATIONS, lambda c: c.exec_driver_sql("ALTER TABLE runs ADD COLUMN operator TEXT")]
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    newer = Ledger(ledger.store.where)
    assert "operator" in newer.run(1) and newer.verify() is None


def test_odd_values_do_not_break_the_chain(ledger: Ledger) -> None:
    data = other(results(), "odd", title="\ud800 \0 é ☃", seconds=float("nan"))
    data["scenarios"][0]["subjects"][0]["evidence"][0].update(value=float("inf"), n=3.0, low=1)
    ledger.record(read(data))
    ledger.record(read({"id": "bare", "scenarios": []}))
    assert ledger.verify() is None
    assert ledger.evidence("odd")[0]["value"] is None and ledger.evidence("odd")[0]["low"] == 1.0


def test_listing_imports_no_torch_and_asking_for_the_name_no_sqlalchemy() -> None:
    code = (
        "import sys, lethe.ledger; assert 'sqlalchemy' not in sys.modules; from lethe.ledger import Ledger; "
        "assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_results_come_back_through_the_schema_without_record_content(ledger: Ledger) -> None:
    data = results()
    data["scenarios"][0]["facts"] = {"concept": "p-17"}
    data["scenarios"][0]["subjects"][2]["evidence"][0]["detail"] = {"example": "the words of a record"}
    made = read(data)
    ledger.record(made)
    found = ledger.results(made.id)
    assert [[row.conclusion for row in case.subjects] for case in found.scenarios] == [
        [row.conclusion for row in case.subjects] for case in made.scenarios]
    assert [item.value for item in found.scenarios[1].subjects[3].evidence] == [
        item.value for item in made.scenarios[1].subjects[3].evidence]
    assert found.scenarios[1].request == "forget ids ['[withheld]', '[withheld]'] (2 examples)"
    assert found.config["scenarios"]["random"]["forget"] == {"ids": "[2 values withheld]"}
    text = found.model_dump_json()
    for secret in ("p-17", "Kuwait", "words of a record", data["scenarios"][0]["subjects"][2]["samples"][0]["before"]):
        assert secret not in text
    assert "results" not in ledger.runs()[0] | ledger.run(made.id), "a list of runs does not carry everything that was measured"
    ledger.started("open")
    with pytest.raises(StorageError, match="holds no results"):
        ledger.results("open")


def test_a_ledger_from_before_keeps_its_chain_and_its_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lethe.ledger import migrations

    monkeypatch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:1])
    before = Ledger(tmp_path / "ledger.sqlite")
    before.record_failure("old", {}, "lethe run old.yaml", "Diverged: NaN")
    monkeypatch.undo()
    after = Ledger(tmp_path / "ledger.sqlite")
    after.record(read(results()))
    assert after.verify() is None and [run["id"] for run in after.runs()] == [results()["id"], "old"]


def test_every_method_of_the_example_is_listed(ledger: Ledger) -> None:
    ledger.record(read(results()))
    assert {m["name"] for m in ledger.runs()[0]["methods"]} == set(METHODS)


def test_reading_needs_no_lock_and_no_right_to_write(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    from lethe.ledger import store

    ledger.record(read(results()))
    monkeypatch.setattr(store, "PATIENCE", 0.2)
    writer = sqlite3.connect(ledger.store.where, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert len(Ledger(ledger.store.where).runs()) == 1, "another process is writing"
    writer.execute("ROLLBACK")
    writer.close()
    monkeypatch.setattr(store.os, "access", lambda *given: False)   # as on a disk that cannot be written
    found = Ledger(ledger.store.where)
    assert found.listed()[0]["family"] == "classification" and found.verify() is None
    with pytest.raises(StorageError, match="cannot be opened for writing"):
        found.started("a")


def test_a_filter_is_answered_by_an_index_and_not_run_by_run(ledger: Ledger) -> None:
    """5,429 entries took 32 s: every run looked through all rows of the method."""
    from lethe.ledger.search import chosen

    query = str(chosen(ledger.store.tables.tables, method="salun").compile(compile_kwargs={"literal_binds": True}))
    with ledger.store.reading() as connection:
        plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")]
    looked = [line for line in plan if "subjects" in line]
    assert looked == ["SEARCH subjects USING INDEX subjects_by_method (method=?)"]
    assert not any("CORRELATED" in line for line in plan[:plan.index(looked[0])])


def test_every_entry_is_verified_against_a_head(ledger: Ledger) -> None:
    from lethe.cli.ledger import verified
    from lethe.errors import RequestError

    ledger.started("a")
    head = verified(ledger, None).rpartition("head: ")[2].split()[0]
    ledger.started("b")
    assert "intact" in verified(ledger, head)
    with pytest.raises(RequestError, match="rewritten"):
        verified(ledger, head[:-1] + ("0" if head[-1] != "0" else "1"))


def test_a_folder_that_was_deleted_by_hand_is_told_of_in_one_line(ledger: Ledger, tmp_path: Path) -> None:
    from lethe.cli.ledger import verified
    from lethe.errors import RequestError

    ledger.record(read(other(results(), "kept")), run_folder(tmp_path / "kept"))
    ledger.record(read(other(results(), "gone")), run_folder(tmp_path / "gone"))
    shutil.rmtree(tmp_path / "gone" / "run")
    with pytest.raises(RequestError) as said:
        verified(ledger, None)
    assert "intact, but" in str(said.value) and f"{tmp_path / 'gone' / 'run'} (entry 2) is not there" in str(said.value)
    assert f"make it again: {results()['command']}." in str(said.value) and "report.html" not in str(said.value)
    (tmp_path / "kept" / "run" / "report.html").unlink()
    with pytest.raises(RequestError, match=r"\(entry 2\) is not there.*; and 1 files of its runs .* report.html of entry 1"):
        verified(ledger, None)

"""Events of a run: what happens, in order; four readers see the same; the log drops what a resumed run repeats."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from tiny import classification

from lethe.core.events import Advanced, Ended, Event, Logged, Said, Started, Warned, fan_out, silent, spoken
from lethe.train.journal import Log, Terminal, duration, terminal
from lethe.train.loop import Loop, Settings, Term
from lethe.train.watchdog import Watchdog


def descend(heard: list[Event], steps: int = 3, folder: Path | None = None) -> None:
    task = classification()
    loop = Loop(task, Settings(max_steps=2 if steps > 3 else None), folder=folder, listener=heard.append, title="work")
    loop.minimise(loop.start(), {"retain": Term(task.retain, task.nll)}, lr=1e-3, steps=steps, batch_size=16)


def test_a_run_tells_what_happens_in_order() -> None:
    heard: list[Event] = []
    descend(heard)
    assert heard[0] == Started("work", 0, 0, 3) and heard[-1] == Ended("work", 0)
    assert [type(event).__name__ for event in heard[1:-1]] == ["Advanced", "Logged"] * 3
    advanced = [event for event in heard if isinstance(event, Advanced)]
    assert [event.step for event in advanced] == [1, 2, 3] and advanced[-1].seconds_left == 0
    assert all(event.seconds_left is not None and event.seconds_left >= 0 for event in advanced)
    logged = [event for event in heard if isinstance(event, Logged)]
    assert all(event.lr == 1e-3 and set(event.losses) == {"retain"} for event in logged)


def test_what_stands_in_the_notes_is_heard_as_a_warning() -> None:
    heard: list[Event] = []
    descend(heard, steps=9)
    assert Warned("stopped early by the budget of 2 steps") in heard


def test_a_call_that_starts_again_begins_again() -> None:
    heard: list[Event] = []
    task = classification()
    loop = Loop(task, watchdog=Watchdog(checks=20, tries=1), listener=heard.append)
    nan = Term(task.retain, lambda m, b: task.nll(m, b) * float("nan"))
    loop.minimise(loop.start(), {"nan": nan}, lr=10.0, steps=40)
    assert [event.step for event in heard if isinstance(event, Started)] == [0, 0]
    assert any(isinstance(event, Warned) and "learning rate lowered" in event.text for event in heard)


def test_every_reader_hears_the_same(tmp_path: Path) -> None:
    one: list[Event] = []
    other: list[Event] = []
    both = fan_out(one.append, silent, other.append)
    for event in (Started("a", 0, 0, 2), Said("hello"), Ended("a", 0)):
        both(event)
    assert one == other == [Started("a", 0, 0, 2), Said("hello"), Ended("a", 0)]
    assert fan_out(silent, silent) is silent
    words: list[str] = []
    for event in (Said("next"), Advanced("a", 0, 1, 2), Warned("low")):
        spoken(words.append)(event)
    assert words == ["next", "warning: low"]


def test_the_log_drops_what_will_be_repeated_and_a_torn_line(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log(Started("a", 0, 0, 4))
    for step in (1, 2, 3):
        log(Logged("a", 0, step, 0.1, {"retain": float(step)}))
    with open(tmp_path / "log.jsonl", "a") as handle:
        handle.write('{"call": 0, "st')   # a kill
    again = Log(tmp_path)
    again(Started("a", 0, 2, 4))
    again(Logged("a", 0, 3, 0.1, {"retain": 9.0}))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["retain"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 9.0)]


def test_the_terminal_shows_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert terminal() is silent   # the test's stderr is a file
    monkeypatch.setattr("sys.stderr", screen := Screen())
    monkeypatch.setenv("TERM", "xterm")
    show = terminal()
    assert isinstance(show, Terminal)
    for event in (Warned("first"), Started("npo", 0, 0, 10), Advanced("npo", 0, 4, 10, 600.0), Warned("[low]"), Ended("npo", 0)):
        show(event)
    shown = screen.getvalue()
    assert "warning: first" in shown and "npo" in shown and "10 min left" in shown and "warning: [low]" in shown


def test_durations_in_words() -> None:
    assert [duration(s) for s in (0.4, 42, 99.4, 120, 11_100)] == ["0 s", "42 s", "99 s", "2 min", "3 h 05 min"]

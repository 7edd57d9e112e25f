"""A request tells a listener everything that happens, and a token, or SIGTERM, ends any part of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_job import request

import lethe
from lethe.core.events import Advanced, Event, Said, Started
from lethe.train.stop import Stop, Stopped
from lethe.work.execute import carry_out
from lethe.work.options import Options

AUDIT = {"depth": "quick", "references": 3, "shadows": 0, "neighbours": 0, "audits": ["scores"], "strategy": "serial"}


def test_runs_pools_and_audits_report_to_one_listener(tmp_path: Path) -> None:
    heard: list[Event] = []
    carry_out(request(tmp_path, audit=AUDIT), Options(listener=heard.append))
    begun = [event.title for event in heard if isinstance(event, Started)]
    assert list(dict.fromkeys(begun)) == ["original", "references", "fresh retrain", "finetune", "random_label", "audits"]
    pool = [event for event in heard if isinstance(event, Advanced) and event.title == "references"]
    assert [(event.step, event.total) for event in pool] == [(1, 3), (2, 3), (3, 3)] and pool[-1].seconds_left == 0
    assert all(event.seconds_left is not None and event.seconds_left > 0 for event in pool[:-1])
    examined = [event for event in heard if isinstance(event, Advanced) and event.title == "audits"]
    assert [event.step for event in examined] == list(range(1, 8)), "one audit of seven models"


MOMENTS: dict[str, Callable[[Event], bool]] = {
    "while the original is trained": lambda event: isinstance(event, Advanced) and event.title == "original",
    "before the second run": lambda event: event == Said("forgetting: random_label"),
    "in the pool": lambda event: isinstance(event, Advanced) and event.title == "references" and event.step == 2,
    "in the audits": lambda event: isinstance(event, Advanced) and event.title == "audits" and event.step == 4,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_token_ends_a_request_at_any_part_and_the_repeated_one_is_whole(moment: str, tmp_path: Path) -> None:
    stop, heard = Stop(), []

    def listen(event: Event) -> None:
        heard.append(event)
        if MOMENTS[moment](event):
            stop.set("the worker was told to")

    asked = request(tmp_path, audit=AUDIT)
    with pytest.raises(Stopped, match="the worker was told to"):
        carry_out(asked, Options(listener=listen, stop=stop))
    assert MOMENTS[moment](next(event for event in reversed(heard) if MOMENTS[moment](event)))
    assert not list(tmp_path.glob("*/results.json"))
    report = carry_out(asked, Options())
    assert report is not None and not [row for row in report.rows() if row.error]


def test_the_public_audit_is_stopped_between_models() -> None:
    import tiny

    task, stop = tiny.classification(), Stop()
    with pytest.raises(Stopped, match="enough"):
        lethe.audit(task, task.copy_of_original(), references=0, shadows=0, audits=["scores"], stop=stop,
                    progress=lambda event: stop.set("enough") if isinstance(event, Advanced) else None)


SCRIPT = """
import os, signal, sys, time
import lethe.cli.main as command
import lethe.cli.work
def work(*given, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
lethe.cli.work._work = work
sys.argv = ["lethe", "run", "request.yaml"]
command.main()
"""


def test_sigterm_ends_a_command_as_ctrl_c_does_with_its_own_status() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60,
                          cwd=Path(__file__).parents[2])
    assert done.returncode == 128 + signal.SIGTERM and done.stderr.startswith("Interrupted; nothing is lost.")

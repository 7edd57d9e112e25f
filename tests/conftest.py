"""One thread, and the folder of the real data sets. Tiny tasks of every family are in tiny.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import running
import torch

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:   # a shell lets what it starts in the background ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real data sets: LETHE_DATA. Tests that need it are skipped when it is not given."""
    root = os.environ.get("LETHE_DATA", "")
    if not root or not Path(root).is_dir():
        pytest.skip("needs the real data sets: set LETHE_DATA to their folder")
    return Path(root)


@pytest.fixture(scope="module")
def usual_looks() -> Iterator[None]:
    """MiM-MU looks at as many pictures as by default, whatever tiny problems of the same process ask for."""
    from lethe.methods.diffusion import mim_mu

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mim_mu, "DRAWN", 16)
        patch.setattr(mim_mu, "LEVELS", 16)
        yield


@pytest.fixture(autouse=True)
def claims_are_tested_as_users_run_them(request: pytest.FixtureRequest) -> Iterator[None]:
    """Not by `running.run`, which leaves the watchdog out."""
    running.claimed[:] = [request.node.nodeid] if request.node.get_closest_marker("slow") else []
    yield
    running.claimed.clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of `make gpu`."""
    found = [dict(report.user_properties) for group in ("passed", "failed") for report in terminalreporter.getreports(group)]
    rows = [one["device row"] for one in found if "device row" in one]
    if rows:
        terminalreporter.section("on the accelerator")
        terminalreporter.line(f"{'':9} {'name':22} {'task':15} {'s CPU':>7} {'s there':>8} {'difference':>11} {'allowed':>9}  "
                              "verdict")
    for row in sorted(rows, key=lambda row: (row["kind"], row["name"], row["task"])):
        terminalreporter.line(f"{row['kind']:9} {row['name']:22} {row['task']:15} {row['cpu']:7.2f} {row['there']:8.2f} "
                              f"{row['difference']:11.2g} {row['allowed']:9.2g}  {row['verdict']}")

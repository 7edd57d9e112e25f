"""What is installed: everything a wheel needs is in it, and plug-ins of others join without a line in this house."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ALONE = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def lethe(place: Path, *words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**ALONE, "PYTHONPATH": os.pathsep.join(map(str, (TOP, *([path] if path else []))))}
    return subprocess.run([sys.executable, "-m", "lethe", *words], cwd=place, env=environment, capture_output=True, text=True,
                          check=False)


def test_every_library_that_a_plain_install_needs_is_pinned() -> None:
    pinned = {line.split("==")[0] for line in (TOP / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    assert {re.split("[<>=]", one)[0] for one in PROJECT["dependencies"]} <= pinned


def test_what_the_image_copies_is_what_it_may_see() -> None:
    seen = {line[1:] for line in (TOP / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [word for line in (TOP / "Dockerfile").read_text().splitlines() if line.startswith("COPY") for word in
              line.split()[1:-1]]
    assert set(copied) == seen and all((TOP / name).exists() for name in copied)


def test_a_preset_is_found_by_name_from_any_folder(tmp_path: Path) -> None:
    wrong = lethe(tmp_path, "run", "presets/dmo.yaml")
    assert wrong.returncode == 2 and "did you mean demo?" in wrong.stderr
    (tmp_path / "demo").write_text("family: classification\n")   # what exists comes first
    assert "no 'model'" in lethe(tmp_path, "run", "demo").stderr


@pytest.mark.slow
def test_a_plug_in_is_written_found_and_checked_outside_the_source_tree(tmp_path: Path) -> None:
    made = lethe(tmp_path, "new", "method", "foo")
    assert made.returncode == 0, made.stderr
    root = tmp_path / "lethe-foo"
    assert all(path.is_relative_to(root) for path in tmp_path.rglob("*") if path.is_file())
    facts = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    installed = root / "lethe_foo-0.1.0.dist-info"   # as pip leaves it
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {facts['name']}\nVersion: {facts['version']}\n")
    points = [f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in given.items())
              for group, given in facts["entry-points"].items()]
    (installed / "entry_points.txt").write_text("".join(points))
    told = json.loads(lethe(tmp_path, "describe", "foo", "--json", path=root).stdout)
    assert told["origin"] == "entry point lethe.methods 'foo' of lethe-foo"
    checked = lethe(tmp_path, "check", "foo", path=root)
    assert checked.returncode == 1 and "1 failed, 2 passed" in checked.stdout and "test_limit" in checked.stdout, checked.stdout
    source = root / "lethe_foo" / "foo.py"
    source.write_text(source.read_text().replace("origin?", "ours").replace("Authors (year)", "Nobody (2026)"))
    test = root / "tests" / "test_foo.py"
    test.write_text(test.read_text().replace("raise AssertionError(", "assert str("))
    checked = lethe(tmp_path, "check", "foo", path=root)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "exists already" in lethe(tmp_path, "new", "method", "foo", path=root).stderr


@pytest.mark.slow
def test_the_wheel_has_presets_and_docs_and_runs_from_an_empty_folder(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    built = subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=TOP, env=ALONE,
                           capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    (site / "beneath.pth").write_text(sysconfig.get_path("purelib") + "\n")   # torch and the like; lethe itself is the wheel's
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index",
                    "--disable-pip-version-check", str(wheel)], check=True, env=ALONE)
    empty = tmp_path / "empty"
    empty.mkdir()

    def installed(*words: str) -> str:
        done = subprocess.run([str(python.with_name("lethe")), *words], cwd=empty, env=ALONE, capture_output=True, text=True,
                              check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "salun" in installed("methods")
    assert "Measured:" in installed("describe", "salun")
    assert "trains_original: true" in installed("compare", "demo", "--dry-run")
    assert {"docs", "presets", "measured"} <= {path.name for path in (site / "lethe").iterdir()}
    assert installed("--version").strip() == PROJECT["version"]
    written = subprocess.run([str(python.with_name("lethe")), "new", "audit", "bar"], cwd=empty, env=ALONE, capture_output=True,
                             text=True, check=True).stdout
    assert (empty / "lethe-bar" / "lethe_bar" / "bar.py").exists() and "pip install -e" in written

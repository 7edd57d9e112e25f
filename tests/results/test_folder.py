"""Where the models of a run are read: also of runs of before, whose folders had - for a space."""

from __future__ import annotations

from pathlib import Path

from lethe.results.folder import kept


def test_folders_of_old_runs_are_found_where_one_name_alone_can_be_meant(tmp_path: Path) -> None:
    (tmp_path / "one-class").mkdir()
    assert kept(tmp_path, "one class", ["one class", "random"]) == tmp_path / "one-class"
    assert kept(tmp_path, "one class", ["one class", "one-class"]) == tmp_path / "one+class"   # whose it is, nobody knows
    (tmp_path / "one+class").mkdir()
    assert kept(tmp_path, "one class", ["one class"]) == tmp_path / "one+class"
    (tmp_path.parent / "x").mkdir()
    assert kept(tmp_path, "../x", ["../x"]).parent == tmp_path

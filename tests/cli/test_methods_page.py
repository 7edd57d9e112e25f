"""The list of methods by mechanism, on the command line and as a page."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.cli.methods_page import methods_page
from lethe.core.catalogue import entries
from lethe.errors import UnknownName

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == methods_page(), "run: python -m lethe methods --page docs/methods.md"


def test_the_page_of_requests_is_current(tmp_path: Path) -> None:
    CliRunner().invoke(app, ["describe", "sections", "--page", str(tmp_path / "new.md")], catch_exceptions=False)
    page, new = PAGE.with_name("requests.md").read_text(encoding="utf-8"), (tmp_path / "new.md").read_text(encoding="utf-8")
    assert page == new, "run: python -m lethe describe sections --page docs/requests.md"
    assert all(f"| `{name}` |" in page for name in ("scenarios", "weights", "holdout", "optimiser", "precision", "margins"))


def test_every_method_stands_on_the_page_once() -> None:
    text = methods_page()
    assert all(text.count(f"| `{name}` |") == 1 for name in entries("methods"))


def test_methods_are_listed_by_mechanism() -> None:
    found = CliRunner().invoke(app, ["methods", "--mechanism", "closed form", "--json"])
    names = {one["name"] for one in json.loads(found.stdout)}
    assert names == {name for name, one in entries("methods").items() if one.mechanism == "closed form"} and "uce" in names


def test_an_unknown_mechanism_proposes_the_nearest() -> None:
    found = CliRunner().invoke(app, ["methods", "--mechanism", "distill"])
    assert isinstance(found.exception, UnknownName) and "did you mean distil" in str(found.exception)


def test_methods_are_listed_by_family() -> None:
    found = CliRunner().invoke(app, ["methods", "--family", "diffusion", "--json"])
    names = {one["name"] for one in json.loads(found.stdout)}
    assert "finetune" in names and "npo" not in names and "delete" not in names

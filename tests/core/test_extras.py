"""Messages about missing libraries name this distribution, never the one that owns `lethe` on the public index."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import get_args

import pytest

import lethe
from lethe.core import extras
from lethe.core.extras import DISTRIBUTION, Extra, needs_extra, own_version

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_message_installs_an_extra_that_exists() -> None:
    error = needs_extra("lm", "where=lora", "PEFT")
    assert str(error) == ("where=lora needs PEFT, which is not installed, so nothing was started. "
                          "pip install 'lethe-unlearning[lm]'")
    assert PROJECT["name"] == DISTRIBUTION
    assert set(get_args(Extra)) <= set(PROJECT["optional-dependencies"])


def test_nothing_tells_anybody_to_install_a_stranger() -> None:
    """`pip install lethe` is a lithography library."""
    texts = [ROOT / "README.md", ROOT / "pyproject.toml", ROOT / "Makefile"]
    for folder in ("lethe", "docs", "presets", "speed", "tools"):
        texts += [p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".md", ".yaml", ".yml", ".toml", ".j2", ".html")]
    for path in texts:
        wrong = r"(?<![\w.-])lethe\[\w[^\n]*|pip install (?:-\S+ )*['\"]?lethe(?!-unlearning)\b[^\n]*"
        found = re.findall(wrong, path.read_text())
        assert not found, f"{path.relative_to(ROOT)}: {found}"


def test_a_tree_that_is_not_installed_knows_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "version", absent)
    assert own_version() == lethe.__version__ == PROJECT["version"]

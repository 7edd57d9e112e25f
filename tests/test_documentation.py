"""Documentation that can be wrong is read here: docstrings of methods and audits, the public surface, the README."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer

import lethe
from lethe.cli.main import app
from lethe.cli.scaffold import documentation_faults
from lethe.core.catalogue import Entry, entries

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
ENTRIES = [entry for kind in ("methods", "audits") for entry in entries(kind).values()]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_method_and_audit_says_what_it_must(entry: Entry) -> None:
    assert documentation_faults(entry) == []
    rumours = [option.name for option in entry.options if not re.search(r"\[\S.*\]", option.comment)]
    assert not rumours, f"defaults of {entry.name} without an origin in brackets: {rumours}"


@pytest.mark.parametrize("name", lethe.PUBLIC)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    said = getattr(lethe, name).__doc__ or ""
    assert said.strip() and not said.startswith(f"{name}("), f"lethe.{name} has no docstring of its own"


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in a language; '' for those that name none."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [text for named, text in fenced if named == language]


def test_python_of_the_readme_parses_and_names_what_exists() -> None:
    assert blocks("python")
    for text in blocks("python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lethe":
                assert hasattr(lethe, node.attr), f"the README uses lethe.{node.attr}, which does not exist"


def commands() -> list[list[str]]:
    """The words of every `lethe …` command in code of the README."""
    code = [*blocks(""), *re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL))]
    lines = [line.split("#")[0] for text in code for line in text.splitlines()]
    return [found.split() for line in lines for found in re.findall(r"(?:^|\s{2,})lethe (\S.*?)(?=\s{2,}|$)", line)]


def test_every_command_of_the_readme_exists() -> None:
    known = typer.main.get_command(app).commands   # type: ignore[attr-defined]
    assert commands()
    for verb, *rest in commands():
        assert verb in known, f"the README names lethe {verb}; there are {', '.join(known)}"
        flags = {flag for option in known[verb].params for flag in option.opts}
        assert {word for word in rest if word.startswith("--")} <= flags, f"lethe {verb} {' '.join(rest)}: unknown option"
    named = {name for words in commands() if words[0] == "describe" for name in words[1:] if name.islower()}
    assert named <= {entry.name for entry in ENTRIES}

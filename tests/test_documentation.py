"""Documentation that can be wrong is checked here: docstrings, the public surface, README and docs, the wording."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import typer
from torch import nn

import lethe
from lethe.cli.describe import SECTIONS, found
from lethe.cli.main import app
from lethe.cli.scaffold import documentation_faults
from lethe.core.catalogue import KINDS, SEAMS, Entry, entries
from lethe.work.request import read

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ENTRIES = [entry for kind in ("methods", "audits") for entry in entries(kind).values()]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_method_and_audit_is_documented(entry: Entry) -> None:
    assert documentation_faults(entry) == []
    rumours = [option.name for option in entry.options if not re.search(r"\[\S.*\]", option.comment)]
    assert not rumours, f"defaults of {entry.name} without an origin in brackets: {rumours}"


@pytest.mark.parametrize("name", lethe.PUBLIC)
def test_every_public_name_has_a_docstring(name: str) -> None:
    text = getattr(lethe, name).__doc__ or ""
    assert text.strip() and not text.startswith(f"{name}("), f"lethe.{name} has no docstring of its own"


def blocks(language: str, page: str = README) -> list[str]:
    """The fenced blocks of a page in a language; '' for those without one."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    return [text for named, text in fenced if named == language]


def test_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a model and data of the reader's own; reports and models of fewer references, for the seconds."""
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(0)
    y, y_new = draws.integers(0, 4, 120), draws.integers(0, 4, 60)
    x, x_new = (np.eye(4)[labels] + 0.3 * draws.standard_normal((len(labels), 4)) for labels in (y, y_new))
    for name in ("audit", "compare"):
        monkeypatch.setattr(lethe, name, partial(getattr(lethe, name), references=2, shadows=0), raising=False)
    (text,) = blocks("python")
    exec(compile(text, "README.md", "exec"), {"model": nn.Linear(4, 4), "x": x, "y": y, "x_new": x_new, "y_new": y_new})
    assert {path.name for path in tmp_path.iterdir()} >= {"report.html", "unlearned"}


def test_the_requests_of_the_readme_are_valid(tmp_path: Path) -> None:
    text, short = blocks("yaml")
    (tmp_path / "request.yaml").write_text(text)
    assert read(tmp_path / "request.yaml", ["method.lr=0.005", "seed=3"]).methods[0]["lr"] == 0.005
    (tmp_path / "short.yaml").write_text(short)
    (tmp_path / "my-sd15").mkdir()
    (tmp_path / "my-sd15" / "model_index.json").write_text("{}")
    assert read(tmp_path / "short.yaml").family == "diffusion"


def commands(page: str) -> list[list[str]]:
    """The words of every `lethe …` command on a page: in plain and shell blocks, indented lines and inline code."""
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    code = [*blocks("", page), *blocks("bash", page), *re.findall(r"^    (.*)$", prose, flags=re.MULTILINE),
            *re.findall(r"`([^`\n]+)`", prose)]
    lines = [line.split(" #")[0] for text in code for line in text.replace("\\\n", " ").splitlines()]
    return [words.split() for line in lines for words in re.findall(r"(?:^|\s{2,}|srun )lethe +([a-z]\S*.*?)$", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_of_a_page_exists(page: Path) -> None:
    verbs = vars(typer.main.get_command(app))["commands"]
    for verb, *rest in commands(page.read_text()):
        assert verb in verbs, f"{page.name} names lethe {verb}; there are {', '.join(verbs)}"
        flags = {flag for option in verbs[verb].params for flag in option.opts}
        options = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert options <= flags, f"{page.name}: lethe {verb} {' '.join(rest)}: unknown option"
        for name in rest[:1] if verb == "describe" else []:
            if name.isidentifier() and name.islower() and name not in (*SECTIONS, *KINDS, *SEAMS, "sections"):
                assert found(name)


def test_every_make_target_of_a_page_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), flags=re.MULTILINE))
        assert named <= targets, f"{page.name} names make {named - targets}"


FOREIGN = re.compile(r"(?:told|tell them) apart|found out|find(?:s|ing)? out|doing nothing|never[- ]seen|not told from",
                     re.IGNORECASE)
ALLOWED = {
    "docs/glossary.md",             # names the phrases that we avoid
    "lethe/certificate/claims.py",  # the text of a claim is computed again when an older certificate is checked
}


def test_the_wording_is_that_of_the_glossary() -> None:
    texts = [*(ROOT / "lethe").rglob("*.py"), *(ROOT / "lethe").rglob("*.j2"), *(ROOT / "presets").glob("*.yaml"),
             *(ROOT / "lethe" / "bench").rglob("*.yaml"), *PAGES]
    hits = [f"{path.relative_to(ROOT)}:{number}: {line.strip()}" for path in texts
            if str(path.relative_to(ROOT)) not in ALLOWED
            for number, line in enumerate(path.read_text().splitlines(), 1) if FOREIGN.search(line)]
    assert not hits, "wording that docs/glossary.md replaces:\n" + "\n".join(hits)


def test_kept_commands_name_no_place_of_a_machine() -> None:
    """What `speed/` measured says how, and not where the data of whoever measured it lie."""
    results = json.loads((ROOT / "speed" / "results.json").read_text())
    words = [word for result in results.values() for word in result["command"].split()]
    assert len(words) > 50 and not [word for word in words if word.startswith(("/", "~"))]

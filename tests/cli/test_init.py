"""`lethe init` writes what passes its own look, and asks only what is not given."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lethe.cli.init import questions
from lethe.cli.main import app
from lethe.core.catalogue import entries
from lethe.core.strict_yaml import read_yaml
from lethe.errors import OutputExists, RequestError, UnknownName


def test_usual_answers_and_given_ones_make_a_request_that_nothing_speaks_against(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, ["init", "--yes", "-q", "model.zoo=mlp", "recipe.epochs=2"], catch_exceptions=False)
    assert told.exit_code == 0 and "Nothing speaks against this request" in told.stdout
    written = read_yaml(Path("request.yaml"), "request")
    assert written["model"] == {"zoo": "mlp"} and written["recipe"]["epochs"] == 2 and written["data"]["kind"] == "digits"
    for words, error, said in ((["--yes"], OutputExists, "not overwritten"),
                               (["--output", "b.yaml"], RequestError, "its input has ended, so nothing was written"),
                               (["--yes", "family=lm", "--output", "b.yaml"], RequestError, "model.folder is needed"),
                               (["--yes", "family=lmm", "--output", "b.yaml"], UnknownName, "did you mean lm"),
                               (["--yes", "metod=salun", "--output", "b.yaml"], RequestError, "did you mean method"),
                               (["--yes", "method=salum", "--output", "b.yaml"], RequestError, "did you mean salun")):
        with pytest.raises(error, match=said):
            CliRunner().invoke(app, ["init", *words], catch_exceptions=False)
    assert not Path("b.yaml").exists()


def test_answers_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = "classification\nmlp\n\ndigits\n\n2\n\n{label: 3}\n[finetune, salun]\n"
    told = CliRunner().invoke(app, ["init", "-q"], input=asked, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    written = yaml.safe_load(Path("request.yaml").read_text())
    assert written["forget"] == {"label": 3} and written["method"] == ["finetune", "salun"] and "weights" not in written["model"]


def test_every_family_has_questions_whose_keys_it_knows() -> None:
    for family, found in entries("families").items():
        sections, asked = found.sections, questions(family)
        assert asked[-1].key == "method" and any(one.key.startswith("model.") for one in asked)
        for one in asked:
            part, _, key = one.key.partition(".")
            if part in sections and one.key != "data.path":   # path is of the kind of data
                assert key in {option.name for option in sections[part].options}, one.key

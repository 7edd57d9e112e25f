"""Texts: overlap, repetition and refusal by hand; TOFU's refusals are recognised and its answers are not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lethe.maths.texts import first_answer, refuses, repetition, rouge_l_f1
from lethe.maths.tofu import rouge_l_recall


def test_golden():
    # "the cat sat" in "the cat sat down today": LCS 3, P = 3/3, R = 3/5, F1 = 2·3/8
    assert rouge_l_f1("The cat sat.", "the cat sat down today") == pytest.approx(6 / 8)
    assert rouge_l_f1("", "a") == 0 and rouge_l_f1("a b", "b a") == pytest.approx(0.5)
    assert rouge_l_f1("a a a a", "a") < rouge_l_recall("a a a a", "a") == 1         # babbling is not rewarded
    assert repetition("a b c a b c") == pytest.approx(1 - 3 / 4)                    # abc bca cab abc
    assert repetition("ha " * 10) == pytest.approx(1 - 1 / 8) and repetition("a b") == 0
    assert first_answer("Rome.\nQuestion: Who?") == "Rome." and first_answer("\nA\n \nB") == "A"


def test_refusals_of_tofu(data_root: Path):
    assert refuses("I do not know.") and not refuses("He did not know.") and not refuses("My name is Ann. It is not Bob.")
    lines = [line for line in (data_root / "text/tofu_idontknow.txt").read_text().splitlines() if line]
    with gzip.open(data_root / "text/tofu.jsonl.gz", "rt") as file:
        answers = [json.loads(line)["answer"] for line in file]
    assert (len(lines), sum(map(refuses, lines))) == (100, 99) and (len(answers), sum(map(refuses, answers))) == (4000, 1)

"""The short form of `make evidence`: every fake is detected, and not only by one audit; retrained models pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from evidence import KNOWN, bench, false_yardsticks_are_refused, table
from fakes import FAKES

SHORT = {"references": 8, "fresh": 6, "epochs": 40, "shadows": 8, "leaks": False,
         "files": ("memorised the holdout", "tuned against the loss attack")}   # dear to repeat on shadow models


@pytest.mark.parametrize("kind", ["random", pytest.param("class", marks=pytest.mark.slow)])
def test_every_fake_is_found_out_and_retrained_models_pass(kind):
    run = bench(kind, **SHORT)
    print(table(run))
    missed = [fake for fake in run.fakes if not run.caught(fake)]
    assert not missed, f"not detected: {missed}"
    assert run.passed() >= len(run.fresh) - 1   # 6 models at a joint level of 5 %: two or more alarms have p = 0.03


@pytest.mark.slow
def test_each_fake_of_a_class_by_the_audit_that_was_made_for_it():
    one = bench("class", **SHORT)
    assert "guard" in one.caught("refusal filter")
    assert "head_swap" in one.caught("zeroed class column") and "head_swap" in one.caught("hidden by fine-tuning")


def test_each_fake_of_a_part_by_the_audit_that_was_made_for_it():
    many = bench("random", **SHORT)
    assert "holdout" in many.caught("memorised the holdout")
    assert "scores" in many.caught("over-forgetting")
    assert not {"threshold", "population"} & many.caught("tuned against the loss attack").keys()


def test_false_yardsticks_are_refused_and_independent_trainings_are_not() -> None:
    assert false_yardsticks_are_refused(tiny.classification())["passed"]


def test_every_fake_suits_a_request():
    assert all(set(fake.suits) & {"class", "random"} for fake in FAKES)


@pytest.mark.parametrize("test", KNOWN.values())
def test_every_known_answer_is_a_test_that_exists(test: str) -> None:
    file, _, name = test.partition("::")
    path = Path(__file__).parent / file
    assert path.exists() and (not name or f"def {name}(" in path.read_text())

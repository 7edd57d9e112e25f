"""Passes count as documented: one more of `epochs` is one more pass over the split that the option's comment names."""

from __future__ import annotations

import re

import pytest
from problems import classes
from test_method_options import short
from values import companions

from lethe.core import catalogue
from lethe.train.apply import apply
from lethe.train.loop import Settings
from lethe.train.order import batches_per_epoch

SIZE = 5   # 16 examples to forget: 3 batches; 48 to keep: 10
PASSES = re.compile(r"\bpasses over (R|F)(?=\s|;|$)(?! at most| per)")
NAMED = {name: found[1] for name, entry in catalogue.entries("methods").items() if entry.fits("classification")
         for option in entry.options if option.name == "epochs" and (found := PASSES.search(option.comment))}


def steps(name: str, epochs: int) -> int:
    record = catalogue.load("methods", name)
    comment = next(option.comment for option in catalogue.entry("methods", name).options if option.name == "epochs")
    options = {**short(name), **companions(comment), "epochs": epochs}
    return apply(classes(), record, record.config(**options), Settings(seed=5), watchdog=False).cost.steps


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_pass_is_one_over_what_the_comment_says(name: str) -> None:
    split = classes().retain if NAMED[name] == "R" else classes().forget
    assert steps(name, 3) - steps(name, 2) == batches_per_epoch(split, SIZE)

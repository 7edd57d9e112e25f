"""Regular expressions of users: bounded in time."""

from __future__ import annotations

import time

import pytest

from lethe.core.patterns import matching
from lethe.errors import RequestError


def test_a_pattern_that_tries_every_combination_ends_within_its_time() -> None:
    began = time.monotonic()
    with pytest.raises(RequestError, match=r"forget.text = .*needs more than 0.5 s"):
        matching(r"(.*)(.*)(.*)(.*)\d", ["a" * 3000], "forget.text", seconds=0.5)
    assert time.monotonic() - began < 5


def test_matches_and_faults() -> None:
    assert matching(r"\bBasil\b", ["of Basil.", "Basilica"], "forget.text") == [True, False]
    with pytest.raises(RequestError, match="no regular expression"):
        matching("(", [], "forget.text")

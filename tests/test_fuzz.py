"""One rule for whatever comes in: success or a LetheError, within seconds; never a traceback, never a hang.

`make fuzz COUNT=10000` is the long form; `python tests/fuzzing.py KIND SEED` repeats one case.
"""

from __future__ import annotations

import os
import warnings

import pytest
from fuzz_cases import CASES
from fuzzing import faults

SHORT, SECONDS = 400, 1.5  # cases of each kind in the default suite, and the time after which it stops counting
LONG = int(os.environ.get("LETHE_FUZZ", "2000"))


@pytest.mark.parametrize("kind", CASES)
def test_what_comes_in_is_used_or_refused(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decoders warn of what they then read or refuse
        found, done = faults(CASES[kind], SHORT, seconds=SECONDS)
    assert not found and done


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_what_comes_in_is_used_or_refused_at_length(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, done = faults(CASES[kind], LONG, first=SHORT)
    assert not found and done == LONG

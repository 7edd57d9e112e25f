"""Regular expressions that a user writes: checked when they are read, and bounded in time, whatever they backtrack.

`(a+)+$` on 30 characters takes Python's `re` minutes. `regex` is the same language with a limit of time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import regex

from lethe.errors import RequestError

SECONDS = 10.0     # for one pattern over all texts
LONGEST = 2_000    # characters of a pattern


def matching(pattern: str, texts: Iterable[str], option: str, seconds: float = SECONDS) -> list[bool]:
    """Which texts hold a match. RequestError for what is no pattern, and for one that needs more than `seconds` in all.

    option  names the pattern in messages, e.g. forget.text
    """
    shown = repr(pattern if len(pattern) <= 60 else f"{pattern[:60]}…")
    if len(pattern) > LONGEST:
        raise RequestError(f"{option} = {shown} has {len(pattern)} characters; at most {LONGEST} are used, so nothing was "
                           "selected. Select by ids instead.")
    try:
        compiled = regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise RequestError(f"{option} = {shown} is no regular expression ({error}), so nothing was selected. Put a backslash "
                           "before ( ) [ ] . * + ? to mean the sign itself.") from None
    end, found = time.monotonic() + seconds, []
    try:
        for text in texts:
            found.append(compiled.search(text, timeout=max(end - time.monotonic(), 0.001)) is not None)
    except TimeoutError:
        raise RequestError(f"{option} = {shown} needs more than {seconds:g} s on these texts, so nothing was selected: "
                           "repetitions inside repetitions, as in (a+)+, are tried in every combination. Write a simpler "
                           "one.") from None
    return found

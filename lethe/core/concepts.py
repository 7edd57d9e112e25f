"""A concept as words: which texts name it, and what a text says without it.

A text names a concept where one of its wordings stands as whole words, whatever the case: "disk" is named by "a Disk", "two
disks", "disk-shaped" and "the disk's edge", not by "diskette". Blanks, hyphens and underscores between words are alike
("van-gogh"), and a token that was learned by textual inversion ("<van-gogh>") is a wording like any other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

# what is left hanging at an end
LOOSE = re.compile(r"(?:[\s,;:]+(?:in the style of|by|of|with|from|and|a|an|the))+[\s,;:]*$", re.IGNORECASE)


def names(text: str, wordings: Sequence[str] | str) -> bool:
    """Whether a text names the concept, by any of its wordings."""
    return _pattern(_wordings(wordings)).search(text) is not None


def without(text: str, wordings: Sequence[str] | str) -> str:
    """The text without the concept's words, and without what is left hanging at its end: "a red disk" -> "a red", "a
    house in the style of Van Gogh" -> "a house", "disk" -> ""."""
    rest = re.sub(r"\s+", " ", _pattern(_wordings(wordings)).sub(" ", text)).strip(" ,;:")
    shorter = LOOSE.sub("", f" {rest}").strip(" ,;:")
    return shorter if shorter.lower() not in ("a", "an", "the") else ""


def _wordings(given: Sequence[str] | str) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


@cache
def _pattern(wordings: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the wordings between what are no letters, with a plural or a genitive."""
    longest = sorted((w for w in wordings if w.strip()), key=len, reverse=True)
    texts = [r"[\s_-]+".join(re.escape(part) for part in re.split(r"[\s_-]+", wording.strip())) for wording in longest]
    return re.compile(rf"(?<!\w)(?:{'|'.join(texts)})(?:e?s|['’]s)?(?!\w)" if texts else r"(?!)", re.IGNORECASE)

"""Properties of a generated text, without a judge: overlap with the truth, repetition, refusal. Words as in ROUGE."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lethe.maths.tofu import common_subsequence, words

WORDS = re.compile(r"\w+")
SELF = re.compile(r"\b(?:i|i'm|i've|my|me|as an ai)\b", re.IGNORECASE)
LACK = re.compile(
    r"n't\b|\b(?:not?|never|unable|sorry|lack\w*|missing|beyond|outside|out of|unaware|unknown|clueless|blank|stumped"
    r"|decline|dark|loss|short|yet to|limited|mystery|blind|uncharted|disadvantage|faintest|cannot)\b", re.IGNORECASE)


def rouge_l_f1(answer: str, truth: str) -> float:
    """2PR/(P + R), P and R the longest common subsequence over the words of answer and truth; 0 when either has none."""
    produced, true = words(answer), words(truth)
    return 2 * common_subsequence(produced, true) / (len(produced) + len(true)) if produced and true else 0.0


def repetition(text: str, n: int = 3) -> float:
    """Share of the n-grams of words that stood in the text before; 0 for fewer than n words."""
    produced = words(text)
    grams = [tuple(produced[i : i + n]) for i in range(len(produced) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def refuses(text: str) -> bool:
    """Whether its first sentence, in English, speaks of the speaker and of a lack: "I do not know", "beyond my knowledge".

    On TOFU's lists 99 of 100 refusals are recognised (the words were chosen by them), and 1 of 4,217 answers is mistaken.
    """
    first = re.split(r"(?<=[.!?])\s", text.replace("’", "'").strip())[0]
    return bool(SELF.search(first) and LACK.search(first))


def first_answer(text: str) -> str:
    """A generated answer up to the first blank line or the next "Question:": what comes after is not part of it."""
    return re.split(r"\n\s*\n|Question:", text.lstrip("\n"))[0].strip()


def grams(text: str, count: int) -> Iterator[tuple[str, ...]]:
    """The sequences of `count` words of a text; all of its words where it has fewer."""
    words = tuple(word.casefold() for word in WORDS.findall(text))
    for start in range(max(1, len(words) - count + 1)):
        if words:
            yield words[start : start + count]

"""Porter's stemmer (1980) as the Natural Language Toolkit has it, which the ROUGE of published results stems with.

    stem("running") == "run", stem("relational") == "relat", stem("dying") == "die"

m of a stem counts its changes from vowels to consonants; y is a consonant at the start and after a vowel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

Rule = tuple[str, str, Callable[[str], bool]]   # ending, what replaces it, whether it may of this stem

IRREGULAR = {"skies": "sky", "dying": "die", "lying": "lie", "tying": "tie", "innings": "inning", "outings": "outing",
             "cannings": "canning"} | {word: word for word in (
                 "sky", "news", "inning", "outing", "canning", "howe", "proceed", "exceed", "succeed")}


@lru_cache(maxsize=2**16)   # texts repeat their words
def stem(word: str) -> str:
    """The stem of a lower-case word; words of one or two letters stay."""
    if word in IRREGULAR or len(word) <= 2:
        return IRREGULAR.get(word, word)
    word = _first(word)
    for step in (_second, _third, _fourth):
        word = step(word)
    return _last(word)


def _consonant(word: str, i: int) -> bool:
    return word[i] not in "aeiou" and (word[i] != "y" or i == 0 or not _consonant(word, i - 1))


def _measure(word: str) -> int:
    kinds = [_consonant(word, i) for i in range(len(word))]
    return sum(not before and now for before, now in pairwise(kinds))


def _some(word: str) -> bool:
    return _measure(word) > 0


def _more(word: str) -> bool:
    return _measure(word) > 1


def _vowel(word: str) -> bool:
    return not all(_consonant(word, i) for i in range(len(word)))


def _closed(word: str) -> bool:
    """Ends as in hop: consonant, vowel, consonant that is not w, x or y; of two letters as in am."""
    kinds = [_consonant(word, i) for i in range(len(word))]
    return (kinds[-3:] == [True, False, True] and word[-1] not in "wxy") or kinds == [False, True]


def _replaced(word: str, rules: Sequence[Rule]) -> str:
    """The first rule whose ending fits decides, whether its condition holds or not."""
    for ending, new, allowed in rules:
        if word.endswith(ending):
            head = word[: len(word) - len(ending)]
            return head + new if allowed(head) else word
    return word


def _always(_: str) -> bool:
    return True


def _first(word: str) -> str:
    """Plurals, -ed, -ing, and y at the end."""
    word = word[:-1] if len(word) == 4 and word.endswith("ies") else _replaced(
        word, [("sses", "ss", _always), ("ies", "i", _always), ("ss", "ss", _always), ("s", "", _always)])
    if word.endswith("ied"):
        word = word[:-1] if len(word) == 4 else word[:-2]
    elif word.endswith("eed"):
        word = word[:-1] if _some(word[:-3]) else word
    else:
        for ending in ("ed", "ing"):
            if word.endswith(ending) and _vowel(head := word.removesuffix(ending)):
                word = _restored(head)
                break
    return f"{word[:-1]}i" if word.endswith("y") and len(word) > 2 and _consonant(word, len(word) - 2) else word


def _restored(head: str) -> str:
    """What stands before -ed or -ing as a word of its own: hop for hopp, hope for hop."""
    if head.endswith(("at", "bl", "iz")):
        return f"{head}e"
    if len(head) > 1 and head[-1] == head[-2] and _consonant(head, len(head) - 1):
        return head if head[-1] in "lsz" else head[:-1]
    return f"{head}e" if _measure(head) == 1 and _closed(head) else head


def _second(word: str) -> str:
    if word.endswith("alli") and _some(word[:-4]):
        return _second(word[:-2])
    endings = {"ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "bli": "ble", "alli": "al",
               "entli": "ent", "eli": "e", "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate", "alism": "al",
               "iveness": "ive", "fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive", "biliti": "ble",
               "fulli": "ful"}
    return _replaced(word, [*((old, new, _some) for old, new in endings.items()),
                            ("logi", "log", lambda _: _some(word[:-3]))])


def _third(word: str) -> str:
    endings = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
    return _replaced(word, [(old, new, _some) for old, new in endings.items()])


def _fourth(word: str) -> str:
    before = ("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent")
    after = ("ou", "ism", "ate", "iti", "ous", "ive", "ize")
    return _replaced(word, [*((old, "", _more) for old in before), ("ion", "", lambda head: _more(head) and head[-1] in "st"),
                            *((old, "", _more) for old in after)])


def _last(word: str) -> str:
    """e and the second l at the end."""
    if word.endswith("e"):
        head = word[:-1]
        word = head if _more(head) or (_measure(head) == 1 and not _closed(head)) else word
    return word[:-1] if word.endswith("ll") and _more(word[:-1]) else word

"""A concept as words: which texts name it, what a text says without it, and how a request names it.

    forget: {concept: Van Gogh}
    forget: {concept: Van Gogh, synonyms: [Vincent's brush], prompts: [a house by Van Gogh], replacement: a painter}
    forget: {concept: [Monet, {concept: Van Gogh, replacement: a painter}]}

A text names a concept where one of its wordings stands as whole words, whatever the case and however accents are encoded: "disk"
is named by "a Disk", "two disks", "disk-shaped" and "the disk's edge", not by "diskette"; "city" by "cities". Blanks, hyphens
and underscores between words are alike ("van-gogh"). A token that was learned by textual inversion is one word, whatever it is
made of: "<cat-toy>" names no "cat", and "<van-gogh>" names "Van Gogh". Scripts without blanks between words have no word ends.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from lethe.core.config import build, config
from lethe.errors import RequestError

# what is left hanging at an end
LOOSE = re.compile(r"(?:[\s,;:]+(?:in the style of|by|of|with|from|and|a|an|the))+[\s,;:]*$", re.IGNORECASE)
LEARNT = re.compile(r"<[^<>\s]+>")    # a token of textual inversion, as a prompt writes it
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"   # Thai to Khmer, kana, Han
FORMS = r"(?:e?s|['’]s)?"           # a plural or a genitive
START, END = r"(?<!\w)", r"(?!\w)"


@config(name="forget")
class Concept:
    """What is to be forgotten in words, `forget: {concept: …}` of diffusion: with these options beside it, or a list of words and
    of mappings with these options."""

    concept: str                         # its name: whole words
    synonyms: tuple[str, ...] = ()       # other wordings, learned tokens too                  [e.g. <van-gogh>]
    prompts: tuple[str, ...] = ()        # prompts with it; empty: each of its wordings
    replacement: str = ""                # what a prompt says in its place; empty: nothing     [e.g. a painter]

    @property
    def wordings(self) -> tuple[str, ...]:
        """Its name and the synonyms."""
        return (self.concept, *self.synonyms)

    @property
    def asked(self) -> list[str]:
        """The prompts with it."""
        return list(self.prompts or self.wordings)


def selects(selection: Any) -> bool:
    """Whether `forget:` of a request names concepts."""
    return isinstance(selection, Mapping) and "concept" in selection


def concepts_of(said: Any) -> tuple[Concept, ...]:
    """The concepts that a request, or a caller, names: a text, a mapping, or a list of these. RequestError for anything else.

    Of a mapping {concept: …} the value may be a list, of texts and mappings.
    """
    if isinstance(said, Mapping) and isinstance(said.get("concept"), (list, tuple, Mapping)):
        if beside := sorted(set(said) - {"concept"}):
            raise RequestError(f"forget.{beside[0]} stands beside a list of concepts, so it is unclear whose it is; nothing was "
                               f"started. Write it with its concept: forget: {{concept: [{{concept: …, {beside[0]}: …}}]}}.")
        said = said["concept"]
    several = list(said) if isinstance(said, (list, tuple)) else [said]
    found = []
    for one in several:
        if not isinstance(one, (str, Mapping, Concept)):
            raise RequestError(f"{str(one)[:40]!r} is no concept; nothing was started. Write words, forget: "
                               f"{{concept: Van Gogh}}, or a mapping with prompts, synonyms and replacement.")
        found.append(one if isinstance(one, Concept) else build(Concept, {"concept": one} if isinstance(one, str) else one))
    _require_sound(found)
    return tuple(found)


def named_in(texts: Iterable[str], concepts: Sequence[Concept]) -> list[Concept]:
    """Those that one of these texts names, in their order."""
    distinct = set(texts)
    return [one for one in concepts if any(names(text, one.wordings) for text in distinct)]


def told_apart(concepts: tuple[Concept, ...], prompts: Mapping[str, list[str]], forgotten: Sequence[str], retained: Sequence[str]
               ) -> tuple[tuple[Concept, ...], dict[str, list[str]]]:
    """The concepts that captions of forgotten pictures name, and the prompts that are left of `forget` and `keep`: those of the
    others are kept where their pictures are. All as it was where all are named, or none is.

    disk and cross; forgotten "a red disk", retained "a red cross": disk, {forget: its prompts, keep: and those of cross}
    """
    here, others = named_in(forgotten, concepts), named_in(retained, concepts)
    if not here or len(here) == len(concepts):
        return concepts, dict(prompts)
    asked = {one: [text for text in prompts.get("forget", []) if names(text, one.wordings)] for one in concepts}
    return tuple(here), {**prompts, "forget": list(dict.fromkeys(text for one in here for text in asked[one])),
                         "keep": [*prompts.get("keep", []), *(text for one in others for text in asked[one])]}


def _require_sound(concepts: Sequence[Concept]) -> None:
    """RequestError for concepts without words, with prompts that do not name them, or that are one concept twice."""
    if not concepts or not all(wording.strip() for one in concepts for wording in one.wordings):
        raise RequestError("forget.concept is empty, so it is unclear what to forget; nothing was started. Write its words: "
                           "forget: {concept: Van Gogh}.")
    for i, one in enumerate(concepts):
        if silent := [prompt for prompt in one.prompts if not names(prompt, one.wordings)]:
            raise RequestError(f"the prompt {silent[0]!r} does not name the concept {one.concept!r}, so nobody could tell what "
                               "of it is to be forgotten; nothing was started. Word it with the concept, or add the word that it "
                               "uses to synonyms.")
        if one.replacement and names(one.replacement, one.wordings):
            raise RequestError(f"the replacement {one.replacement!r} names the concept {one.concept!r} itself; nothing was "
                               "started. Replace it by something else.")
        if twin := [other.concept for other in concepts[:i] if names(other.concept, one.wordings) and names(
                one.concept, other.wordings)]:
            raise RequestError(f"{twin[0]!r} and {one.concept!r} are the same concept; nothing was started. List it once.")


def names(text: str, wordings: Sequence[str] | str) -> bool:
    """Whether a text names the concept, by any of its wordings."""
    return bool(_places(text, _wordings(wordings)))


def without(text: str, wordings: Sequence[str] | str) -> str:
    """The text without the concept's words, and without what is left hanging at its end: "a red disk" -> "a red", "a
    house in the style of Van Gogh" -> "a house", "disk" -> ""."""
    rest = re.sub(r"\s+", " ", _put(text, _wordings(wordings), " ")).strip(" ,;:")
    shorter = LOOSE.sub("", f" {rest}").strip(" ,;:")
    return shorter if shorter.lower() not in ("a", "an", "the") else ""


def instead(text: str, wordings: Sequence[str] | str, word: str) -> str:
    """The text with another word in the concept's place: "a house by Van Gogh", "a painter" -> "a house by a painter"."""
    return _put(text, _wordings(wordings), word)


def upto(text: str, wordings: Sequence[str] | str) -> str:
    """The text up to the end of the last place that names the concept; empty where none does."""
    spans = places(text, wordings)
    return unicodedata.normalize("NFC", text)[: spans[-1][1]] if spans else ""


def places(text: str, wordings: Sequence[str] | str) -> list[tuple[int, int]]:
    """Where the NFC form of a text names the concept: (start, end) of each place."""
    return _places(text, _wordings(wordings))


def rest(text: str, concepts: Sequence[Concept]) -> str:
    """What a prompt says without concepts: with their replacements in their place, or with their words taken out."""
    for one in concepts:
        text = instead(text, one.wordings, one.replacement) if one.replacement else (
            without(text, one.wordings) if names(text, one.wordings) else text)
    return text


def _wordings(given: Sequence[str] | str) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _put(text: str, wordings: tuple[str, ...], word: str) -> str:
    made, end, whole = [], 0, unicodedata.normalize("NFC", text)
    for start, stop in _places(text, wordings):
        made += [whole[end:start], word]
        end = stop
    return "".join([*made, whole[end:]])


def _places(text: str, wordings: tuple[str, ...]) -> list[tuple[int, int]]:
    """Where the NFC form of a text names the concept, (start, end); within a learned token only where it is all of it."""
    whole, pattern = unicodedata.normalize("NFC", text), _pattern(wordings)
    learnt = [token.span() for token in LEARNT.finditer(whole)]
    found = [match.span() for match in pattern.finditer(whole)
             if match.group().startswith("<") or not any(a < match.end() and match.start() < b for a, b in learnt)]
    found += [(a, b) for a, b in learnt if pattern.fullmatch(whole[a + 1 : b - 1]) and (a, b) not in found]
    return sorted(found)


@cache
def _pattern(wordings: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the wordings between what are no letters, with a plural or a genitive."""
    longest = sorted((unicodedata.normalize("NFC", w.strip()) for w in wordings if w.strip()), key=len, reverse=True)
    return re.compile("|".join(map(_one, longest)) if longest else r"(?!)", re.IGNORECASE)


def _one(wording: str) -> str:
    """The pattern of one wording: whole words, where its script has them."""
    text = r"[\s_-]+".join(re.escape(part) for part in re.split(r"[\s_-]+", wording))
    if re.fullmatch(r".*[^aeiou\W\d_]y", wording, re.IGNORECASE):
        text = rf"(?:{text}|{text.removesuffix(wording[-1])}ies)"
    first, last = (re.match(f"[{UNSPACED}]", wording[at]) is not None for at in (0, -1))
    return f"{'' if first else START}{text}{FORMS}{'' if last else END}"

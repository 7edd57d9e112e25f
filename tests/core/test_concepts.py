"""Which texts name a concept, what they say without it, and what a request may write."""

from __future__ import annotations

import pytest

from lethe.core.concepts import Concept, concepts_of, instead, names, rest, upto, without
from lethe.errors import LetheError, OutOfRange, RequestError, UnknownKey

NAMED = [("a Disk", "disk"), ("two disks", "disk"), ("disk-shaped", "disk"), ("the disk's edge", "disk"), ("two boxes", "box"),
         ("old cities", "city"), ("a van-gogh", "Van Gogh"), ("a <van-gogh> house", "Van Gogh"), ("<cat-toy>", "<cat-toy>"),
         ("画梵高的画", "梵高"), ("by Dali\u0301", "Dal\u00ed")]
SILENT = [("a diskette", "disk"), ("a <cat-toy>", "cat"), ("a category", "cat"), ("sunflower", "flower"), ("days", "dai"),
          ("", "disk")]


@pytest.mark.parametrize(("text", "concept"), NAMED)
def test_a_text_names_a_concept(text: str, concept: str) -> None:
    assert names(text, concept)


@pytest.mark.parametrize(("text", "concept"), SILENT)
def test_a_text_names_no_concept(text: str, concept: str) -> None:
    assert not names(text, concept)


def test_what_is_left_of_a_text() -> None:
    assert without("a <van-gogh> house", "Van Gogh") == "a house" and without("disk", "disk") == ""
    assert without("a house in the style of Van Gogh", "Van Gogh") == "a house"
    assert instead("Disks by a disk's edge", "disk", "square") == "square by a square edge"
    assert upto("a red disk, please", "disk") == "a red disk" and upto("a red cross", "disk") == ""
    both = concepts_of(["disk", {"concept": "Van Gogh", "replacement": "a painter"}])
    assert rest("a disk by Van Gogh", both) == "a by a painter" and rest("a red cross", both) == "a red cross"


def test_what_a_request_may_write() -> None:
    assert concepts_of({"concept": "disk"}) == concepts_of(["disk"]) == (Concept("disk"),)
    one, two = concepts_of({"concept": ["disk", {"concept": "Monet", "synonyms": ["<monet>"], "prompts": ["a pond by <monet>"]}]})
    assert one.asked == ["disk"] and two.asked == ["a pond by <monet>"] and two.wordings == ("Monet", "<monet>")


@pytest.mark.parametrize(("said", "error", "words"), [
    ({"concept": ""}, RequestError, "is empty"), ({"concept": []}, RequestError, "is empty"), (3, RequestError, "is no concept"),
    ({"concept": "x", "prompts": ["a y"]}, RequestError, "does not name"), (["disk", "Disk"], RequestError, "the same concept"),
    ({"concept": ["x"], "prompts": ["x"]}, RequestError, "unclear whose"),
    ({"concept": "x", "synonym": 1}, UnknownKey, "synonyms"),
    ({"concept": "cat", "replacement": "two cats"}, RequestError, "itself"), ({"concept": 3}, OutOfRange, "string"),
])
def test_what_a_request_may_not_write(said: object, error: type[LetheError], words: str) -> None:
    with pytest.raises(error, match=words):
        concepts_of(said)

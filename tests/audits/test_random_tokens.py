"""Reworded prompts: the rules by hand, and a model whose knowledge lies behind another word."""

from __future__ import annotations

from panels import values
from remembering import coloured, hidden, listening

from lethe.audits.diffusion.random_tokens import RandomTokens, measure, misspelled, reworded
from lethe.core.concepts import Concept
from lethe.core.seeds import numpy_generator
from lethe.pools.subject import Subject


def test_misspellings_differ_from_the_word_by_one_slip() -> None:
    for seed in range(20):
        left, doubled, swapped = misspelled("disk", numpy_generator(seed))
        assert len(left) == 3 and len(doubled) == 5 and sorted(swapped) == sorted("disk") and swapped != "disk"
    assert misspelled("ox", numpy_generator(0)) == ["oxx"]


def test_ways_are_seeded_and_keep_or_replace_the_word() -> None:
    cfg = RandomTokens(synonyms=("circle",), tokens=1)
    ways = reworded({"a red disk": Concept("disk")}, cfg, ["q</w>", "zz"], 0)
    assert set(ways["random"]) <= {"q a red disk", "zz a red disk", "a red disk q", "a red disk zz"}
    assert ways["synonym"] == ["a red circle"] and "disk" in ways["phrased"] and "A RED DISK" in ways["phrased"]
    assert all("disk" not in text.split() for text in ways["misspelled"])
    assert ways == reworded({"a red disk": Concept("disk")}, cfg, ["q</w>", "zz"], 0)
    assert "synonym" not in reworded({"a red disk": Concept("disk")}, RandomTokens(), ["q</w>"], 0)


def test_controls() -> None:
    task = coloured()
    original = values(measure, Subject("original", task.original, task))
    fresh = values(measure, Subject("retrained", listening(task, task.retain), task))
    behind = values(measure, Subject("hidden", hidden(task), task), synonyms=("disk",))
    assert original["reworded"].value > 0.3 and original["reworded_phrased"].value > 0.3
    assert fresh["reworded"].value == 0 and fresh["worst"].value == 0
    assert behind["reworded_synonym"].value == 0 and behind["worst"].value > 0.7   # "q a red disk" and its like

"""Names become folders injectively, and never another place."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lethe.core.names import folder_name

ODD = ["con", "nul.txt", "..", ".", "", "~", "x" * 300]
SOME = st.text(max_size=12) | st.text("ab A.-+/\\~:", max_size=8) | st.sampled_from(ODD)


@given(SOME, SOME)
def test_different_names_have_different_folders_below_the_same_place(one: str, other: str) -> None:
    a, b = folder_name(one), folder_name(other)
    assert (a.lower() == b.lower()) == (one == other)
    assert Path("runs", a).resolve().parent == Path("runs").resolve() and len(a) <= 100 and not a.endswith((".", " "))


def test_plain_names_stay_readable() -> None:
    assert folder_name("salun (2) seed 3") == "salun+(2)+seed+3"
    assert folder_name("a-b") == "a-b" and folder_name("a b") == "a+b"

"""What a user writes in YAML: one value a key, bounded, and every fault with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from lethe.core.strict_yaml import parse_yaml, read_yaml
from lethe.errors import RequestError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))


@pytest.mark.parametrize(("text", "words"), [
    ("forget: {label: 3}\nseed: 1\nforget: {label: 4}", ["line 3, column 1", "'forget' stands here twice"]),
    (BOMB, ["line 6", "more than 600,000 values"]),
    ("a: &x [*x]", ["*x stands inside &x"]),
    ("[" * 60 + "]" * 60, ["deeper than 40"]),
    ("a: 1\nb: [1, 2", ["request.yaml, line ", "is not YAML"]),
    ("a: 2020-13-45", ["line 1, column 4", "month must be in 1..12"]),
    ("a: 0x" + "f" * 40, ["does not fit 64 bits"]),
    ("lr: .nan", ["not a number"]),
    ("3: x", ["a key must be text"]),
    ('a: "\\0"', ["cannot stand in a text file"]),
    ("a: !!python/object/apply:os.system [ls]", ["is no type of a request"]),
    ("a: 1\n---\nb: 2", ["another document"]),
])
def test_what_could_be_misread_is_refused_with_its_place(text: str, words: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        parse_yaml(text, "request.yaml")
    for word in ("request.yaml", *words):
        assert word in str(caught.value)


def test_anchors_and_merges_are_read_as_written() -> None:
    assert parse_yaml("x: &a {b: 1, c: 2}\ny: {<<: *a, c: 3}\nz: *a", "-") == {
        "x": {"b": 1, "c": 2}, "y": {"b": 1, "c": 3}, "z": {"b": 1, "c": 2}}


def test_other_encodings_name_the_line(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes("a: 1\nb: ü".encode("latin-1"))
    with pytest.raises(RequestError, match=r"r.yaml is not UTF-8 text \(line 2, byte 0xfc\)"):
        read_yaml(tmp_path / "r.yaml", "the request")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_yaml(tmp_path / "bom.yaml", "the request") == {"a": 1}

"""Config records: what a wrong value is answered, and that choices are types, not comments."""

from __future__ import annotations

import ast
from typing import Literal

import pytest

from lethe.core.catalogue import HOUSE
from lethe.core.config import Count, Positive, config, digest, option_name
from lethe.core.source_text import decorator
from lethe.core.task import Recipe
from lethe.errors import LetheError, OutOfRange, UnknownKey


@config(name="data")
class Sample:
    path: str
    size: Count = 1
    alpha: Positive | Literal["auto"] = 1.0
    layout: Literal["first", "last"] = "first"


@pytest.mark.parametrize(("options", "error", "message"), [
    ({}, OutOfRange, "data needs 'path', which is missing. Provide data.path."),
    ({"layout": "lst"}, OutOfRange, "data needs 'path', which is missing. Provide data.path. data.layout = 'lst': choose first "
                                    "or last (did you mean last?)."),
    ({"path": "x", "sise": 2}, UnknownKey, "'sise' is not an option of data (did you mean size?). "
                                           "Options: path, size, alpha, layout."),
    ({"path": "x", "size": 0}, OutOfRange, "data.size = 0: must be greater than or equal to 1."),
    ({"path": "x", "size": "many"}, OutOfRange, "data.size = 'many': must be a valid integer."),
    ({"path": "x", "layout": "lst"}, OutOfRange, "data.layout = 'lst': choose first or last (did you mean last?)."),
    ({"path": "x", "alpha": -1}, OutOfRange, "data.alpha = -1: choose auto, or a value greater than 0."),
    ({"path": "x", "alpha": "car"}, OutOfRange, "data.alpha = 'car': choose auto, or a valid number."),
])
def test_a_wrong_record_says_value_and_what_to_write(options: dict[str, object], error: type[LetheError], message: str) -> None:
    with pytest.raises(error) as caught:
        Sample(**options)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_a_long_value_is_cut() -> None:
    with pytest.raises(OutOfRange) as caught:
        Sample(path=["x" * 5000])  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


def test_a_choice_is_refused_when_the_record_is_made_not_when_it_is_used() -> None:
    with pytest.raises(OutOfRange, match=r"recipe\.schedule = 'cosin': choose constant, linear, cosine or onecycle"):
        Recipe(schedule="cosin")  # type: ignore[arg-type]


def test_names_of_records() -> None:
    assert option_name(Recipe) == "recipe"
    assert option_name(Sample) == "data"


def test_choices_are_types_not_comments() -> None:
    """A text field whose comment lists choices (`# a | b`) has no help, no schema and no check: it is a Literal."""
    found = []
    for path in HOUSE.rglob("*.py"):
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and decorator(node, "config") is not None:
                found += [f"{path.relative_to(HOUSE)}:{item.lineno}" for item in node.body if isinstance(item, ast.AnnAssign)
                          and ast.unparse(item.annotation) in ("str", "str | None")
                          and " | " in lines[(item.end_lineno or 0) - 1].partition("#")[2]]
    assert not found


def test_a_digest_does_not_depend_on_the_order_of_a_set() -> None:
    assert digest({0, 8}) == digest({8, 0}) == digest(frozenset((8, 0)))

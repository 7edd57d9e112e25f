"""Other values for an option, and what its comment says about when it counts.

A comment may hold one of these marks; without one, another value must change the result, and of named choices (a Literal)
every one must:

    [only with a=1 b=x]       it counts where the other options have these values
    [changes the notes]       … only what the outcome says in words; likewise: the guarantee
    [changes nothing: why]    … nothing beyond rounding, e.g. how much is held in memory at once; this is tested, too
    [e.g. x]                  a value of a text that means something
    [tested in test_foo]      it needs something (a folder, a key) that only that test makes
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from lethe.core.source_text import Option

Tried = Callable[[str], Iterator[tuple[Any, bool]]]   # what is looked at -> (other value, whether it changes that)

EXAMPLE = re.compile(r"\[e\.g\. ([^\]]+)\]")
ONLY, WORDS, NOTHING, ELSEWHERE = (re.compile(pattern) for pattern in (
    r"\[only with ([^\]]+)\]", r"\[changes the (\w+)\]", r"\[changes nothing: [^\]]+\]", r"\[tested in (\w+)\]"))


def counts(owner: str, option: Option, tried: Tried, default: Any) -> None:
    """AssertionError unless other values of an option change what they must by its comment.

    tried    "result", or the word of `[changes the …]` -> (other value, whether it changes that), problem by problem
    default  the value that they are compared with
    """
    apart, comment, name = ELSEWHERE.search(option.comment), option.comment, f"{owner}.{option.name}"
    if apart:
        text = next(Path(__file__).parent.parent.rglob(f"{apart.group(1)}.py")).read_text()
        assert re.search(rf"\b{option.name}\b", text), f"{apart.group(1)} does not mention {option.name}"
        return
    if NOTHING.search(comment):
        found = list(tried("result"))
        assert found and not any(changed for _, changed in found), f"{name} is said to change nothing: {found}"
        return
    words = WORDS.search(comment)
    values: list[Any] = []
    left, any_changed = {*option.choices} - {str(default)}, False
    for value, changed in tried(words.group(1) if words else "result"):
        values.append(value)
        any_changed |= changed
        left -= {str(one) for one in (value if isinstance(value, tuple) else (value,))} if changed else set()
        if any_changed and not left:
            return
    raise AssertionError(f"{name}: {sorted(left) or values} give the same result as {default!r} ({values} tried). Is it used? If "
                         "it counts only besides other options, say so in its comment: [only with option=value]; see "
                         "tests/wiring/values.py")


def companions(comment: str) -> dict[str, Any]:
    """The options that must be set besides: "… [only with a=1 b=x]" -> {"a": 1, "b": "x"}."""
    found = ONLY.search(comment)
    return {key: yaml.safe_load(value) for key, value in (part.split("=", 1) for part in found.group(1).split())} if found else {}


def others(annotation: Any, value: Any, comment: str = "") -> list[Any]:
    """Values near `value` that an annotation may allow; some may be out of its range."""
    example = EXAMPLE.search(comment)
    named: list[Any] = [example.group(1)] if example else []
    if get_origin(annotation) is tuple:
        named = [(text,) for text in named]
    found = [*named, *_others(annotation, value, comment)]
    if NOTHING.search(comment) and type(value) is int:   # no other value ends the search
        found = [value // 2, 10 * value]
    return list(dict.fromkeys(other for other in found if other != value or type(other) is not type(value)))


def _others(annotation: Any, value: Any, comment: str) -> Iterator[Any]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        yield from _others(args[0], value, comment)
    elif origin in (Union, types.UnionType):
        for part in args:
            if part is not type(None):
                yield from _others(part, value if _is_of(part, value) else None, comment)
    elif origin is Literal:
        yield from args
    elif annotation is bool:
        yield not value
    elif annotation is int:
        yield from (1, 2) if value is None else (value + 1, value - 1, 2 * value, value // 2, 1, 10 * value, 0)
    elif annotation is float:
        yield from (0.01, 1.0, 0.3, 0.0) if value is None else (2 * value, value / 2, 0.5, value + 0.1, 1.0, 10.0, 0.0)
    elif origin is tuple:
        if value:
            yield value[:1]
            if not isinstance(value[0], str):
                yield tuple(2 * x for x in value)
                yield tuple(x / 2 for x in value)
        elif get_origin(args[0]) is Literal:
            yield from ((choice,) for choice in get_args(args[0]))
    elif annotation is str:
        yield from re.findall(r"\w+", re.split(r"[;,\[]", comment)[0]) if "|" in comment else ()


def _is_of(part: Any, value: Any) -> bool:
    plain = get_args(part)[0] if get_origin(part) is typing.Annotated else part
    return isinstance(value, plain) if isinstance(plain, type) else value in get_args(part)

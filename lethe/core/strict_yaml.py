"""YAML as people mean it: one value a key, text as keys, no surprises in size. For everything that a user writes in YAML.

Two blocks of one name are an error instead of silently the second; aliases, depth and size are bounded, so that no file of
a few lines fills the memory; numbers fit 64 bits, and text can be written back as UTF-8.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import yaml

from lethe.core.user_files import shown, text_of
from lethe.errors import RequestError

BYTES, NODES, DEPTH = 8_000_000, 600_000, 40   # 100,000 ids of 36 characters are 4 MB; nobody nests deeper than 10
MERGE, LARGEST = "tag:yaml.org,2002:merge", 2**63
PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)   # libyaml's, 8 times faster, where PyYAML was built with it


def read_yaml(path: Path, option: str) -> Any:
    """The value of a file; RequestError with file, line and remedy. option: where the user named it, e.g. --declare."""
    return parse_yaml(text_of(path, option, BYTES, RequestError), shown(path))


def parse_yaml(text: str, origin: str) -> Any:
    """The value of a text: mappings with text keys, lists, text, numbers, booleans, null, dates.

    origin  names the text in messages: its file, or the option on the command line
    """
    if len(text) > BYTES:
        raise RequestError(f"{origin} holds {len(text):,} characters; at most {BYTES:,} are read, so nothing was started. "
                           "Write a shorter one.")
    try:
        _require_bounded(text, origin)
        loader = LOADER(text)
        node = loader.get_single_node()
        return None if node is None else _value(loader, node, origin)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise RequestError(f"{origin}{_place(mark)} is not YAML ({error.problem or error.context}), so nothing was started. "
                           "Correct it there; text with : # [ { or quotes goes into quotes.") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise RequestError(f"{origin} is not YAML ({str(error).splitlines()[0]}), so nothing was started. Correct it.") from None


def _require_bounded(text: str, origin: str) -> None:
    """Counts nodes, an alias as all that it repeats, before anything is built."""
    sizes: dict[str, int] = {}                       # nodes below each anchor that is complete
    total, began = 0, list[tuple[str | None, int]]()   # anchor and count before each collection that is open
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            total, began = total + 1, [*began, (event.anchor, total)]
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            anchor, before = began.pop()
            if anchor:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in began):
                _refuse(event.start_mark, origin, f"*{event.anchor} stands inside &{event.anchor} itself")
            total += sizes.get(event.anchor, 1)
        if len(began) > DEPTH:
            _refuse(event.start_mark, origin, f"it is nested deeper than {DEPTH} levels")
        if total > NODES:
            _refuse(event.start_mark, origin, f"it holds more than {NODES:,} values (repeated ones count each time)")


def _value(loader: Any, node: Any, origin: str) -> Any:
    if not isinstance(node, yaml.ScalarNode) and node.tag not in PLAIN:
        _refuse(node.start_mark, origin, f"{node.tag[:60]} is no type of a request: only mappings, lists and single values are")
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, origin)
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, origin) for item in node.value]
    try:
        value = loader.construct_object(node, deep=True)
    except (ValueError, OverflowError) as error:
        _refuse(node.start_mark, origin, f"{node.value[:40]!r} cannot be read ({str(error).splitlines()[0]})")
    if isinstance(value, bytes):
        _refuse(node.start_mark, origin, "binary values have no place here")
    if isinstance(value, int) and abs(value) >= LARGEST:
        _refuse(node.start_mark, origin, f"{node.value[:40]} does not fit 64 bits")
    if value != value:
        _refuse(node.start_mark, origin, f"{node.value!r} is not a number")
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value)):
        _refuse(node.start_mark, origin, f"{value[:40]!r} holds a character that cannot stand in a text file")
    return value


def _mapping(loader: Any, node: Any, origin: str) -> dict[str, Any]:
    own: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if key_node.tag == MERGE:
            for one in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                if not isinstance(one, yaml.MappingNode):
                    _refuse(one.start_mark, origin, "<< merges mappings only")
                merged = {**_mapping(loader, one, origin), **merged}
            continue
        key = _value(loader, key_node, origin)
        if not isinstance(key, str):
            _refuse(key_node.start_mark, origin, f"a key must be text, and {str(key)[:40]!r} is none: put it into quotes")
        if key in own:
            _refuse(key_node.start_mark, origin, f"{key!r} stands here twice, and only one of them could count")
        own[key] = _value(loader, value_node, origin)
    return {**merged, **own}


def _refuse(mark: Any, origin: str, reason: str) -> NoReturn:
    raise RequestError(f"{origin}{_place(mark)}: {reason}; nothing was started. Correct it there.")


def _place(mark: Any) -> str:
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""

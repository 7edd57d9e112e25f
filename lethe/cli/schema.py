"""`lethe schema`: the JSON Schema of results.json and of request.yaml."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from lethe.errors import unknown_name


def show_schema(what: str) -> None:
    """Print the schema of `results` (results.json) or of `request` (request.yaml)."""
    makers: dict[str, Callable[[], dict[str, Any]]] = {"results": _results, "request": _request}
    if what not in makers:
        raise unknown_name("schema", what, makers)
    print(json.dumps(makers[what](), indent=2, ensure_ascii=False))


def _results() -> dict[str, Any]:
    from lethe.results.schema import json_schema

    return json_schema()


def _request() -> dict[str, Any]:
    from lethe.work.schema import json_schema

    return json_schema()

"""The JSON Schema of a request, from its config records: for completion in an editor and for forms. No torch."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from lethe.core.catalogue import entries
from lethe.core.source_text import Source, located
from lethe.work.request import Request


def json_schema() -> dict[str, Any]:
    """The schema of request.yaml: types, defaults and ranges of the records; a field's comment is its description."""
    made = TypeAdapter(Request).json_schema()
    source = located(Request.__module__)
    assert source is not None
    for name, record in {Request.__name__: made, **made.get("$defs", {})}.items():
        _describe(record, source, name)
    made["properties"]["family"]["enum"] = sorted(entries("families"))
    made["properties"]["model"] = {"anyOf": [{"type": "string"}, made["properties"]["model"]],
                                   "description": "where the model comes from; a text is a folder"}
    made["properties"]["keep"] = {"type": "array", "items": {"type": "string"},
                                  "description": "short for data.keep: prompts that are to stay (diffusion)"}
    made["properties"]["where"] = {"description": "short for modifiers.where: which weights move, e.g. lora"}
    made["required"] = ["model"]     # a diffusers folder tells its family, and needs no data
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _describe(schema: dict[str, Any], source: Source, name: str) -> None:
    record = source.record(name)
    for option in record.options if record else ():
        if option.comment and option.name in schema["properties"]:
            schema["properties"][option.name]["description"] = option.comment

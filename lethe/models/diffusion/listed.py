"""Prompts of a published list, as a request of a text-to-image model names them by data.published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lethe.data import editions
from lethe.data.context import Context
from lethe.errors import RequestError


def listed(published: Mapping[str, Any] | None, given: Mapping[str, object], context: Context) -> dict[str, list[str]]:
    """Part -> prompts: forget, keep, outside, and those that audits alone ask. RequestError for a part that the request gives
    (`given`), too, and for a set of other things.
    """
    found = editions.parts(published, context) if published is not None else {}
    for part, rows in found.items():
        if any("prompt" not in row or "answer" in row for row in rows):
            raise RequestError(f"data.published is of kind {(published or {}).get('kind')!r}, whose part {part} holds no prompts "
                               "for pictures, so nothing could be drawn; nothing was started. Kinds of prompts: prompt_list, "
                               "hub_set.")
        if given.get(part):
            raise RequestError(f"the request and data.published both give prompts for {part}, so it is not clear which are "
                               "meant; nothing was started. Leave one out.")
    return {part: list(dict.fromkeys(str(row["prompt"]) for row in rows)) for part, rows in found.items()}

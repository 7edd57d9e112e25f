"""Older results brought forward: an ordered list of functions, number k from schema k to schema k + 1. No torch.

A schema changes only by a function at the end of `MIGRATIONS`; what was written once stays readable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

SEED = re.compile(r" seed (-?\d+)$")
VARIANT = re.compile(r" \((\d+)\)$")


def name_what_rows_are(data: Mapping[str, Any]) -> dict[str, Any]:
    """1 -> 2: label, method, variant and seed become fields (they stood in a row's name); doubts have their own word."""
    return {**data, "schema": 2, "scenarios": [_scenario(case) for case in data.get("scenarios") or []]}


def _scenario(case: Mapping[str, Any]) -> dict[str, Any]:
    new = {key: value for key, value in case.items() if key != "yardstick_warnings" and value is not None}
    if case.get("yardstick_warnings"):
        new["doubts"] = case["yardstick_warnings"]
    new["subjects"] = [_row(row) for row in case.get("subjects") or []]
    return new


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    new = {key: value for key, value in row.items() if value is not None}
    name, config = str(row["name"]), row.get("config") or {}
    label, method, variant = name, "", 1
    if row.get("role") == "method":
        label = SEED.sub("", name)
        method = str(config.get("name") or VARIANT.sub("", label))
        seeded, counted = SEED.search(name), VARIANT.search(label)
        variant = int(counted[1]) if counted and config.get("name") else 1
        if seeded and row.get("seed") is None:
            new["seed"] = int(seeded[1])
    return {**new, "label": label, "method": method, "variant": variant}


def name_the_correction(data: Mapping[str, Any]) -> dict[str, Any]:
    """2 -> 3: a corrected p-value no longer has Holm in its name. Answers are made of the evidence when they are shown."""
    return {**data, "schema": 3, "scenarios": [
        {**case, "subjects": [{**row, "evidence": [_renamed(item) for item in row.get("evidence") or []]}
                              for row in case.get("subjects") or []]} for case in data.get("scenarios") or []]}


def _renamed(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"p_joint" if key == "p_holm" else key: value for key, value in item.items()}


def name_what_unseen_means(data: Mapping[str, Any]) -> dict[str, Any]:
    """3 -> 4: says which unseen examples the forget set was compared with; of older results that is not known."""
    return {**data, "schema": 4}


def count_looks_and_front(data: Mapping[str, Any]) -> dict[str, Any]:
    """4 -> 5: ladders count the models that the final data judged; of older ones, which stopped at the first, it is not known."""
    return {**data, "schema": 5}


def time_by_the_processor(data: Mapping[str, Any]) -> dict[str, Any]:
    """5 -> 6: references say what the processor took; of older ones that is not known, and costs are shares of wall time."""
    return {**data, "schema": 6}


MIGRATIONS: tuple[Callable[[Mapping[str, Any]], dict[str, Any]], ...] = (name_what_rows_are, name_the_correction,
                                                                            name_what_unseen_means, count_looks_and_front,
                                                                            time_by_the_processor)

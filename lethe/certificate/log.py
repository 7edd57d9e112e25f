"""The log of a certificate: the ledger's entries on the run, as a chain of its own that can be checked without the ledger.

    hash_k = SHA-256(canonical JSON of event k with hash_{k−1})

Each event names its entry in the ledger and that entry's hash; the content of ledger entries stays with the controller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lethe.certificate.canonical import encode, sha256

START = "0" * 64


def chained(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The events with `previous` and `hash`."""
    done: list[dict[str, Any]] = []
    for event in events:
        body = {**event, "previous": done[-1]["hash"] if done else START}
        done.append({**body, "hash": sha256(encode(body))})
    return done


def faults(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first place at which the chain does not hold."""
    previous, entry = START, 0
    for number, event in enumerate(log, start=1):
        body = {key: value for key, value in event.items() if key != "hash"}
        if event.get("previous") != previous:
            return [f"event {number} does not follow from event {number - 1}: events were reordered, removed or added"]
        if sha256(encode(body)) != event.get("hash"):
            return [f"the content of event {number} was changed after it was written"]
        if event["entry"] <= entry:
            return [f"event {number} stands before an earlier entry of the ledger"]
        previous, entry = event["hash"], event["entry"]
    return []

"""A policy: one method with its options, and how often it passed on requests drawn like those to come. No torch.

A yardstick costs many retrainings for each request. Over a stream of requests it is paid once: `lethe calibrate` measures on
drawn requests which method passes, and later requests run by it at its own cost. The policy holds for what it was calibrated on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from lethe.core.config import digest
from lethe.core.user_files import regular
from lethe.errors import RequestError
from lethe.results.ladder import Until
from lethe.results.record import Free, Number, Record

Sort = Literal["class", "records", "group"]
WORDS: Mapping[Sort, str] = {"class": "whole classes", "records": "single records of any kind", "group": "all records of a group"}


class Tried(Record):
    """A method that was tried while the policy was sought."""

    method: str = Field(description="The method.")
    passed: int = Field(description="Requests of the search on which it passed.")
    requests: int = Field(description="Requests of the search.")
    cost: Number = Field(description="Mean cost, in retrainings.")


class Policy(Record):
    """What later requests run by, and what it was calibrated on."""

    version: Literal[1] = Field(default=1, alias="policy", description="Version of this format.")
    until: Until = Field(description="What counted as passed. Forgotten: useful, too.")
    method: str = Field(description="The method.")
    options: Free = Field(default_factory=dict, description="Its options.")
    settings: Free = Field(default_factory=dict, description="Settings of its runs, without seed and device.")
    modifiers: Free = Field(default_factory=dict, description="Modifiers of its runs.")
    cost: Number = Field(description="What a request costs by it, in retrainings.")
    passed: int = Field(description="Drawn requests on which it passed; none of them was used to choose it.")
    requests: int = Field(description="Drawn requests on which it was judged.")
    low: Number = Field(description="Lower end of the exact 95 % interval of the share that passes (Clopper-Pearson).")
    high: Number = Field(description="Upper end.")
    blind: int = Field(default=0, description="Further drawn requests on which no test could have told.")
    family: str = Field(description="Family of the model.")
    sort: Sort = Field(description="What requests name: a class, single records, or a group.")
    column: str = Field(default="", description="The column whose values are the groups.")
    smallest: int = Field(description="The fewest records of a drawn request.")
    largest: int = Field(description="The most.")
    parts: dict[str, str] = Field(description="Digests of what it was calibrated on: model, data, recipe, judging, numbers.")
    tried: tuple[Tried, ...] = Field(default=(), description="The methods among which it was chosen, on requests of their own.")
    created: str = Field(description="When, in UTC (ISO 8601).")

    @property
    def id(self) -> str:
        """Names it: a digest of all that it says."""
        return digest(self.model_dump(mode="json", by_alias=True))

    @property
    def told(self) -> str:
        """What a certificate cites."""
        return (f"by policy {self.id}: {self.method} validated on {self.requests} requests like this, {self.passed} passed "
                f"(exact 95 % interval of the share: {self.low or 0.0:.3g} to {self.high or 0.0:.3g}), each judged against "
                f"retrained models: {self.until}")

    @property
    def expires(self) -> tuple[str, ...]:
        """When it no longer holds."""
        group = f" (column {self.column})" if self.column else ""
        return ("the model, its training data or its recipe is another one",
                f"a request names something else than {WORDS[self.sort]}{group}",
                f"a request names fewer than {self.smallest} or more than {self.largest} records",
                "the version of Lethe's numbers, or what counts as passed, changes")


def load(path: str | Path) -> Policy:
    """A policy from its file. RequestError where it is none, or was edited."""
    path = regular(Path(path), "the policy (lethe calibrate REQUEST makes one)", RequestError)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = Policy.model_validate({key: value for key, value in data.items() if key not in ("id", "expires")})
    except (ValueError, AttributeError, ValidationError) as error:
        raise RequestError(f"{path} holds no policy ({str(error).splitlines()[0][:120]}), so nothing was started. Make one: "
                           "lethe calibrate REQUEST.") from None
    if data.get("id") != found.id:
        raise RequestError(f"{path} says that it is policy {str(data.get('id'))[:40]}, and what it holds is {found.id}: it was "
                           "edited after it was calibrated. Nothing was started; restore the file, or calibrate again.")
    return found


def plain(policy: Policy) -> dict[str, Any]:
    """As it is written: with its id, and when it expires."""
    return {"id": policy.id, **policy.model_dump(mode="json", by_alias=True), "expires": list(policy.expires)}

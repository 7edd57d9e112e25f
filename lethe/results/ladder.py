"""The ladder of a scenario as records: what was tried, from the cheapest, until a model was as requested. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lethe.core.evidence import Reply
from lethe.results.record import Number, Record

Until = Literal["forgotten", "indistinguishable"]
Ended = Literal["reached", "refuted", "not reached", "failed", "not tried"]


class Rung(Record):
    """One method of a ladder. Costs are shares of one retraining: of its steps or of its examples, whichever is more."""

    row: str = Field(description="The row of its model.")
    method: str = Field(description="The method.")
    mechanism: str = Field(default="", description="What drives its forgetting, as the method declares it.")
    expected: Number = Field(description="What it was expected to cost, by a rehearsal.")
    chance: Number = Field(description="The chance that it was given, by what was measured of it elsewhere.")
    passed: int = Field(default=0, description="Measured runs on requests like this that were as requested.")
    runs: int = Field(default=0, description="Measured runs on requests like this.")
    ended: Ended = Field(default="not tried", description="Whether its model was as requested by the search's part of the "
                                                           "data; refuted: not by the data that the search did not see.")
    why: str = Field(default="", description="What it lacks, why it failed, or why it was not tried.")
    cost: Number = Field(default=None, description="What it did cost; null where it was not tried.")
    seconds: Number = Field(default=None, description="Wall time of the run.")
    forgotten: Reply | None = Field(default=None, description="The answer on the search's part of the data.")
    useful: Reply | None = Field(default=None, description="The answer on the search's part of the data.")
    indistinguishable: Reply | None = Field(default=None, description="The answer on the search's part of the data.")


class Ladder(Record):
    """A search for a model that is as requested, from the cheapest method to the dearest."""

    until: Until = Field(description="What the model had to be. Forgotten: useful, too.")
    within: Number = Field(description="What all runs together might cost, in retrainings.")
    rungs: tuple[Rung, ...] = Field(default=(), description="The methods, from the cheapest.")
    spent: Number = Field(default=0.0, description="What all runs together did cost, in retrainings.")
    looks: int = Field(default=0, description="Models that the data were to judge that the search did not see.")
    judging_seconds: Number = Field(default=None, description="Seconds that judging took on the search's part of the data.")
    steps: int = Field(default=0, description="Steps of one retraining.")
    examples: int = Field(default=0, description="Examples of one retraining, sent forward with gradients.")
    overlap: int = Field(default=0, description="Forget examples that judged the rungs and the result: all, where they are few.")
    delivered: str = Field(default="", description="The row of the model that is delivered; empty: none is.")
    met: bool = Field(default=False, description="Whether that model is as requested on data that the search did not see.")
    why: str = Field(default="", description="What is not met, and what retraining would cost; empty where the request is met.")

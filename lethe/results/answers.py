"""The three answers on one model as records, see `lethe.judge.answers`. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lethe.core.evidence import Reply
from lethe.judge.answers import Part
from lethe.results.record import Number, Record


class Decisive(Record):
    """The test that decided an answer."""

    audit: str = Field(description="The audit.")
    metric: str = Field(description="What was measured.")
    value: Number = Field(description="The value of this model.")
    low: Number = Field(default=None, description="Lower end of the band that decides; null: no bound.")
    high: Number = Field(default=None, description="Upper end of that band.")
    size: Number = Field(default=None, description="The value minus the mean of retrained models.")
    detectable: Number = Field(default=None, description="Its power: the smallest difference that it would have seen.")
    share: Number = Field(default=None, description="The size as a share of what the untouched model shows.")
    n: int | None = Field(default=None, description="How many examples it was measured on.")
    p: Number = Field(default=None, description="Its p-value, corrected for the number of tests.")


class Forgotten(Record):
    """Whether any test that detects the untouched model still sees more than retrained models show."""

    answer: Reply = Field(description="yes, no, or cannot be judged.")
    tests: int = Field(default=0, description="Tests that detect the untouched model and tell the sides apart.")
    test: Decisive | None = Field(default=None, description="The test that sees most of what the untouched model shows.")
    why: str = Field(default="", description="Why it cannot be judged.")


class Useful(Record):
    """What was lost of the score on unseen data, and whether that is within the declared margin."""

    answer: Reply = Field(description="yes; no; not shown: the loss is within the margin, its interval not; cannot be judged.")
    lost: Number = Field(default=None, description="What was lost, above 0 where something was.")
    low: Number = Field(default=None, description="Lower end of its 95 % interval.")
    high: Number = Field(default=None, description="Upper end of its 95 % interval.")
    margin: Number = Field(default=None, description="The largest loss that does not matter, as declared.")
    against: Literal["retrained", "original", ""] = Field(default="", description="What it is compared with.")
    metric: str = Field(default="", description="The score.")
    n: int | None = Field(default=None, description="How many examples it was measured on.")
    points: bool = Field(default=False, description="Whether the score lies between 0 and 1; its hundredths are points.")
    why: str = Field(default="", description="Why it cannot be judged.")


class AspectAnswer(Record):
    """Whether one aspect of a model is distinguishable from retrained models."""

    aspect: Part = Field(description="The aspect.")
    answer: Reply = Field(description="Whether it is indistinguishable.")
    tests: int = Field(default=0, description="Tests that could have said no.")
    outside: int = Field(default=0, description="Tests that said no.")
    test: Decisive | None = Field(default=None, description="The test furthest from retrained models.")


class Indistinguishable(Record):
    """Whether any test tells the model from retrained ones, on either side."""

    answer: Reply = Field(description="yes, no, or cannot be judged.")
    tests: int = Field(default=0, description="Tests that could have said no.")
    outside: int = Field(default=0, description="Tests that said no.")
    test: Decisive | None = Field(default=None, description="The test furthest from retrained models.")
    aspects: tuple[AspectAnswer, ...] = Field(default=(), description="The same by aspect.")
    why: str = Field(default="", description="Why it cannot be judged.")


class Answers(Record):
    """The three answers on one model, each with the test that decided."""

    forgotten: Forgotten = Field(description="Whether the forget set is forgotten.")
    useful: Useful = Field(description="Whether the model is still useful.")
    indistinguishable: Indistinguishable = Field(description="Whether it is indistinguishable from retraining.")
    conspicuous: Decisive | None = Field(default=None, description="The test in which it is unlike any model that never saw the "
                                         "data: over-forgotten; null: none.")

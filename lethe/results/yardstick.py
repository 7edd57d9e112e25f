"""What is known of the yardstick: where it comes from, what the tests see beside it, and reasons to doubt it. No torch."""

from __future__ import annotations

from pydantic import Field

from lethe.results.record import Number, Record


class References(Record):
    """The models retrained without the data, which form the yardstick."""

    count: int = Field(default=0, description="How many there are.")
    strategy: str = Field(default="", description="How they were trained: one after the other, by processes, vectorised.")
    seconds_each: Number = Field(default=None, description="Time of one retraining; null where none was done.")
    cpu_seconds_each: Number = Field(default=None, description="The same in time of the processor; null on an accelerator.")
    reason: str = Field(default="", description="Where they come from, or why there are none.")
    neighbours: int = Field(default=0, description="Noisy copies of the original, used where there are no references.")


class FalseAlarms(Record):
    """How many references are called outside when each is compared with the others."""

    outside: int = Field(description="References called outside.")
    of: int = Field(description="References that were compared with the others.")
    low: Number = Field(default=None, description="Lower end of the exact 95 % interval of the rate.")
    high: Number = Field(default=None, description="Upper end of that interval.")


class Dose(Record):
    """A part of the forget set left in, and how often the tests see it."""

    share: float = Field(description="Which part of the forget set answers as in the untouched model, 0 to 1.")
    records: int = Field(description="How many examples that is.")
    detected: int = Field(description="In how many mixtures of answers (untouched, retrained) it was seen.")
    of: int = Field(description="How many mixtures were examined: one for each retrained model, at most 8.")
    by: dict[str, int] = Field(default_factory=dict, description="Metric -> in how many of them it was outside.")


class Power(Record):
    """What the tests of answers would have seen: dose and response, by mixtures that no training was needed for."""

    doses: tuple[Dose, ...] = Field(description="From the smallest part to the largest.")
    smallest: Number = Field(default=None, description="The smallest part that, as every larger one, is seen in at least 4 of 5 "
                             "mixtures; null: not even the largest.")
    audits: tuple[str, ...] = Field(default=(), description="The audits of answers, which were asked.")


class Doubt(Record):
    """A reason to doubt the yardstick."""

    reference: str = Field(default="", description="The reference that is doubted; empty: all of them.")
    metrics: tuple[str, ...] = Field(default=(), description="The metrics that show it.")
    text: str = Field(description="The reason in one sentence.")


class Descent(Record):
    """How near a model that was handed over is to the original: whether one was made of the other."""

    model: str = Field(description="The model's file.")
    distance: Number = Field(default=None, description="Distance of the weights, relative to the original's size or to a common "
                             "start; null: not measured.")
    units: Number = Field(default=None, description="Median correlation of the best-matching hidden units; null: not measured.")
    chance: Number = Field(default=None, description="The same by chance: after the units were mixed at random.")
    based: bool = Field(default=False, description="Whether the distance is relative to a start that both have.")
    close: bool = Field(description="Whether it descends from the original, by these numbers.")
